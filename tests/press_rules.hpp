// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/press.hpp"
#include "tests/checkpoints.hpp"

/// Presses of every kind, for tests that hold for all of them.
namespace neoxref::tests {

/// A score of one's own that depends on everything it is shown.
class Mixed : public engine::OwnScore {
public:
  std::string name() const override { return "mixed"; }
  bool is_static() const override { return true; }
  void score(const engine::LayerSlots& slots, std::span<float> scores) const override {
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const float* key = slots.keys.data() + i * slots.head_dim;
      const float* value = slots.values.data() + (i + 1) * slots.head_dim;
      scores[i] = key[0] * value[-1] - slots.key_norms[i] +
                  static_cast<float>((slots.positions[i] + static_cast<int>(slots.layer)) % 3);
    }
  }
};

inline std::string describe(const engine::Press& press) {
  return press.name() + ", " + std::string(engine::trigger_name(press.trigger)) + ", " +
         std::string(engine::positions_name(press.positions)) + ", keep " + press.budget_text() +
         ", order " + std::string(engine::order_name(press.order)) + ", P " +
         std::to_string(press.prune_after) + ", sinks " + std::to_string(press.sinks) +
         ", recent " + std::to_string(press.recent);
}

/// Three rules for every pair of score and trigger (one on a slow machine), all else drawn
/// independently.
inline std::vector<engine::Press> presses() {
  std::vector<engine::Press> all;
  tests::Numbers numbers(20);
  const int rules = std::getenv("NEOXREF_SLOW_MACHINE") != nullptr ? 4 : 12;
  for (int score = 0; score < static_cast<int>(engine::score_count); ++score) {
    for (int trigger = 0; trigger < rules; ++trigger) {
      engine::Press press;
      press.score = static_cast<engine::Score>(score);
      if (press.score == engine::Score::own) press.own = std::make_shared<Mixed>();
      press.trigger = static_cast<engine::Trigger>(trigger % 4);
      press.interval = press.trigger == engine::Trigger::every ? 1 + numbers.below(9) : 0;
      press.positions = static_cast<engine::Positions>(numbers.below(3));
      press.skip_layers.clear();
      if (press.positions != engine::Positions::rerotate && numbers.below(2) == 0)
        press.skip_layers = {1};
      static constexpr const char* ratios[] = {"0.5", "0.9", "0.03", "0.75", "1"};
      const auto budget = [&] {
        engine::Budget drawn;
        drawn.keep_ratio = engine::KeepRatio::parse(ratios[numbers.below(5)]);
        if (numbers.below(4) == 0) drawn.slots = 1 + numbers.below(30);
        if (numbers.below(6) == 0) drawn.bytes = 1 + numbers.below(20000);
        return drawn;
      };
      press.order =
          static_cast<engine::Order>(press.score != engine::Score::tova &&
                                     press.score != engine::Score::snapkv && numbers.below(5) == 0);
      press.budget = budget();
      if (numbers.below(4) == 0) press.layer_budgets = {budget(), budget(), budget()};
      press.window = 1 + numbers.below(12);
      press.pool = 1 + 2 * numbers.below(4);
      press.sinks = numbers.below(2) * numbers.below(6);
      press.recent = numbers.below(2) * numbers.below(6);
      static constexpr std::size_t limits[] = {20, 0, 30};
      press.prune_after = limits[numbers.below(3)];
      press.seed = numbers.next();
      all.push_back(press);
    }
  }
  return all;
}

}  // namespace neoxref::tests
