// SPDX-License-Identifier: Apache-2.0
#include "engine/sequence.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "engine/error.hpp"

namespace neoxref::engine {
namespace {

constexpr std::size_t never = std::numeric_limits<std::size_t>::max();

bool heads_agree(const KvCache& cache, std::size_t layer) {
  const std::int32_t* first = cache.positions(layer, 0);
  for (std::size_t head = 1; head < cache.shape().heads; ++head) {
    if (cache.length(layer, head) != cache.length(layer, 0)) return false;
    if (!std::equal(first, first + cache.length(layer, 0), cache.positions(layer, head)))
      return false;
  }
  return true;
}

}  // namespace

Sequence::Sequence(const CacheShape& shape, std::size_t capacity, const Extras& extras,
                   std::shared_ptr<PagePool> pool)
    : cache(shape, capacity, extras.raw_dims, std::move(pool)), cut_counts(shape.layers, 0) {
  if (extras.attention_sums || extras.attention_window > 0) {
    attended.emplace(shape, cache.capacity(), extras.attention_sums, extras.attention_window);
  }
}

Sequence Sequence::fork() const {
  Sequence copy(cache.fork());
  copy.attended = attended;
  copy.log_dropped = log_dropped;
  copy.position = position;
  copy.cuts = cuts;
  copy.cut_counts = cut_counts;
  copy.stopped = stopped;
  copy.press_ = press_;
  copy.rotary_dims_ = rotary_dims_;
  copy.since_press_ = since_press_;
  copy.prompt_ended_ = prompt_ended_;
  copy.considered_ = considered_;
  return copy;
}

void Sequence::adopt(const Press& press, std::size_t rotary_dims) {
  press.check(cache.shape().layers, cache.shape().head_dim, rotary_dims);
  const Extras extras = press.extras(rotary_dims);
  if (extras.raw_dims > 0 && cache.raw_dims() != rotary_dims) {
    throw Error("positions", "rerotate needs a cache that keeps the unrotated dims",
                std::to_string(rotary_dims), std::to_string(cache.raw_dims()));
  }
  const bool has_sums = attended && attended->has_sums();
  const std::size_t window = attended ? attended->window() : 0;
  if ((extras.attention_sums && !has_sums) || extras.attention_window > window) {
    throw Error("score", press.name() +
                             " ranks by attention, which this sequence did not note from its first "
                             "token on");
  }
  if (!extras.attention_sums && extras.attention_window == 0) attended.reset();
  press_ = press;
  press_->resolve(cache.shape().heads * cache.shape().head_dim * 2 * sizeof(float));
  rotary_dims_ = rotary_dims;
}

void Sequence::set_press(const Press& press, std::size_t rotary_dims) {
  for (std::size_t layer = 0; layer < cache.shape().layers; ++layer) {
    if (press.positions == Positions::rerotate && cache.longest(layer) != position) {
      throw Error("positions", "rerotate cannot begin in a cache that was cut already",
                  std::to_string(position) + " slots", std::to_string(cache.longest(layer)));
    }
    if (press.score == Score::tova && !press.skips(layer) && !heads_agree(cache, layer)) {
      throw Error("score", "tova ranks the heads of a layer as one, but they hold other tokens",
                  "a cache that no other score has cut", "layer " + std::to_string(layer));
    }
  }
  adopt(press, rotary_dims);
  since_press_ = 0;
  considered_ = false;
}

void Sequence::resume(const std::optional<Press>& press, std::size_t rotary_dims,
                      const Progress& progress) {
  if (press) adopt(*press, rotary_dims);
  since_press_ = progress.since_press;
  prompt_ended_ = progress.prompt_ended;
  considered_ = progress.considered;
}

bool Sequence::due_before(const State& state) const {
  if (press_->trigger == Trigger::reaches) return state.length >= press_->prune_after;
  return press_->trigger == Trigger::after_prompt && prompt_ended_;
}

bool Sequence::due_after(const State& state) const {
  if (press_->trigger == Trigger::exceeds) return state.length > press_->prune_after;
  return press_->trigger == Trigger::every && state.since_press % press_->interval == 0;
}

std::size_t Sequence::until_cut(const State& state) const {
  const std::size_t limit = press_->prune_after;
  switch (press_->trigger) {
    case Trigger::exceeds:
      if (state.length > limit) return 1;
      return limit == never ? never : limit + 1 - state.length;
    case Trigger::reaches:
      return state.length >= limit ? 1 : limit - state.length;
    case Trigger::every:
      return press_->interval - state.since_press % press_->interval;
    case Trigger::after_prompt:
      break;
  }
  return never;
}

bool Sequence::layer_due_before_token(std::size_t layer) const {
  return press_ && !press_->skips(layer) && due_before(state(layer));
}

bool Sequence::layer_due_after_token(std::size_t layer) const {
  return press_ && !press_->skips(layer) && due_after(state(layer));
}

std::size_t Sequence::tokens_until_cut() const {
  std::size_t tokens = never;
  if (!press_) return tokens;
  for (std::size_t layer = 0; layer < cache.shape().layers; ++layer) {
    if (!press_->keeps_all(layer)) tokens = std::min(tokens, until_cut(state(layer)));
  }
  return tokens;
}

void Sequence::enter(std::size_t tokens) {
  position += tokens;
  since_press_ += tokens;
  considered_ = false;
  prompt_ended_ = false;
}

std::size_t Sequence::rotary_position(std::size_t slot, std::size_t offset) const {
  if (!press_ || press_->positions == Positions::original) return position + offset;
  if (press_->positions == Positions::rerotate) return slot;
  for (std::size_t layer = 0; layer < cache.shape().layers; ++layer) {
    if (!press_->skips(layer)) return cache.longest(layer) + offset;
  }
  return position + offset;
}

std::size_t Sequence::peak(std::size_t layer, std::size_t tokens) const {
  State now = state(layer);
  if (!press_ || press_->keeps_all(layer)) return now.length + tokens;
  std::size_t most = now.length;
  bool asked = considered_;
  while (tokens > 0) {
    if (!asked && due_before(now)) now.length = press_->keep(layer, now.length);
    const std::size_t entering = std::min(tokens, until_cut(now));
    now.length += entering;
    now.since_press += entering;
    tokens -= entering;
    most = std::max(most, now.length);
    if (due_after(now)) now.length = press_->keep(layer, now.length);
    // The prompt ends once; what due_before says of it holds for the first token only.
    asked = press_->trigger == Trigger::after_prompt;
  }
  return most;
}

}  // namespace neoxref::engine
