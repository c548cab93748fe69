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
template <class Value>
double lane_sum(std::size_t length, Value value) {
  std::array<double, simd::lanes> lane{};
  std::size_t i = 0;
  for (; i + simd::lanes <= length; i += simd::lanes) {
    for (std::size_t l = 0; l < simd::lanes; ++l) lane[l] += value(i + l);
  }
  for (std::size_t l = 0; i + l < length; ++l) lane[l] += value(i + l);
  for (std::size_t half = simd::lanes / 2; half > 0; half /= 2) {
    for (std::size_t l = 0; l < half; ++l) lane[l] += lane[l + half];
  }
  return lane[0];
}

}  // namespace

Comparison::Comparison(engine::Model& model, std::size_t most_places, bool with_kl)
    : model_(model), vocab_(model.config().vocab), with_kl_(with_kl) {
  if (!with_kl) return;
  exponentials_.resize(most_places * vocab_);
  work_.resize(model.team().threads() * vocab_);
  partitions_.resize(most_places);
}

double Comparison::partition(const float* logits, float max, float* exponentials,
                             double& sum) const {
  for (std::size_t id = 0; id < vocab_; ++id) exponentials[id] = logits[id] - max;
  model_.kernels().map(simd::Function::exp, exponentials, exponentials, vocab_);
  sum = lane_sum(vocab_, [&](std::size_t id) { return static_cast<double>(exponentials[id]); });
  return static_cast<double>(max) + std::log(sum);
}

float Comparison::predict(std::size_t place, Prediction& prediction) const {
  const std::span<const float> row(logits_ + place * vocab_, vocab_);
  const simd::MaxAndSum sums = model_.kernels().max_and_sum(row.data(), row.size());
  prediction.nll = nll(sums, row[static_cast<std::size_t>(next_[place])]);
  prediction.best = engine::argmax(row);
  prediction.kl = 0.0;
  return sums.max;
}

void Comparison::full_item(void* context, std::uint32_t, std::uint32_t item, std::size_t) noexcept {
  auto& self = *static_cast<Comparison*>(context);
  const float max = self.predict(item, self.predictions_[item]);
  if (!self.with_kl_) return;
  Partition& mine = self.partitions_[item];
  const std::size_t first = item * self.vocab_;
  mine.log = self.partition(self.logits_ + first, max, self.exponentials_.data() + first, mine.sum);
}

void Comparison::compare_item(void* context, std::uint32_t, std::uint32_t item,
                              std::size_t participant) noexcept {
  auto& self = *static_cast<Comparison*>(context);
  Prediction& prediction = self.predictions_[item];
  const float max = self.predict(item, prediction);
  const std::size_t first = item * self.vocab_;
  const float* logits = self.logits_ + first;
  const float* full = self.full_ + first;
  const float* e = self.exponentials_.data() + first;
  double other_sum = 0.0;
  const double other_log =
      self.partition(logits, max, self.work_.data() + participant * self.vocab_, other_sum);
  const double sum = lane_sum(self.vocab_, [&](std::size_t id) {
    return static_cast<double>(e[id]) *
           (static_cast<double>(full[id]) - static_cast<double>(logits[id]));
  });
  const Partition& mine = self.partitions_[item];
  prediction.kl = std::max(0.0, sum / mine.sum + other_log - mine.log);
}

void Comparison::set_full(const float* logits, std::span<const std::int32_t> next,
                          std::span<Prediction> predictions) {
  full_ = logits;
  logits_ = logits;
  next_ = next;
  predictions_ = predictions;
  const engine::Phase phase{static_cast<std::uint32_t>(next.size()), full_item};
  model_.team().run({&phase, 1}, this);
}

void Comparison::compare(const float* logits, std::span<Prediction> predictions) {
  logits_ = logits;
  predictions_ = predictions;
  const engine::Phase phase{static_cast<std::uint32_t>(next_.size()), compare_item};
  model_.team().run({&phase, 1}, this);
}

}  // namespace neoxref::eval
