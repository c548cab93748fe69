// SPDX-License-Identifier: Apache-2.0
#include "eval/plan.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "engine/error.hpp"

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

std::vector<PlannedCut> plan(const engine::Press& press, std::size_t tokens, std::size_t untouched,
                             std::size_t layer) {
  using engine::Trigger;
  std::vector<PlannedCut> cuts;
  const engine::Budget& budget =
      press.layer_budgets.empty() ? press.budget : press.layer_budgets.at(layer);
  const Ratio ratio = Ratio::parse(budget.keep_ratio.text());
  std::size_t slots = 0;
  const auto cut = [&](std::size_t token) {
    std::size_t after = budget.slots;
    if (after == 0) {
      const std::size_t product = slots * ratio.numerator;
      after = product / ratio.denominator + (product % ratio.denominator != 0 ? 1 : 0);
    }
    if (after < press.sinks + press.recent) after = press.sinks + press.recent;
    if (after >= slots) return;
    cuts.push_back({token, slots, after});
    slots = after;
  };
  for (std::size_t token = 0; token < tokens; ++token) {
    const bool pressed = token >= untouched;
    if (pressed && press.trigger == Trigger::reaches && slots >= press.prune_after) cut(token - 1);
    if (token == untouched && press.trigger == Trigger::after_prompt) cut(token - 1);
    ++slots;
    if (pressed && press.trigger == Trigger::exceeds && slots > press.prune_after) cut(token);
    if (pressed && press.trigger == Trigger::every &&
        (token - untouched + 1) % press.interval == 0) {
      cut(token);
    }
  }
  return cuts;
}

namespace {

std::string describe(const std::vector<PlannedCut>& cuts, std::size_t index) {
  std::string text = std::to_string(cuts.size()) + (cuts.size() == 1 ? " cut" : " cuts");
  if (index >= cuts.size()) return text;
  const PlannedCut& cut = cuts[index];
  return text + ", number " + std::to_string(index + 1) + " after token " +
         std::to_string(cut.token) + ", " + std::to_string(cut.before) + " to " +
         std::to_string(cut.after) + " slots";
}

}  // namespace

void check_against_plan(const engine::Press& press, std::size_t layers, std::size_t tokens,
                        std::size_t untouched, std::span<const engine::Cut> log,
                        std::string_view where) {
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::vector<PlannedCut> expected;
    if (!press.skips(layer)) expected = plan(press, tokens, untouched, layer);
    std::vector<PlannedCut> happened;
    for (const engine::Cut& cut : log) {
      if (cut.layer == layer) happened.push_back({cut.position, cut.before, cut.after});
    }
    if (happened == expected) continue;
    const auto [one, other] =
        std::mismatch(expected.begin(), expected.end(), happened.begin(), happened.end());
    const auto index = static_cast<std::size_t>(one - expected.begin());
    throw engine::Error(where,
                        "the cuts of layer " + std::to_string(layer) + " are not the planned ones",
                        describe(expected, index), describe(happened, index));
  }
}

}  // namespace neoxref::eval
