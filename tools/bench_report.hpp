// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "eval/bench_press.hpp"

namespace neoxref::tools {

/// What the machine can do, as measured in this run.
struct MeasuredLimits {
  double flops_per_second;
  double bytes_per_second;  ///< of reading as many bytes as the row touches
};

/// A row of --json.
nlohmann::ordered_json speed_row(const eval::PrefillArm& arm, const MeasuredLimits& limits);
nlohmann::ordered_json speed_row(const eval::DecodeArm& arm, const MeasuredLimits& limits);

/// "prefill 512, batch 1, 2 threads": a row of prefill or decode, for people.
std::string speed_name(const nlohmann::ordered_json& row);

/// What each kernel took of the time of all threads while `arm` was measured, by share: products and
/// attention beside the limits, which are those of as many threads. The last row is what no kernel took.
nlohmann::ordered_json kernel_rows(const eval::SpeedArm& arm, const MeasuredLimits& limits);

/// A row of kind "press" for each variant. copy_per_second: what memcpy moves of as many bytes as a
/// cut keeps, by variant; 0 where nothing was cut.
std::vector<nlohmann::ordered_json> press_rows(const eval::PressGroup& group,
                                               const std::vector<double>& copy_per_second);

/// A limit as an entry of "limits".
nlohmann::ordered_json limit_row(const eval::LimitArm& arm, std::size_t threads);

/// The document as tables.
std::string report_text(const nlohmann::ordered_json& document);

}  // namespace neoxref::tools
