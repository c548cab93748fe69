// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/config.hpp"
#include "engine/press.hpp"
#include "tools/command_line.hpp"

namespace neoxref::tools {

/// --keep-ratio, one ratio or a list of them, each for all layers or with colons for each layer.
/// Usage errors for what is no ratio.
Option add_keep_ratio(CommandLine app, std::vector<std::string>& ratios, bool many,
                      const std::string& help);

/// --trigger
Option add_trigger(CommandLine app, engine::Trigger& trigger);

/// --score, a list of names.
Option add_scores(CommandLine app, std::vector<engine::Score>& scores, const std::string& help);

/// --skip-layers
Option add_skip_layers(CommandLine app, std::vector<std::size_t>& layers);

/// The options of a press: score x budget x trigger x protection, and positions.
struct PressOptions {
  std::vector<std::string> keep_ratios;
  std::vector<std::string> keep_slots;
  std::vector<std::string> keep_bytes;
  std::vector<engine::Score> scores = {engine::Score::knorm};  ///< one, or a list where `many`
  engine::Trigger trigger = engine::Trigger::exceeds;
  std::vector<std::size_t> prune_afters = {256};  ///< likewise
  std::size_t interval = 0;
  std::size_t sinks = 0;
  std::size_t recent = 0;
  engine::Positions positions = engine::Positions::original;
  engine::Order order = engine::Order::time;
  std::vector<std::size_t> skip_layers = {0};
  std::uint64_t seed = 0;
  std::size_t window = 32;
  std::size_t pool = 5;
  bool allow_no_cuts = false;

  /// many: the budgets, --score and --prune-after take lists.
  /// bench: a command for which a press is an addition, and --order means something else.
  void add_to(CommandLine app, bool many, bool bench = false);
  /// Usage error when another option was given without a budget, or two budgets that exclude each
  /// other.
  void check_usage() const;
  bool given() const { return !keep_ratios.empty() || !keep_slots.empty() || !keep_bytes.empty(); }
  /// The presses, one per prune_after, budget that cuts and score, with a label of the budget each.
  /// Errors: as Press::check.
  std::vector<std::pair<std::string, engine::Press>> make(const engine::Config& config) const;
  /// Everything but the budget, for people: "score knorm, trigger exceeds, ...".
  std::string text() const;
  /// Those given on the command line of the options that say what is cut and when; --allow-no-cuts is
  /// none of them.
  std::vector<std::string> given_names() const;

private:
  std::vector<Option> budgets_;
  std::vector<Option> dependent_;
  bool many_ = false;
};

}  // namespace neoxref::tools
