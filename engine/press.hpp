// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace neoxref::engine {

/// A decimal number in (0, 1] as an exact fraction, so that "0.9 of 257 slots" has one answer.
class KeepRatio {
public:
  KeepRatio() = default;
  /// Decimal text such as "0.9" or "1", at most 9 digits after the point.
  /// Errors: Error for anything else, and for 0 and values above 1.
  static KeepRatio parse(std::string_view text);

  /// ceil(length * p / q) in integers, at least 1 (0 for length 0).
  std::size_t of(std::size_t length) const;
  bool keeps_all() const { return numerator_ == denominator_; }
  double value() const {
    return static_cast<double>(numerator_) / static_cast<double>(denominator_);
  }
  /// As it was written.
  const std::string& text() const { return text_; }

private:
  std::uint64_t numerator_ = 1;
  std::uint64_t denominator_ = 1;
  std::string text_ = "1";
};

/// Which slots are worth keeping: higher is kept, ties to the lower slot. Formulas, rounding and
/// sources: docs/presses.md.
enum class Score : std::uint8_t {
  knorm,           ///< -|k|: KnormPress
  knorm_high,      ///< |k|: the control
  knorm_rot,       ///< -|k| over the rotary dims
  knorm_pass,      ///< -|k| over the others
  knorm_centered,  ///< -|k|, the key's bias taken off the dims that do not rotate
  vnorm,           ///< |v|
  vk_ratio,        ///< |v| / |k|
  recent,          ///< the original position
  keydiff,         ///< minus the cosine to the mean direction of the keys
  random,          ///< drawn once for (seed, layer, head, position)
  random_fresh     ///< drawn anew at each cut
};
std::string_view score_name(Score score);
/// Errors: Error naming the scores there are.
Score parse_score(std::string_view name);

/// When a layer is cut, with P = prune_after.
enum class Trigger : std::uint8_t {
  exceeds,       ///< after a token has entered: layers longer than P
  reaches,       ///< before a token enters: layers of at least P slots
  after_prompt,  ///< once, before the first token that enters after Sequence::end_prompt
  every          ///< after each `interval` tokens that have entered under the press
};
std::string_view trigger_name(Trigger trigger);
Trigger parse_trigger(std::string_view name);

/// Rotary positions once slots are gone.
enum class Positions : std::uint8_t {
  original,     ///< of the token in its text
  rerotate,     ///< slots are renumbered from 0 and their keys turned anew from the unrotated dims
  cache_length  ///< of the next token: slots of the first layer that is not skipped (the trap of
                ///< frameworks that ask the cache how long the text is)
};
std::string_view positions_name(Positions positions);
Positions parse_positions(std::string_view name);

/// A rule that shortens the cache: score x budget x trigger x protection.
struct Press {
  Score score = Score::knorm;
  KeepRatio keep_ratio;   ///< the budget, of the length at the cut
  std::size_t slots = 0;  ///< if not 0: the budget as a number of slots, instead of keep_ratio
  Trigger trigger = Trigger::exceeds;
  std::size_t prune_after = 0;
  std::size_t interval = 0;  ///< of trigger `every`; at least 1 there
  std::size_t sinks = 0;     ///< the first slots, always kept
  std::size_t recent = 0;    ///< the last slots, always kept
  Positions positions = Positions::original;
  std::vector<std::size_t> skip_layers = {0};  ///< never cut
  std::uint64_t seed = 0;                      ///< of the random scores

  /// Errors: Error for a rule that contradicts itself or a model of this shape.
  void check(std::size_t layers, std::size_t head_dim, std::size_t rotary_dims) const;

  bool skips(std::size_t layer) const;
  /// True for a press that can cut nothing by its budget.
  bool keeps_all() const { return slots == 0 && keep_ratio.keeps_all(); }
  /// Slots that a cut of a layer of this length leaves: the budget, or the protected ones where they
  /// are more.
  std::size_t keep(std::size_t length) const;
  /// True where the protected slots exceed the budget.
  bool protection_wins(std::size_t length) const;
};

}  // namespace neoxref::engine
