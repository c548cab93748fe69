// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/attention_analysis.hpp"
#include "eval/sweep.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {

/// What `analyze` found.
struct AnalysisReport {
  const engine::Model& model;
  std::span<const eval::Text> texts;
  std::size_t max_tokens;
  std::string settings;                    ///< of the texts, for people
  std::optional<eval::Analysis> analysis;  ///< none where every score is made of attention
  std::optional<eval::Sweep> future;       ///< of --future
};

/// Rows of --future that cut as the reference did, and how they stand to it on the same tokens.
struct Rival {
  const eval::Row* row;
  const eval::Row* reference;
  double log_ratio;  ///< mean of nll - nll of the reference
  std::optional<eval::Interval> interval;
};
/// Of every compressed row. The reference itself is among them.
std::vector<Rival> rivals(const eval::Sweep& sweep);

/// Tables for people.
void show_analysis(const AnalysisReport& report);

/// The document of --json.
nlohmann::ordered_json analysis_json(const AnalysisReport& report);

/// One line for each window, score, layer and head.
void write_analysis_csv(const std::string& path, const AnalysisReport& report);

}  // namespace neoxref::tools
