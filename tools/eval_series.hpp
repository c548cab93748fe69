// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/eval_report.hpp"

namespace neoxref::tools {

/// Which positions are still held at the end, in at most 64 bins: sums of eval::Survival.
struct SurvivalBins {
  std::size_t width = 1;  ///< positions in a bin
  std::size_t layers = 0;
  std::vector<std::uint64_t> entered{};      ///< [bins]
  std::vector<std::uint64_t> held{};         ///< [layers][bins]
  std::vector<std::uint64_t> held_by_age{};  ///< [layers][bins]; `entered` counts ages too
  std::size_t bins() const { return entered.size(); }
};
SurvivalBins survival_bins(const eval::Survival& survival);

/// Slots of a layer after each token of the row's longest window: the mean over the layers that the
/// press does not skip. Empty where nothing is scored.
std::vector<double> mean_length_over_time(const eval::Row& row);

/// The rows of one score and budget: one, or the seeds of a control.
struct Cell {
  std::string score;  ///< "knorm"; of a control "random, 5 seeds" or "recent, control"
  std::string label;  ///< of the budget
  bool control = false;
  std::size_t full_row = 0;
  std::optional<double> keep_ratio{};  ///< none for a budget that is no share
  std::vector<std::size_t> rows{};     ///< indices; at least one, all scored

  /// Means over the rows.
  double log_ratio(const eval::Sweep& sweep) const;
  double mean_bytes(const eval::Sweep& sweep) const;
  /// What an error bar shows: the row's interval, or for several seeds the least and the most.
  std::optional<std::pair<double, double>> spread(const ReportContext& context) const;
  /// Sums over the rows.
  SurvivalBins survival(const eval::Sweep& sweep) const;
  /// Means over the rows; tokens are those of one row.
  std::vector<eval::Bucket> buckets(const eval::Sweep& sweep, eval::By by) const;
};

/// The compressed rows in which something is scored.
std::vector<Cell> cells_of(const eval::Sweep& sweep);

/// Adds to a row of --json what the pictures show and nothing else of it says.
void add_series(nlohmann::ordered_json& entry, const eval::Row& row);

/// All series of all rows as CSV, one value a line: buckets by position, since_cut and cuts, shares
/// held by position and by age, and length over time.
void write_series(const std::string& path, const eval::Sweep& sweep);

}  // namespace neoxref::tools
