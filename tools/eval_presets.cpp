// SPDX-License-Identifier: Apache-2.0
#include "tools/eval_presets.hpp"

#include <algorithm>

namespace neoxref::tools {

std::span<const Preset> presets() {
  static const std::vector<Preset> all = {
      {"study-1",
       eval::Protocol::all,
       256,
       32,
       {"1", "0.95", "0.9", "0.8", "0.7"},
       {{"study", {60.81, 240.87, 176.28, 143.87, 140.67}}}},
      {"study-2",
       eval::Protocol::all,
       512,
       512,
       {"1", "0.95", "0.9", "0.8", "0.7"},
       {{"study, WikiText", {75.03, 75.03, 75.03, 75.03, 75.03}},
        {"study, PG-19", {39.49, 39.49, 39.49, 39.49, 39.49}}}},
      {"study-final",
       eval::Protocol::two_phase,
       1024,
       256,
       {"1", "0.9", "0.5", "0.1"},
       {{"study, WikiText", {75.03, 84.55, 89.41, 161.37}},
        {"study, PG-19", {39.72, 57.48, 50.59, 51.73}}}},
  };
  return all;
}

const Preset* find_preset(const std::string& name) {
  const auto all = presets();
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const Preset& preset) { return preset.name == name; });
  return found == all.end() ? nullptr : &*found;
}

void apply(const Preset& preset, PressOptions& press, eval::Layout& layout) {
  press.keep_ratios = preset.keep_ratios;
  press.keep_slots = {};
  press.keep_bytes = {};
  press.scores = {engine::Score::knorm};
  press.trigger = engine::Trigger::reaches;
  press.prune_afters = {preset.prune_after};
  press.interval = 0;
  press.sinks = 0;
  press.recent = 0;
  press.positions = engine::Positions::original;
  press.order = engine::Order::time;
  press.skip_layers = {0};
  layout = {preset.protocol, preset.max_tokens, 0, false};
}

bool is_pythia_70m(const engine::Config& config) {
  return config.layers == 6 && config.hidden == 512 && config.heads == 8 && config.vocab == 50304;
}

}  // namespace neoxref::tools
