// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/pages.hpp"
#include "simd/kernels.hpp"

namespace neoxref::engine {

struct CacheShape {
  std::size_t layers;
  std::size_t heads;
  std::size_t head_dim;
};

/// Keys, values, key norms and original positions of one sequence, in one arena sized at creation.
/// Every (layer, head) has its own length, because a press may cut heads differently. A segment is
///   keys       panels [capacity/16][head_dim][16], after rotary: lanes are slots
///   values     [capacity][value_stride], value_stride = head_dim rounded up to 16, zero padded
///   norms      [capacity], sqrt(dot(k, k)), written once when the key enters
///   positions  [capacity], index of the token in its sequence
///   raw        [capacity][raw_dims], the rotary dims before they turned; only where asked for
/// Slots are in time order, unless a press says otherwise. Untouched pages of the arena cost no memory.
/// An arena may have been another cache's: nothing is read that was not written, and whoever enters keys
/// clears the lanes behind the last one (clear_lanes).
class KvCache {
public:
  /// capacity >= 1 slots per head. pool: where the arena comes from and goes back to.
  /// Errors: Error when the arena would be too large to address; std::bad_alloc when the system
  /// refuses it.
  KvCache(const CacheShape& shape, std::size_t capacity, std::size_t raw_dims = 0,
          std::shared_ptr<PagePool> pool = nullptr);

  /// A copy of the slots in use, in an arena of the same capacity.
  KvCache fork() const;

  const CacheShape& shape() const { return shape_; }
  std::size_t capacity() const { return capacity_; }
  std::size_t value_stride() const { return value_stride_; }
  std::size_t raw_dims() const { return raw_dims_; }

  std::size_t length(std::size_t layer, std::size_t head) const {
    return lengths_[layer * shape_.heads + head];
  }
  void set_length(std::size_t layer, std::size_t head, std::size_t length) {
    lengths_[layer * shape_.heads + head] = length;
  }
  /// Longest head of a layer, in slots.
  std::size_t longest(std::size_t layer) const;

  float* keys(std::size_t layer, std::size_t head) { return segment(layer, head); }
  float* values(std::size_t layer, std::size_t head) { return segment(layer, head) + values_at_; }
  float* norms(std::size_t layer, std::size_t head) { return segment(layer, head) + norms_at_; }
  std::int32_t* positions(std::size_t layer, std::size_t head) {
    return reinterpret_cast<std::int32_t*>(segment(layer, head) + positions_at_);
  }
  float* raw(std::size_t layer, std::size_t head) { return segment(layer, head) + raw_at_; }
  const float* keys(std::size_t layer, std::size_t head) const { return segment(layer, head); }
  const float* values(std::size_t layer, std::size_t head) const {
    return segment(layer, head) + values_at_;
  }
  const float* norms(std::size_t layer, std::size_t head) const {
    return segment(layer, head) + norms_at_;
  }
  const std::int32_t* positions(std::size_t layer, std::size_t head) const {
    return reinterpret_cast<const std::int32_t*>(segment(layer, head) + positions_at_);
  }
  const float* raw(std::size_t layer, std::size_t head) const {
    return segment(layer, head) + raw_at_;
  }

  /// Exchanges all that two slots hold.
  void swap_slots(std::size_t layer, std::size_t head, std::size_t a, std::size_t b) noexcept;

  /// Zeroes the slots from the length on: what a stopped chunk left must not be read as numbers.
  void clear_tail(std::size_t layer, std::size_t head, std::size_t slots);

  /// To be called with the end of the keys that enter, before the length is set: where the panel of that
  /// slot is a new one, zeroes its lanes from there on.
  void clear_lanes(std::size_t layer, std::size_t head, std::size_t slot) noexcept;
  /// Zeroes the columns past head_dim of the values of these slots.
  void clear_padding(std::size_t layer, std::size_t head, std::size_t slot,
                     std::size_t count) noexcept;

  /// Bytes of keys and values in use, over all layers and heads (8 * head_dim a slot).
  std::size_t logical_bytes() const;
  /// Bytes that its slots would take, in use or not.
  std::size_t physical_bytes() const {
    return shape_.layers * shape_.heads * segment_ * sizeof(float);
  }

  /// To be called before that many slots of each head are written at once: where they are most of the
  /// arena, it asks for large pages, which attention reads faster.
  void expect(std::size_t slots) const;

private:
  float* segment(std::size_t layer, std::size_t head) const {
    return floats() + (layer * shape_.heads + head) * segment_;
  }

  float* floats() const { return reinterpret_cast<float*>(arena_.pages().data()); }

  CacheShape shape_{};
  std::size_t capacity_ = 0;
  std::size_t value_stride_ = 0;
  std::size_t raw_dims_ = 0;
  std::size_t values_at_ = 0;
  std::size_t norms_at_ = 0;
  std::size_t positions_at_ = 0;
  std::size_t raw_at_ = 0;
  std::size_t segment_ = 0;
  PooledPages arena_;
  std::vector<std::size_t> lengths_;
};

}  // namespace neoxref::engine
