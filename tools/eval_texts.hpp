// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer.hpp"
#include "eval/sweep.hpp"
#include "tools/command_line.hpp"

namespace neoxref::tools {

/// What `eval` reads: --text, --dataset, --unit, --task.
struct TextOptions {
  std::vector<std::string> files;
  std::string dataset;
  std::optional<std::string> unit;
  std::string task;

  void add_to(CommandLine app);
  void add_task_to(CommandLine app);
  /// Tokens of every text, with their bytes and words. Usage errors for options that do not go
  /// together. Errors: Error.
  std::vector<eval::Text> read(const engine::Tokenizer& tokenizer) const;
  /// "--dataset wikitext --unit article", for people.
  std::string text() const;
};

}  // namespace neoxref::tools
