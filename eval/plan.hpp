// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/press.hpp"

namespace neoxref::eval {

struct PlannedCut {
  std::size_t token;   ///< index of the last token that had entered
  std::size_t before;  ///< slots
  std::size_t after;
  bool operator==(const PlannedCut&) const = default;
};

/// keep_ratio = numerator / denominator.
struct Ratio {
  std::uint64_t numerator;
  std::uint64_t denominator;
  /// Reads "0.9", "1". Errors: std::invalid_argument.
  static Ratio parse(std::string_view text);
};

/// The cuts of a layer that is not skipped, when `tokens` tokens enter of which the first `untouched`
/// enter before the press is set, and are its prompt. layer matters where budgets are given layer by
/// layer; budgets of bytes must have been resolved. Integer arithmetic that shares no code with the
/// engine: it predicts a run before it starts, and every run is held to it.
std::vector<PlannedCut> plan(const engine::Press& press, std::size_t tokens, std::size_t untouched,
                             std::size_t layer = 0);

}  // namespace neoxref::eval
