// SPDX-License-Identifier: Apache-2.0
#include "eval/ranks.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace neoxref::eval {

ScoreRanks::ScoreRanks(std::size_t capacity) {
  scores_.reserve(capacity);
  better_.reserve(capacity);
  balance_.reserve(capacity);
}

void ScoreRanks::enter(float score) {
  const std::size_t slots = scores_.size();
  const float* scores = scores_.data();
  std::uint32_t* better = better_.data();
  std::int32_t* balance = balance_.data();
  std::uint32_t at_least = 0;
  std::int32_t lower = 0;
  for (std::size_t slot = 0; slot < slots; ++slot) {
    const std::int32_t above = score > scores[slot] ? 1 : 0;
    const std::int32_t below = score < scores[slot] ? 1 : 0;
    better[slot] += static_cast<std::uint32_t>(above);
    balance[slot] += below - above;
    at_least += static_cast<std::uint32_t>(1 - above);
    lower += above - below;
  }
  scores_.push_back(score);
  better_.push_back(at_least);
  balance_.push_back(lower);
}

AttentionRanks::AttentionRanks(std::size_t capacity) {
  order_.reserve(capacity);
  balance_.reserve(capacity);
}

void AttentionRanks::rank(std::span<const float> weights) {
  weights_ = weights;
  const std::size_t slots = weights.size();
  order_.resize(slots);
  balance_.resize(slots);
  double total = 0.0;
  for (std::size_t slot = 0; slot < slots; ++slot) {
    // Weights have no sign, so their bits order as they do; the slot makes every key another one.
    order_[slot] = (static_cast<std::uint64_t>(std::bit_cast<std::uint32_t>(weights[slot])) << 32) |
                   static_cast<std::uint64_t>(slot);
    total += static_cast<double>(weights[slot]);
  }
  random_loss_ = total / 2.0;
  std::sort(order_.begin(), order_.end());
  double lost = 0.0;
  for (std::size_t begin = 0; begin < slots;) {
    std::size_t end = begin;
    while (end < slots && order_[end] >> 32 == order_[begin] >> 32) ++end;
    for (std::size_t i = begin; i < end; ++i) {
      const auto slot = static_cast<std::size_t>(order_[i] & 0xffffffffu);
      balance_[slot] = static_cast<std::int32_t>(begin) - static_cast<std::int32_t>(slots - end);
      lost += static_cast<double>(weights[slot]) * static_cast<double>(slots - 1 - i);
    }
    begin = end;
  }
  ideal_loss_ = lost / static_cast<double>(slots - 1);
}

double score_loss(const ScoreRanks& score, std::span<const float> weights) {
  const std::span<const std::uint32_t> better = score.better();
  double lost = 0.0;
  for (std::size_t slot = 0; slot < weights.size(); ++slot) {
    lost += static_cast<double>(weights[slot]) * static_cast<double>(better[slot]);
  }
  return lost / static_cast<double>(weights.size() - 1);
}

double spearman(std::span<const std::int32_t> balance, std::span<const std::int32_t> other) {
  std::int64_t product = 0;
  std::int64_t square = 0;
  std::int64_t other_square = 0;
  for (std::size_t i = 0; i < balance.size(); ++i) {
    const std::int64_t x = balance[i];
    const std::int64_t y = other[i];
    product += x * y;
    square += x * x;
    other_square += y * y;
  }
  if (square == 0 || other_square == 0) return 0.0;
  // One root of the product: equal orders give 1 exactly.
  return static_cast<double>(product) /
         std::sqrt(static_cast<double>(square) * static_cast<double>(other_square));
}

}  // namespace neoxref::eval
