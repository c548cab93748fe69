// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "engine/kv_cache.hpp"
#include "engine/press.hpp"

namespace neoxref::engine {

/// One cut of one layer; its heads are cut to the same length, each by its own ranking.
struct Cut {
  std::size_t layer;
  std::size_t position;  ///< of the last token that had entered
  std::size_t before;    ///< slots per head
  std::size_t after;
};

/// One text on its way through a model: its cache, its press, and how far it is.
class Sequence {
public:
  /// capacity in slots per head; raw_dims: rotary dims to keep unrotated, which `rerotate` needs.
  /// Errors: as KvCache.
  Sequence(const CacheShape& shape, std::size_t capacity, std::size_t raw_dims = 0)
      : cache(shape, capacity, raw_dims), cut_counts(shape.layers, 0) {}

  /// A copy that goes on independently: cache, press, cuts.
  Sequence fork() const;

  /// From the next token on. Errors: Error for a press that contradicts itself or this sequence.
  void set_press(const Press& press, std::size_t rotary_dims);
  const std::optional<Press>& press() const { return press_; }
  /// The rotary dims that set_press was told; 0 without a press.
  std::size_t rotary_dims() const { return rotary_dims_; }

  /// Says that the prompt has entered: the trigger `after-prompt` cuts before the next token.
  void end_prompt() { prompt_ended_ = true; }

  /// Position that the key of a token turns by: the token is `offset` tokens after the last one that
  /// has entered, and its slot in this head is `slot`.
  std::size_t rotary_position(std::size_t slot, std::size_t offset) const;

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
  std::size_t position = 0;  ///< tokens that have entered
  std::vector<Cut> cuts;
  std::vector<std::size_t> cut_counts;  ///< of each layer
  bool stopped = false;                 ///< a value was not finite; nothing more can enter

private:
  explicit Sequence(KvCache forked) : cache(std::move(forked)) {}

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
