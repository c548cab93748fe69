// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
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

/// How many slots a cut leaves: a share of them, a number, or as many as fit in some bytes.
struct Budget {
  KeepRatio keep_ratio;
  std::size_t slots = 0;  ///< if not 0: this many, instead of the share
  std::size_t bytes = 0;  ///< if not 0: of keys and values of one layer, all heads; Press::resolve
                          ///< makes slots of it

  std::size_t of(std::size_t length) const {
    return slots > 0 ? (slots < length ? slots : length) : keep_ratio.of(length);
  }
  /// True for a budget that can cut nothing.
  bool keeps_all() const { return slots == 0 && bytes == 0 && keep_ratio.keeps_all(); }
  /// "0.9", "64 slots", "65536 bytes".
  std::string text() const;
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
  random_fresh,    ///< drawn anew at each cut
  observed,        ///< mean attention that the slot drew from the queries that saw it
  observed_sum,    ///< its sum (H2O)
  tova,            ///< attention of the last query, mean over the heads: one ranking for a layer
  snapkv,          ///< mean attention of the last queries, smoothed over neighbouring slots
  own              ///< Press::own
};
inline constexpr std::size_t score_count = 16;
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

/// How a cut leaves the slots that it keeps.
enum class Order : std::uint8_t {
  time,  ///< as they entered
  score  ///< the best first, as a plain top-k leaves them: here to show what that does
};
std::string_view order_name(Order order);
Order parse_order(std::string_view name);

/// What a score of the caller's own may look at: a layer at a cut.
struct LayerSlots {
  std::size_t layer;
  std::size_t heads;
  std::size_t slots;  ///< of every head
  std::size_t head_dim;
  std::span<const float> keys;              ///< [heads, slots, head_dim], after rotary
  std::span<const float> values;            ///< [heads, slots, head_dim]
  std::span<const float> key_norms;         ///< [heads, slots], as stored when the keys entered
  std::span<const std::int32_t> positions;  ///< [heads, slots], of the token in its text
};

/// A score of the caller's own.
class OwnScore {
public:
  virtual ~OwnScore() = default;
  virtual std::string name() const = 0;
  /// True if a slot's score depends on its own key, value, norm and position only.
  virtual bool is_static() const = 0;
  /// scores  out: [heads, slots], higher is kept, ties go to the lower slot; none may be NaN.
  /// Called by the thread that calls Model::forward, at each cut of each layer. What it throws comes
  /// out of forward; the sequence is stopped then.
  virtual void score(const LayerSlots& slots, std::span<float> scores) const = 0;
};

/// What a sequence must keep beside keys and values for a press to work.
struct Extras {
  std::size_t raw_dims = 0;          ///< rotary dims before they turned
  bool attention_sums = false;       ///< the attention that each slot has drawn so far
  std::size_t attention_window = 0;  ///< the attention of this many last queries
};
/// Enough for both.
Extras operator|(const Extras& a, const Extras& b);

/// A rule that shortens the cache: score x budget x trigger x protection.
struct Press {
  Score score = Score::knorm;
  std::shared_ptr<const OwnScore> own;  ///< of score `own`
  Budget budget;
  std::vector<Budget> layer_budgets;  ///< one for each layer, instead of `budget`; empty: none
  Trigger trigger = Trigger::exceeds;
  std::size_t prune_after = 0;
  std::size_t interval = 0;  ///< of trigger `every`; at least 1 there
  std::size_t sinks = 0;     ///< the first slots, always kept
  std::size_t recent = 0;    ///< the last slots, always kept
  Positions positions = Positions::original;
  Order order = Order::time;
  std::vector<std::size_t> skip_layers = {0};  ///< never cut
  std::uint64_t seed = 0;                      ///< of the random scores
  std::size_t window = 32;                     ///< queries that snapkv looks at
  std::size_t pool = 5;                        ///< slots that snapkv smooths over; odd

  /// Errors: Error for a rule that contradicts itself or a model of this shape.
  void check(std::size_t layers, std::size_t head_dim, std::size_t rotary_dims) const;

  /// Turns budgets of bytes into slots: floor(bytes / slot_bytes), at least 1.
  /// slot_bytes  of one slot in all heads of a layer: heads * head_dim * 8.
  void resolve(std::size_t slot_bytes);

  /// As the score is called: score_name, or the own score's name.
  std::string name() const;
  /// All of the rule in one line; two presses with the same text do the same.
  std::string text() const;
  bool skips(std::size_t layer) const;
  const Budget& budget_of(std::size_t layer) const {
    return layer_budgets.empty() ? budget : layer_budgets[layer];
  }
  /// "0.9", or those of the layers with colons between.
  std::string budget_text() const;
  /// True for a press that can cut nothing in this layer.
  bool keeps_all(std::size_t layer) const { return skips(layer) || budget_of(layer).keeps_all(); }
  /// Slots that a cut of a layer of this length leaves: the budget, or the protected ones where they
  /// are more. Budgets of bytes must have been resolved.
  std::size_t keep(std::size_t layer, std::size_t length) const;
  /// True where the protected slots exceed the budget.
  bool protection_wins(std::size_t layer, std::size_t length) const;
  /// What a sequence must keep for this press. The first token must find it there already.
  Extras extras(std::size_t rotary_dims) const;
};

}  // namespace neoxref::engine
