// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/kv_cache.hpp"

namespace neoxref::engine {

/// Sees the attention of a sequence as it happens. Heads call it from several threads at once, each
/// head in the order of its queries.
class AttentionWatcher {
public:
  virtual ~AttentionWatcher() = default;
  /// weights  [queries, weights_stride]: query i, the token at `first_position` + i, gave slot j
  ///          weights[i * weights_stride + j], j in [0, first_slots + i).
  virtual void see(std::size_t layer, std::size_t head, std::size_t first_position,
                   std::size_t queries, std::size_t first_slots, const float* weights,
                   std::size_t weights_stride) noexcept = 0;
};

/// What the slots of a cache drew so far, for scores that rank by it:
///   sums  [layers, heads, capacity], binary64: the weights that each slot got, added in the order of
///         the queries
///   rows  [layers, heads, window, capacity]: the weights of the last `window` queries, the token at
///         position t in row t % window; 0 for slots that it did not see
/// A slot that a cut drops takes its part of both along.
class Attended : public AttentionWatcher {
public:
  Attended(const CacheShape& shape, std::size_t capacity, bool sums, std::size_t window);

  bool has_sums() const { return !sums_.empty(); }
  std::size_t window() const { return window_; }
  const double* sums(std::size_t layer, std::size_t head) const {
    return sums_.data() + (layer * shape_.heads + head) * capacity_;
  }
  double* sums(std::size_t layer, std::size_t head) {
    return sums_.data() + (layer * shape_.heads + head) * capacity_;
  }
  /// Of the query at this position, one of the last `window`.
  const float* row(std::size_t layer, std::size_t head, std::size_t position) const {
    return rows_.data() + row_at(layer, head, position);
  }
  float* row(std::size_t layer, std::size_t head, std::size_t position) {
    return rows_.data() + row_at(layer, head, position);
  }

  void see(std::size_t layer, std::size_t head, std::size_t first_position, std::size_t queries,
           std::size_t first_slots, const float* weights,
           std::size_t weights_stride) noexcept override;
  /// Keeps the slots `kept` [count], ascending, of `slots`.
  void compact(std::size_t layer, std::size_t head, const std::uint32_t* kept, std::size_t count,
               std::size_t slots) noexcept;

  /// Exchanges what two slots drew.
  void swap_slots(std::size_t layer, std::size_t head, std::size_t a, std::size_t b) noexcept;

private:
  std::size_t row_at(std::size_t layer, std::size_t head, std::size_t position) const {
    return ((layer * shape_.heads + head) * window_ + position % window_) * capacity_;
  }

  CacheShape shape_;
  std::size_t capacity_;
  std::size_t window_;
  std::vector<double> sums_;
  std::vector<float> rows_;
};

}  // namespace neoxref::engine
