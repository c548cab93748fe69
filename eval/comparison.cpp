// SPDX-License-Identifier: Apache-2.0
#include "eval/comparison.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/sampler.hpp"
#include "eval/perplexity.hpp"

namespace neoxref::eval {
namespace {

/// The contract's lane_sum, laid out so that a compiler keeps the lanes in registers.
class LaneSum {
public:
  /// Adds value(0), value(1), ...: all lengths but the last are multiples of the lanes.
  template <class Value>
  void add(std::size_t length, Value value) {
    std::size_t i = 0;
    for (; i + simd::lanes <= length; i += simd::lanes) {
      for (std::size_t l = 0; l < simd::lanes; ++l) lane_[l] += value(i + l);
    }
    for (std::size_t l = 0; i + l < length; ++l) lane_[l] += value(i + l);
  }
  double total() {
    for (std::size_t half = simd::lanes / 2; half > 0; half /= 2) {
      for (std::size_t l = 0; l < half; ++l) lane_[l] += lane_[l + half];
    }
    return lane_[0];
  }

private:
  std::array<double, simd::lanes> lane_{};
};

/// Values of a row that stay in the first-level cache while they are worked on.
constexpr std::size_t block = 2048;

/// The index of the first value that equals `value`; there is one.
std::size_t first_of(std::span<const float> values, float value) {
  // A fixed number of steps at a time, so that the compiler takes them at once.
  constexpr std::size_t steps = 16;
  std::size_t i = 0;
  for (unsigned found = 0; i + steps <= values.size(); i += steps) {
    for (std::size_t l = 0; l < steps; ++l) found |= values[i + l] == value ? 1u : 0u;
    if (found != 0) break;
  }
  while (i + 1 < values.size() && values[i] != value) ++i;
  return i;
}

}  // namespace

Comparison::Comparison(engine::Model& model, std::size_t most_places, bool with_kl)
    : model_(model), vocab_(model.config().vocab), with_kl_(with_kl) {
  if (!with_kl) return;
  exponentials_.resize(most_places * vocab_);
  partitions_.resize(most_places);
}

double Comparison::partition(const float* logits, float max, float* exponentials,
                             double& sum) const {
  LaneSum lanes;
  for (std::size_t first = 0; first < vocab_; first += block) {
    const std::size_t count = std::min(block, vocab_ - first);
    float* e = exponentials + first;
    for (std::size_t i = 0; i < count; ++i) e[i] = logits[first + i] - max;
    model_.kernels().map(simd::Function::exp, e, e, count);
    lanes.add(count, [e](std::size_t i) { return static_cast<double>(e[i]); });
  }
  sum = lanes.total();
  return static_cast<double>(max) + std::log(sum);
}

void Comparison::full_item(void* context, std::uint32_t, std::uint32_t item, std::size_t) noexcept {
  auto& self = *static_cast<Comparison*>(context);
  if (item < self.chains_.size()) return self.chains_[item].go_on();
  const std::size_t place = item - self.chains_.size();
  const std::span<const float> row(self.logits_ + place * self.vocab_, self.vocab_);
  const float logit = row[static_cast<std::size_t>(self.next_[place])];
  Prediction& prediction = self.predictions_[place];
  prediction.kl = 0.0;
  prediction.best = engine::argmax(row);
  if (!self.with_kl_) {
    prediction.nll = nll(self.model_.kernels().max_and_sum(row.data(), row.size()), logit);
    return;
  }
  const float max = row[prediction.best];
  Partition& mine = self.partitions_[place];
  mine.log =
      self.partition(row.data(), max, self.exponentials_.data() + place * self.vocab_, mine.sum);
  prediction.nll = nll({max, static_cast<float>(mine.sum)}, logit);
}

void Comparison::compare_item(void* context, std::uint32_t, std::uint32_t item,
                              std::size_t) noexcept {
  auto& self = *static_cast<Comparison*>(context);
  if (item < self.chains_.size()) return self.chains_[item].go_on();
  const std::size_t place = item - self.chains_.size();
  const std::size_t first = place * self.vocab_;
  const float* logits = self.logits_ + first;
  const float* full = self.full_ + first;
  const float* e = self.exponentials_.data() + first;
  Prediction& prediction = self.predictions_[place];
  const simd::MaxAndSum sums = self.model_.kernels().max_and_sum(logits, self.vocab_);
  prediction.nll = nll(sums, logits[static_cast<std::size_t>(self.next_[place])]);
  prediction.best = first_of({logits, self.vocab_}, sums.max);
  const double other_log = static_cast<double>(sums.max) + std::log(static_cast<double>(sums.sum));
  const double sum = self.model_.kernels().weighted_difference(e, full, logits, self.vocab_);
  const Partition& mine = self.partitions_[place];
  prediction.kl = std::max(0.0, sum / mine.sum + other_log - mine.log);
}

void Comparison::set_full(const float* logits, std::span<const std::int32_t> next,
                          std::span<Prediction> predictions, std::span<const Chain> chains) {
  full_ = logits;
  next_ = next;
  run(full_item, logits, predictions, chains);
}

void Comparison::compare(const float* logits, std::span<Prediction> predictions,
                         std::span<const Chain> chains) {
  run(compare_item, logits, predictions, chains);
}

void Comparison::run(Work work, const float* logits, std::span<Prediction> predictions,
                     std::span<const Chain> chains) {
  logits_ = logits;
  predictions_ = predictions;
  chains_ = chains;
  // Chains come first: each is one long item, while others take predictions from the end.
  const engine::Phase phase{static_cast<std::uint32_t>(chains.size() + next_.size()), work};
  model_.team().run({&phase, 1}, this);
}

void Chain::go_on() const {
  // The second digest finds the values in the first-level cache.
  for (std::size_t first = 0; first < values.size(); first += block) {
    const auto some = values.subspan(first, std::min(block, values.size() - first));
    for (Digest* digest : digests) digest->add_finite(some);
  }
}

}  // namespace neoxref::eval
