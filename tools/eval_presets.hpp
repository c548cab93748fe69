// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/config.hpp"
#include "eval/protocol.hpp"
#include "tools/press_options.hpp"

namespace neoxref::tools {

/// The three experiments of the KnormPress study on Pythia-70M, with every choice fixed.
struct Preset {
  const char* name;
  eval::Protocol protocol;
  std::size_t max_tokens;
  std::size_t prune_after;
  std::vector<std::string> keep_ratios;
  struct Column {
    const char* title;
    std::vector<double> perplexities;  ///< of keep_ratios, as the study gives them
  };
  std::vector<Column> study;
};
std::span<const Preset> presets();
/// Null for an unknown name.
const Preset* find_preset(const std::string& name);

/// Score knorm, trigger reaches, layer 0 skipped, original positions, nothing protected, and what the
/// preset says.
void apply(const Preset& preset, PressOptions& press, eval::Layout& layout);

/// 6 layers, hidden 512, 8 heads, vocabulary 50,304: the shape the study used.
bool is_pythia_70m(const engine::Config& config);

}  // namespace neoxref::tools
