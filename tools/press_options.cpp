// SPDX-License-Identifier: Apache-2.0
#include "tools/press_options.hpp"

#include "engine/error.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {

void PressOptions::add_to(CLI::App& app, bool many) {
  auto* option = app.add_option("--keep-ratio", keep_ratios,
                                many ? "Shares of the slots that a cut keeps, such as 1,0.9,0.5,0.1"
                                     : "Compress the cache: share of the slots that a cut keeps");
  if (many) {
    option->delimiter(',');
  } else {
    option->expected(1);
  }
  app.add_option("--prune-after", prune_after,
                 "A layer that is longer than this after a token entered is cut")
      ->capture_default_str();
  app.add_option("--skip-layers", skip_layers, "Layers that are never cut, such as 0,1, or none")
      ->capture_default_str();
  app.add_flag("--allow-no-cuts", allow_no_cuts,
               "Do not exit with 3 when a compressed run was never cut");
}

std::vector<std::size_t> PressOptions::skipped(const engine::Config& config) const {
  std::vector<std::size_t> layers;
  if (skip_layers == "none") return layers;
  for (const std::int32_t layer : parse_ids(skip_layers, "--skip-layers")) {
    if (layer < 0 || static_cast<std::size_t>(layer) >= config.layers) {
      throw engine::Error("--skip-layers", "no such layer",
                          "0 to " + std::to_string(config.layers - 1), std::to_string(layer));
    }
    layers.push_back(static_cast<std::size_t>(layer));
  }
  return layers;
}

std::optional<engine::Press> PressOptions::make(const engine::Config& config) const {
  if (keep_ratios.empty()) return std::nullopt;
  return engine::Press{engine::KeepRatio::parse(keep_ratios.front()), prune_after, skipped(config)};
}

}  // namespace neoxref::tools
