// SPDX-License-Identifier: Apache-2.0
#include "engine/kv_cache.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "engine/error.hpp"

namespace neoxref::engine {

KvCache::KvCache(const CacheShape& shape, std::size_t capacity, std::size_t raw_dims,
                 std::shared_ptr<PagePool> pool)
    : shape_(shape),
      capacity_(simd::round_up(std::max<std::size_t>(capacity, 1), simd::lanes)),
      raw_dims_(raw_dims) {
  value_stride_ = simd::round_up(shape.head_dim, simd::lanes);
  values_at_ = capacity_ * shape.head_dim;
  norms_at_ = values_at_ + capacity_ * value_stride_;
  positions_at_ = norms_at_ + capacity_;
  raw_at_ = positions_at_ + capacity_;
  segment_ = raw_at_ + capacity_ * raw_dims_;
  const std::size_t heads = shape.layers * shape.heads;
  constexpr std::size_t most = std::size_t{1} << 46;
  if (capacity > (std::size_t{1} << 31) || segment_ > most / sizeof(float) / heads) {
    throw Error("cache", "too large", "at most 2^46 bytes",
                std::to_string(capacity) + " slots in each of " + std::to_string(heads) + " heads");
  }
  arena_ = PooledPages(physical_bytes(), std::move(pool));
  lengths_.assign(heads, 0);
}

KvCache KvCache::fork() const {
  KvCache copy(shape_, capacity_, raw_dims_, arena_.pool());
  copy.lengths_ = lengths_;
  copy.expect(lengths_.empty() ? 0 : *std::min_element(lengths_.begin(), lengths_.end()));
  for (std::size_t i = 0; i < lengths_.size(); ++i) {
    const float* from = floats() + i * segment_;
    float* to = copy.floats() + i * segment_;
    const std::size_t slots = lengths_[i];
    const auto copy_range = [&](std::size_t start, std::size_t count) {
      std::memcpy(to + start, from + start, count * sizeof(float));
    };
    copy_range(0, simd::round_up(slots, simd::lanes) * shape_.head_dim);
    copy_range(values_at_, slots * value_stride_);
    copy_range(norms_at_, slots);
    copy_range(positions_at_, slots);
    copy_range(raw_at_, slots * raw_dims_);
  }
  return copy;
}

void KvCache::expect(std::size_t slots) const {
  if (slots >= capacity_ - capacity_ / 4) arena_.pages().prefer_large();
}

std::size_t KvCache::longest(std::size_t layer) const {
  const auto first = lengths_.begin() + static_cast<std::ptrdiff_t>(layer * shape_.heads);
  return *std::max_element(first, first + static_cast<std::ptrdiff_t>(shape_.heads));
}

void KvCache::swap_slots(std::size_t layer, std::size_t head, std::size_t a,
                         std::size_t b) noexcept {
  const auto swap_rows = [&](float* rows, std::size_t width) {
    std::swap_ranges(rows + a * width, rows + (a + 1) * width, rows + b * width);
  };
  const auto lane = [&](std::size_t slot) {
    return keys(layer, head) + slot / simd::lanes * shape_.head_dim * simd::lanes +
           slot % simd::lanes;
  };
  for (std::size_t d = 0; d < shape_.head_dim; ++d) {
    std::swap(lane(a)[d * simd::lanes], lane(b)[d * simd::lanes]);
  }
  swap_rows(values(layer, head), value_stride_);
  swap_rows(norms(layer, head), 1);
  swap_rows(raw(layer, head), raw_dims_);
  std::swap(positions(layer, head)[a], positions(layer, head)[b]);
}

void KvCache::clear_tail(std::size_t layer, std::size_t head, std::size_t slots) {
  const std::size_t first = length(layer, head);
  const std::size_t last = std::min(first + slots, capacity_);
  float* panels = keys(layer, head);
  for (std::size_t slot = first; slot < last; ++slot) {
    for (std::size_t d = 0; d < shape_.head_dim; ++d) {
      panels[(slot / simd::lanes * shape_.head_dim + d) * simd::lanes + slot % simd::lanes] = 0.0f;
    }
  }
  std::fill(values(layer, head) + first * value_stride_, values(layer, head) + last * value_stride_,
            0.0f);
}

void KvCache::clear_lanes(std::size_t layer, std::size_t head, std::size_t slot) noexcept {
  const std::size_t lane = slot % simd::lanes;
  if (lane == 0 || slot - lane < length(layer, head)) return;
  float* panel = keys(layer, head) + (slot - lane) * shape_.head_dim;
  for (std::size_t d = 0; d < shape_.head_dim; ++d) {
    std::fill(panel + d * simd::lanes + lane, panel + (d + 1) * simd::lanes, 0.0f);
  }
}

void KvCache::clear_padding(std::size_t layer, std::size_t head, std::size_t slot,
                            std::size_t count) noexcept {
  if (value_stride_ == shape_.head_dim) return;
  for (float* row = values(layer, head) + slot * value_stride_; count > 0; --count) {
    std::fill(row + shape_.head_dim, row + value_stride_, 0.0f);
    row += value_stride_;
  }
}

std::size_t KvCache::logical_bytes() const {
  std::size_t slots = 0;
  for (const std::size_t length : lengths_) slots += length;
  return slots * shape_.head_dim * 2 * sizeof(float);
}

}  // namespace neoxref::engine
