// SPDX-License-Identifier: Apache-2.0
#include "eval/plan.hpp"

#include <stdexcept>
#include <string>

namespace neoxref::eval {

Ratio Ratio::parse(std::string_view text) {
  Ratio ratio{0, 1};
  bool fraction = false;
  std::size_t digits = 0;
  for (const char c : text) {
    if (c == '.' && !fraction) {
      fraction = true;
    } else if (c >= '0' && c <= '9' && digits < 10) {
      ratio.numerator = ratio.numerator * 10 + static_cast<std::uint64_t>(c - '0');
      if (fraction) ratio.denominator *= 10;
      ++digits;
    } else {
      digits = 11;
    }
  }
  if (digits == 0 || digits > 10 || ratio.numerator == 0 || ratio.numerator > ratio.denominator) {
    throw std::invalid_argument(
        "keep_ratio: expected a decimal number above 0 and at most 1, found " + std::string(text));
  }
  return ratio;
}

std::vector<PlannedCut> plan(std::size_t tokens, std::size_t untouched, std::size_t prune_after,
                             Ratio keep_ratio) {
  std::vector<PlannedCut> cuts;
  if (keep_ratio.numerator == keep_ratio.denominator) return cuts;
  std::size_t slots = 0;
  for (std::size_t token = 0; token < tokens; ++token) {
    ++slots;
    if (token < untouched || slots <= prune_after) continue;
    const std::size_t product = slots * keep_ratio.numerator;
    const std::size_t after =
        product / keep_ratio.denominator + (product % keep_ratio.denominator != 0 ? 1 : 0);
    if (after < slots) cuts.push_back({token, slots, after});
    slots = after;
  }
  return cuts;
}

}  // namespace neoxref::eval
