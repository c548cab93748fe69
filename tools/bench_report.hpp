// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "eval/bench_press.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {

/// What the machine can do, as measured in this run.
struct MeasuredLimits {
  double flops_per_second;
  double bytes_per_second;  ///< of reading as many bytes as the row touches
};

/// A row of --json for prefill (key "prompt") or decode (key "context").
nlohmann::ordered_json speed_row(const eval::SpeedArm& arm, const char* kind, const char* key,
                                 std::size_t tokens, const MeasuredLimits& limits);

/// A row of kind "press" for each variant. copy_per_second: what memcpy moves of as many bytes as a
/// cut keeps, by variant; 0 where nothing was cut.
std::vector<nlohmann::ordered_json> press_rows(const eval::PressGroup& group,
                                               const std::vector<double>& copy_per_second);

/// A limit as an entry of "limits".
nlohmann::ordered_json limit_row(const eval::LimitArm& arm, std::size_t threads);

/// The document as tables.
std::string report_text(const nlohmann::ordered_json& document);

/// Rows of `now` beside the same rows of `before`, for people; ok: none is slower by more than
/// `tolerance` (0.1: 10 %), or has other logits.
struct Comparison {
  bool ok = true;
  std::string text;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
};
/// Errors: Error when `before` is no document of bench, or has no row in common with `now`.
Comparison compare_rows(const nlohmann::ordered_json& now, const nlohmann::ordered_json& before,
                        const std::string& before_name, double tolerance);

}  // namespace neoxref::tools
