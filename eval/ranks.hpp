// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace neoxref::eval {

/// The slots of one head in the order of a score, kept up while they enter. Definitions:
/// docs/analysis.md.
class ScoreRanks {
public:
  explicit ScoreRanks(std::size_t capacity);

  /// The next slot; the score is not NaN.
  void enter(float score);
  std::size_t slots() const { return scores_.size(); }
  /// [slots]: how many slots a press would rather keep; of equal scores the lower slot.
  std::span<const std::uint32_t> better() const { return better_; }
  /// [slots]: slots of lower score minus slots of higher score, which is twice the midrank minus
  /// slots + 1.
  std::span<const std::int32_t> balance() const { return balance_; }

private:
  std::vector<float> scores_;
  std::vector<std::uint32_t> better_;
  std::vector<std::int32_t> balance_;
};

/// The slots of one head in the order of the attention that one query gives them.
class AttentionRanks {
public:
  explicit AttentionRanks(std::size_t capacity);

  /// weights [slots]: at least +0; 2 slots or more.
  void rank(std::span<const float> weights);
  std::span<const float> weights() const { return weights_; }
  /// As ScoreRanks::balance.
  std::span<const std::int32_t> balance() const { return balance_; }
  /// Mean over m = 1 .. slots - 1 of the sum of the m smallest weights: in ascending order.
  double ideal_loss() const { return ideal_loss_; }
  /// The same for m slots drawn at random: half the sum of the weights, in slot order.
  double random_loss() const { return random_loss_; }

private:
  std::span<const float> weights_;
  std::vector<std::uint64_t> order_;
  std::vector<std::int32_t> balance_;
  double ideal_loss_ = 0.0;
  double random_loss_ = 0.0;
};

/// Mean over m = 1 .. slots - 1 of the attention that is lost with the m worst slots by the score:
/// sum over the slots j, in slot order, of weight_j * better_j, divided once by slots - 1.
double score_loss(const ScoreRanks& score, std::span<const float> weights);

/// Spearman's rank correlation with midranks; 0 where one side has no two different values. Sums are
/// integers, exact up to 2^20 slots.
double spearman(std::span<const std::int32_t> balance, std::span<const std::int32_t> other);

}  // namespace neoxref::eval
