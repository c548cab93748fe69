// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "eval/statistics.hpp"
#include "eval/sweep.hpp"
#include "tools/eval_presets.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {

/// What a sweep is shown with.
struct ReportContext {
  const engine::Model& model;
  const eval::Sweep& sweep;
  std::string settings;                                    ///< press and texts, for people
  std::string task;                                        ///< empty: perplexity of texts
  const Preset* preset;                                    ///< null: none
  std::vector<std::optional<eval::Interval>> intervals{};  ///< of the rows
};

/// The intervals of all rows.
std::vector<std::optional<eval::Interval>> intervals_of(const eval::Sweep& sweep);

/// "knorm 0.9", with what tells the rows of this sweep apart.
std::string row_name(const eval::Sweep& sweep, const eval::Row& row);

/// Tables for people, at most 100 columns wide.
void show_sweep(const ReportContext& context);

/// The document of --json.
nlohmann::ordered_json sweep_json(const ReportContext& context);

/// {low, high, over, units}, or null.
nlohmann::ordered_json interval_json(const std::optional<eval::Interval>& interval);

/// The fields of a row that hold for all its texts: label, protocol, press, budget.
nlohmann::ordered_json arm_json(const eval::Sweep& sweep, const eval::Row& row);

}  // namespace neoxref::tools
