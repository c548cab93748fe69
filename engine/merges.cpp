// SPDX-License-Identifier: Apache-2.0
#include "engine/merges.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <queue>
#include <utility>

namespace neoxref::engine {
namespace {

constexpr std::size_t longest_short_word = 48;

std::uint64_t pair_key(std::int32_t left, std::int32_t right) noexcept {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

/// A merge that was possible when it was queued; void once either of its two ids has changed.
struct Candidate {
  std::uint32_t rank;
  std::int32_t id;
  std::size_t position;
  std::int32_t left;
  std::int32_t right;

  bool operator<(const Candidate& other) const noexcept {  // a heap's top is its largest
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

MergeTable::MergeTable(std::size_t count)
    : slots_(std::bit_ceil(2 * count + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

std::size_t MergeTable::slot_of(std::uint64_t pair) const noexcept {
  std::uint64_t hash = pair * 0x9e3779b97f4a7c15U;
  hash = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15U;
  std::size_t slot = hash >> shift_;
  while (slots_[slot].pair != pair && slots_[slot].pair != no_pair)
    slot = (slot + 1) & (slots_.size() - 1);
  return slot;
}

bool MergeTable::add(std::int32_t left, std::int32_t right, Merge merge) {
  Slot& slot = slots_[slot_of(pair_key(left, right))];
  if (slot.pair != no_pair) return false;
  slot = {pair_key(left, right), merge};
  return true;
}

MergeTable::Merge MergeTable::find(std::int32_t left, std::int32_t right) const noexcept {
  return slots_[slot_of(pair_key(left, right))].merge;
}

std::size_t MergeTable::apply(std::int32_t* ids, std::size_t count) const {
  return count <= longest_short_word ? apply_short(ids, count) : apply_long(ids, count);
}

std::size_t MergeTable::apply_short(std::int32_t* ids, std::size_t count) const noexcept {
  if (count < 2) return count;
  std::array<Merge, longest_short_word> merges;  // of each id with the next
  for (std::size_t i = 0; i + 1 < count; ++i) merges[i] = find(ids[i], ids[i + 1]);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i)
      if (merges[i].rank < merges[best].rank) best = i;
    if (merges[best].rank == no_rank) break;
    ids[best] = merges[best].id;
    for (std::size_t i = best + 1; i + 1 < count; ++i) {
      ids[i] = ids[i + 1];
      merges[i] = merges[i + 1];
    }
    --count;
    if (best > 0) merges[best - 1] = find(ids[best - 1], ids[best]);
    if (best + 1 < count) merges[best] = find(ids[best], ids[best + 1]);
  }
  return count;
}

std::size_t MergeTable::apply_long(std::int32_t* ids, std::size_t count) const {
  constexpr std::int32_t gone = -1;
  std::vector<std::size_t> next(count);
  std::vector<std::size_t> previous(count);
  for (std::size_t i = 0; i < count; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;  // of 0: never read
  }
  std::vector<Candidate> first;
  const auto consider = [&](std::size_t left, auto&& take) {
    const std::size_t right = next[left];
    const Merge merge = find(ids[left], ids[right]);
    if (merge.rank != no_rank) take(Candidate{merge.rank, merge.id, left, ids[left], ids[right]});
  };
  for (std::size_t i = 0; i + 1 < count; ++i)
    consider(i, [&](const Candidate& candidate) { first.push_back(candidate); });
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(first));
  const auto push = [&](const Candidate& candidate) { queue.push(candidate); };
  while (!queue.empty()) {
    const Candidate merge = queue.top();
    queue.pop();
    const std::size_t left = merge.position;
    if (ids[left] != merge.left || next[left] == count) continue;
    const std::size_t right = next[left];
    if (ids[right] != merge.right) continue;
    ids[left] = merge.id;
    ids[right] = gone;
    next[left] = next[right];
    if (next[left] < count) {
      previous[next[left]] = left;
      consider(left, push);
    }
    if (left > 0) consider(previous[left], push);
  }
  return static_cast<std::size_t>(std::remove(ids, ids + count, gone) - ids);
}

}  // namespace neoxref::engine
