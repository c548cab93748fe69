// SPDX-License-Identifier: Apache-2.0
#include "eval/comparison.hpp"

#include <algorithm>
#include <cmath>

#include "engine/sampler.hpp"
#include "eval/perplexity.hpp"

namespace neoxref::eval {

Comparison::Comparison(engine::Model& model, std::size_t most_places, bool with_kl)
    : model_(model), vocab_(model.config().vocab), with_kl_(with_kl) {
  if (!with_kl) return;
  exponentials_.resize(most_places * vocab_);
  partitions_.resize(most_places);
}

Comparison::Partition Comparison::partition(const float* logits, double* exponentials) const {
  const auto max = static_cast<double>(*std::max_element(logits, logits + vocab_));
  double sum = 0.0;
  for (std::size_t id = 0; id < vocab_; ++id) {
    const double e = std::exp(static_cast<double>(logits[id]) - max);
    if (exponentials != nullptr) exponentials[id] = e;
    sum += e;
  }
  return {max, sum};
}

void Comparison::predict(std::size_t place, Prediction& prediction) const {
  const std::span<const float> row(logits_ + place * vocab_, vocab_);
  prediction.nll = nll(model_.kernels(), row, next_[place]);
  prediction.best = engine::argmax(row);
  prediction.kl = 0.0;
}

void Comparison::full_item(void* context, std::uint32_t, std::uint32_t item, std::size_t) noexcept {
  auto& self = *static_cast<Comparison*>(context);
  self.predict(item, self.predictions_[item]);
  if (!self.with_kl_) return;
  self.partitions_[item] = self.partition(self.logits_ + item * self.vocab_,
                                          self.exponentials_.data() + item * self.vocab_);
}

void Comparison::compare_item(void* context, std::uint32_t, std::uint32_t item,
                              std::size_t) noexcept {
  auto& self = *static_cast<Comparison*>(context);
  Prediction& prediction = self.predictions_[item];
  self.predict(item, prediction);
  const float* logits = self.logits_ + item * self.vocab_;
  const float* full = self.full_ + item * self.vocab_;
  const double* e = self.exponentials_.data() + item * self.vocab_;
  const Partition other = self.partition(logits, nullptr);
  const Partition& mine = self.partitions_[item];
  double sum = 0.0;
  for (std::size_t id = 0; id < self.vocab_; ++id) {
    sum += e[id] * (static_cast<double>(full[id]) - static_cast<double>(logits[id]));
  }
  prediction.kl = std::max(
      0.0, sum / mine.sum + (other.max + std::log(other.sum)) - (mine.max + std::log(mine.sum)));
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
