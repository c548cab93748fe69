// SPDX-License-Identifier: Apache-2.0
#include "eval/golden_recorder.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace neoxref::eval {

using engine::Tensor;
using engine::TensorId;

Recorder::Recorder(const engine::Model& model, engine::Sequence& sequence, std::size_t tokens,
                   std::size_t chunk, bool digests)
    : config_(model.config()),
      kernels_(model.kernels()),
      sequence_(sequence),
      tokens_(tokens),
      chunk_(chunk),
      digests_(digests) {
  const auto all = forward_tensors(config_);
  kept_.assign(all.size(), nullptr);
  rows_.resize(all.size());
  scores_.assign(config_.layers, nullptr);
  probabilities_.assign(config_.layers, nullptr);
  if (digests_) {
    for (auto& rows : rows_) rows.resize(tokens);
  }
  for (const TensorId& id : all) {
    Place& place = places_[static_cast<std::size_t>(id.tensor)];
    if (place.width > 0) continue;
    place.width = engine::tensor_width(id.tensor, config_);
    place.columns = std::make_unique<std::atomic<std::uint32_t>[]>(chunk);
    // The logits are put together where the engine leaves them.
    if (id.tensor == Tensor::embed_out) continue;
    place.rows = engine::Buffer<float>(chunk * place.width, engine::Buffer<float>::Uninitialized{});
  }
  sequence_.tensors = this;
}

void Recorder::keep_scores(std::size_t layer, float* to) {
  scores_[layer] = to;
  queries_needed_ = true;
  watch_attention();
  if (!scratch_.empty()) return;
  for (std::size_t head = 0; head < config_.heads; ++head) {
    scratch_.push_back({engine::Buffer<float>(simd::product_scratch(chunk_, config_.head_dim)),
                        engine::Buffer<float>(chunk_ * simd::round_up(tokens_, simd::lanes),
                                              engine::Buffer<float>::Uninitialized{})});
  }
}

void Recorder::keep_probabilities(std::size_t layer, float* to) {
  probabilities_[layer] = to;
  watch_attention();
}

void Recorder::watch_attention() {
  sequence_.watcher = this;
}

void Recorder::begin(std::size_t first_token, float* logits) {
  first_token_ = first_token;
  logits_ = logits;
}

void Recorder::end(std::size_t count, engine::Team& team) {
  if (!digests_) return;
  const engine::Phase phase{static_cast<std::uint32_t>(count), digest_logits};
  team.run({&phase, 1}, this);
}

void Recorder::digest_logits(void* recorder, std::uint32_t, std::uint32_t item,
                             std::size_t) noexcept {
  auto& self = *static_cast<Recorder*>(recorder);
  const TensorId id{Tensor::embed_out};
  const std::size_t token = self.first_token_ + item;
  self.rows_[self.place(id)][token] =
      self.digest(id.tensor, std::span<const float>(self.row(id, token), self.config_.vocab));
}

bool Recorder::wants(const TensorId& id) const noexcept {
  return digests_ || kept_[place(id)] != nullptr ||
         (queries_needed_ && id.tensor == Tensor::rotary_q);
}

float* Recorder::row(const TensorId& id, std::size_t token) noexcept {
  const Place& place = places_[static_cast<std::size_t>(id.tensor)];
  if (id.tensor == Tensor::embed_out) return logits_ + (token - first_token_) * place.width;
  return const_cast<float*>(place.rows.data()) + (token - first_token_) * place.width;
}

DigestBytes Recorder::digest(Tensor tensor, std::span<const float> values) const noexcept {
  // A NaN reaches the layer's output, a norm or a logit, and the pass fails; only relu, which takes it
  // for 0, hides one. The kernel looks for it faster than a plain loop.
  const bool plain =
      tensor != Tensor::dense_h_to_4h || kernels_.all_finite(values.data(), values.size());
  return plain ? digest_of(std::as_bytes(values)) : digest_of(values);
}

void Recorder::see(const TensorId& id, std::size_t first_token, std::size_t rows,
                   std::size_t first_column, std::size_t columns, const float* values,
                   std::size_t stride) noexcept {
  const std::size_t at = place(id);
  Place& place = places_[static_cast<std::size_t>(id.tensor)];
  const bool logits = id.tensor == Tensor::embed_out;
  const bool whole = columns == place.width && !logits;
  const bool assembled = (digests_ && !whole) || (queries_needed_ && id.tensor == Tensor::rotary_q);
  for (std::size_t i = 0; i < rows; ++i) {
    const std::size_t token = first_token + i;
    const float* from = values + i * stride;
    if (kept_[at] != nullptr) {
      std::memcpy(kept_[at] + token * place.width + first_column, from, columns * sizeof(float));
    }
    if (assembled) {
      float* const to = row(id, token) + first_column;
      if (to != from) std::memcpy(to, from, columns * sizeof(float));
    }
  }
  if (!digests_ || logits) return;
  // After all copies: an atomic step between two of them would wait for each to reach the cache.
  for (std::size_t i = 0; i < rows; ++i) {
    const std::size_t token = first_token + i;
    if (whole) {
      rows_[at][token] = digest(id.tensor, std::span<const float>(values + i * stride, columns));
      continue;
    }
    std::atomic<std::uint32_t>& come = place.columns[token - first_token_];
    const auto more = static_cast<std::uint32_t>(columns);
    if (come.fetch_add(more, std::memory_order_acq_rel) + more < place.width) continue;
    come.store(0, std::memory_order_relaxed);
    rows_[at][token] = digest(id.tensor, std::span<const float>(row(id, token), place.width));
  }
}

void Recorder::see(std::size_t layer, std::size_t head, std::size_t first_position,
                   std::size_t queries, std::size_t first_slots, const float* weights,
                   std::size_t weights_stride) noexcept {
  if (probabilities_[layer] != nullptr) {
    const std::int32_t* const positions = sequence_.cache.positions(layer, head);
    for (std::size_t i = 0; i < queries; ++i) {
      float* const to = probabilities_[layer] + (head * tokens_ + first_position + i) * tokens_;
      std::fill(to, to + tokens_, 0.0f);
      for (std::size_t slot = 0; slot < first_slots + i; ++slot) {
        to[positions[slot]] = weights[i * weights_stride + slot];
      }
    }
  }
  if (scores_[layer] != nullptr) score(layer, head, first_position, queries, first_slots);
}

void Recorder::score(std::size_t layer, std::size_t head, std::size_t first_position,
                     std::size_t queries, std::size_t first_slots) noexcept {
  const engine::KvCache& cache = sequence_.cache;
  const std::int32_t* const positions = cache.positions(layer, head);
  const std::size_t slots = first_slots + queries - 1;
  const std::size_t stride = simd::round_up(tokens_, simd::lanes);
  Scratch& scratch = scratch_[head];
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
  kernels_.product(
      {.rows = queries,
       .depth = config_.head_dim,
       .outputs = slots,
       .input = row({Tensor::rotary_q, layer}, first_position) + head * config_.head_dim,
       .input_stride = config_.hidden,
       .weights = {cache.keys(layer, head), simd::Dtype::f32, simd::lanes,
                   config_.head_dim * simd::lanes},
       .bias = nullptr,
       .output = scratch.scores.data(),
       .output_stride = stride,
       .scratch = scratch.product.data()});
  for (std::size_t i = 0; i < queries; ++i) {
    float* const to = scores_[layer] + (head * tokens_ + first_position + i) * tokens_;
    std::fill(to, to + tokens_, -std::numeric_limits<float>::infinity());
    for (std::size_t slot = 0; slot < first_slots + i; ++slot) {
      to[positions[slot]] = scratch.scores[i * stride + slot] * scale;
    }
  }
}

}  // namespace neoxref::eval
