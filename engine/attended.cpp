// SPDX-License-Identifier: Apache-2.0
#include "engine/attended.hpp"

#include <algorithm>
#include <utility>

namespace neoxref::engine {

Attended::Attended(const CacheShape& shape, std::size_t capacity, bool sums, std::size_t window)
    : shape_(shape), capacity_(capacity), window_(window) {
  const std::size_t slots = shape.layers * shape.heads * capacity;
  if (sums) sums_.assign(slots, 0.0);
  rows_.assign(slots * window, 0.0f);
}

void Attended::see(std::size_t layer, std::size_t head, std::size_t first_position,
                   std::size_t queries, std::size_t first_slots, const float* weights,
                   std::size_t weights_stride) noexcept {
  for (std::size_t i = 0; i < queries; ++i) {
    const float* from = weights + i * weights_stride;
    const std::size_t seen = first_slots + i;
    if (has_sums()) {
      double* to = sums(layer, head);
      for (std::size_t slot = 0; slot < seen; ++slot) to[slot] += static_cast<double>(from[slot]);
    }
    // Rows that the same call would overwrite are not worth writing.
    if (queries - i > window_) continue;
    float* to = row(layer, head, first_position + i);
    std::copy(from, from + seen, to);
    std::fill(to + seen, to + capacity_, 0.0f);
  }
}

void Attended::compact(std::size_t layer, std::size_t head, const std::uint32_t* kept,
                       std::size_t count, std::size_t slots) noexcept {
  const auto keep = [&](auto* values) {
    for (std::size_t slot = 0; slot < count; ++slot) values[slot] = values[kept[slot]];
    std::fill(values + count, values + slots, 0);
  };
  if (has_sums()) keep(sums(layer, head));
  for (std::size_t query = 0; query < window_; ++query) keep(row(layer, head, query));
}

void Attended::swap_slots(std::size_t layer, std::size_t head, std::size_t a,
                          std::size_t b) noexcept {
  if (has_sums()) std::swap(sums(layer, head)[a], sums(layer, head)[b]);
  for (std::size_t query = 0; query < window_; ++query) {
    std::swap(row(layer, head, query)[a], row(layer, head, query)[b]);
  }
}

}  // namespace neoxref::engine
