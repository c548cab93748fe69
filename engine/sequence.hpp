// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "engine/attended.hpp"
#include "engine/kv_cache.hpp"
#include "engine/press.hpp"
#include "engine/tensors.hpp"

namespace neoxref::engine {

/// One cut of one layer; its heads are cut to the same length, each by its own ranking.
struct Cut {
  std::size_t layer;
  std::size_t position;  ///< of the last token that had entered
  std::size_t before;    ///< slots per head
  std::size_t after;
  bool protection_won;                ///< the protected slots were more than the budget
  std::vector<std::int32_t> dropped;  ///< [heads, before - after], original positions; only where
                                      ///< Sequence::log_dropped
};

/// One text on its way through a model: its cache, its press, and how far it is.
class Sequence {
public:
  /// capacity in slots per head; extras: those of the presses to come (Press::extras).
  /// pool, Errors: as KvCache.
  Sequence(const CacheShape& shape, std::size_t capacity, const Extras& extras = {},
           std::shared_ptr<PagePool> pool = nullptr);

  /// A copy that goes on independently: cache, attention drawn, press, cuts; without the watchers.
  Sequence fork() const;

  /// From the next token on. What this press does not need of the attention drawn is forgotten, so a
  /// later press cannot ask for it. Errors: Error for a press that contradicts itself or this sequence.
  void set_press(const Press& press, std::size_t rotary_dims);
  const std::optional<Press>& press() const { return press_; }
  /// The rotary dims that set_press was told; 0 without a press.
  std::size_t rotary_dims() const { return rotary_dims_; }

  /// What decides when the next cut is due, beside the cache.
  struct Progress {
    std::size_t since_press;  ///< tokens that entered under the press
    bool prompt_ended;        ///< and the cut that this asks for has not been considered
    bool considered;          ///< cuts before the next token have been made
  };
  Progress progress() const { return {since_press_, prompt_ended_, considered_}; }
  /// Goes on where another sequence with this cache stood. Errors: Error for a press that contradicts
  /// itself or needs what this sequence does not keep.
  void resume(const std::optional<Press>& press, std::size_t rotary_dims, const Progress& progress);

  /// Says that the prompt has entered: the trigger `after-prompt` cuts before the next token.
  void end_prompt() { prompt_ended_ = true; }

  /// Position that the key of a token turns by: the token is `offset` tokens after the last one that
  /// has entered, and its slot in this head is `slot`.
  std::size_t rotary_position(std::size_t slot, std::size_t offset) const;

  /// True if somebody wants to know who attends to what.
  bool watched() const { return attended.has_value() || watcher != nullptr; }

  /// Most slots that the layer holds at one time while `tokens` more enter.
  std::size_t peak(std::size_t layer, std::size_t tokens) const;

  // What a forward pass asks and tells. Cuts happen between tokens: before_token says which are due
  // before the next one enters (asked once at each place), after_token those due behind the last.
  bool layer_due_before_token(std::size_t layer) const;
  bool layer_due_after_token(std::size_t layer) const;
  bool considered() const { return considered_; }
  void set_considered() { considered_ = true; }
  void enter(std::size_t tokens);
  /// Tokens that may enter in one go; at least 1, SIZE_MAX without a press.
  std::size_t tokens_until_cut() const;

  KvCache cache;
  std::optional<Attended> attended;     ///< only where asked for
  AttentionWatcher* watcher = nullptr;  ///< sees all attention, if set; not owned
  TensorWatcher* tensors = nullptr;     ///< sees the tensors it wants, if set; not owned
  bool log_dropped = false;             ///< cuts say what they dropped
  std::size_t position = 0;             ///< tokens that have entered
  std::vector<Cut> cuts;
  std::vector<std::size_t> cut_counts;  ///< of each layer
  bool stopped = false;                 ///< a value was not finite; nothing more can enter

private:
  explicit Sequence(KvCache forked) : cache(std::move(forked)) {}
  void adopt(const Press& press, std::size_t rotary_dims);

  /// What the triggers depend on, of one layer.
  struct State {
    std::size_t length;
    std::size_t since_press;
  };
  bool due_before(const State& state) const;
  bool due_after(const State& state) const;
  std::size_t until_cut(const State& state) const;
  State state(std::size_t layer) const { return {cache.longest(layer), since_press_}; }

  std::optional<Press> press_;
  std::size_t rotary_dims_ = 0;
  std::size_t since_press_ = 0;  ///< tokens that entered under the press
  bool prompt_ended_ = false;    ///< and the cut that this asks for has not been considered
  bool considered_ = false;      ///< cuts before the next token have been made
};

}  // namespace neoxref::engine
