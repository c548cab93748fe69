// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/config.hpp"
#include "engine/press.hpp"

namespace neoxref::tools {

/// --keep-ratio --prune-after --skip-layers --allow-no-cuts
struct PressOptions {
  std::vector<std::string> keep_ratios;
  std::size_t prune_after = 256;
  std::string skip_layers = "0";
  bool allow_no_cuts = false;

  /// many: --keep-ratio takes a list.
  void add_to(CLI::App& app, bool many);
  /// Layers that are never cut. Errors: Error for text that is not a list, or no such layer.
  std::vector<std::size_t> skipped(const engine::Config& config) const;
  /// The press, or none when no keep_ratio was given. Errors: Error.
  std::optional<engine::Press> make(const engine::Config& config) const;
};

}  // namespace neoxref::tools
