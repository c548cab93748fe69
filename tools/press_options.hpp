// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/config.hpp"
#include "engine/press.hpp"

namespace neoxref::tools {

/// --keep-ratio, one ratio or a list of them. Usage errors for what is no ratio.
CLI::Option* add_keep_ratio(CLI::App& app, std::vector<std::string>& ratios, bool many,
                            const std::string& help);

/// --keep-ratio --prune-after --skip-layers --allow-no-cuts
struct PressOptions {
  std::vector<std::string> keep_ratios;
  std::size_t prune_after = 256;
  std::vector<std::size_t> skip_layers = {0};
  bool allow_no_cuts = false;

  /// many: --keep-ratio takes a list.
  void add_to(CLI::App& app, bool many);
  /// Usage error when one of the others was given without --keep-ratio.
  void check_usage() const;
  /// Layers that are never cut. Errors: Error when the model has no such layer.
  const std::vector<std::size_t>& skipped(const engine::Config& config) const;
  /// The press, or none when no keep_ratio was given. Errors: Error.
  std::optional<engine::Press> make(const engine::Config& config) const;

private:
  std::vector<CLI::Option*> dependent_;
};

}  // namespace neoxref::tools
