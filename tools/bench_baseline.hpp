// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace neoxref::tools {

/// An earlier document of bench --json, as far as it is compared: object, rows, figures.
/// Errors: Error when the file is something else.
nlohmann::ordered_json read_baseline(const std::string& path);

/// Rows of `now` beside the same rows of `before`, for people. ok: none has other logits, or is slower
/// beyond noise: its median lower by more than `tolerance` (0.1: 10 %), and its fastest round slower than
/// the earlier median.
struct Comparison {
  bool ok = true;
  std::string text;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
};
/// Errors: Error when `before` has no row in common with `now`.
Comparison compare_rows(const nlohmann::ordered_json& now, const nlohmann::ordered_json& before,
                        const std::string& before_name, double tolerance);

}  // namespace neoxref::tools
