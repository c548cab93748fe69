// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/press.hpp"
#include "engine/sequence.hpp"

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

/// Holds the log of a run to its plan: every cut of every layer, none in a layer that is skipped.
/// where  names the run in an error. Errors: Error for the first layer that differs.
void check_against_plan(const engine::Press& press, std::size_t layers, std::size_t tokens,
                        std::size_t untouched, std::span<const engine::Cut> log,
                        std::string_view where);

}  // namespace neoxref::eval
