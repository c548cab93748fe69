// SPDX-License-Identifier: Apache-2.0
#include "simd/vector/declare.hpp"
#include "simd/vector/exchange.hpp"
#include "simd/vector/lanes.hpp"

namespace neoxref::simd::NEOXREF_ISA {
namespace {

/// Merges the lanes of one panel into another, or within one.
void move_panel(const float* from, float* to, std::size_t head_dim, const LaneMove& move) noexcept {
  for (std::size_t d = 0; d < head_dim; ++d) {
    store(to + d * lanes, moved_into(load(to + d * lanes), load(from + d * lanes), move));
  }
}

/// The first slots that stay where they are.
std::size_t unmoved(const std::uint32_t* kept, std::size_t count) {
  std::size_t j = 0;
  while (j < count && kept[j] == j) ++j;
  return j;
}

}  // namespace

void store_keys(const float* key, std::size_t key_stride, std::size_t count, std::size_t head_dim,
                float* panels, std::size_t first_slot) noexcept {
  // Keys that fill a register of a panel are transposed: one store a component instead of one a lane, each of
  // which would wait for its cache line.
  constexpr std::size_t size = Native32::size;
  for (std::size_t i = 0; i < count;) {
    const std::size_t slot = first_slot + i;
    const std::size_t lane = slot % lanes;
    const float* from = key + i * key_stride;
    float* to = panels + slot / lanes * lanes * head_dim + lane;
    const std::size_t room = size - lane % size;
    const std::size_t taken = count - i < room ? count - i : room;
    std::size_t d = 0;
    for (; taken == size && d + size <= head_dim; d += size) {
      Native32 block[size];
      repeat<size>([&](auto r) NEOXREF_INLINED {
        block[r] = Native32::load_unaligned(from + r * key_stride + d);
      });
      transpose(block);
      repeat<size>([&](auto r) NEOXREF_INLINED { block[r].store_unaligned(to + (d + r) * lanes); });
    }
    for (; d < head_dim; ++d) {
      for (std::size_t l = 0; l < taken; ++l) to[d * lanes + l] = from[l * key_stride + d];
    }
    i += taken;
  }
}

void compact_keys(float* panels, std::size_t head_dim, const std::uint32_t* kept,
                  std::size_t count) noexcept {
  // kept[j] >= j: a panel is read for the last time no later than it is first written, and a panel
  // that gives to itself gives first.
  for (std::size_t j = unmoved(kept, count); j < count;) {
    const std::size_t to = j / lanes;
    const std::size_t from = kept[j] / lanes;
    std::int32_t source[lanes];
    for (std::int32_t& lane : source) lane = lanes;
    for (; j < count && j / lanes == to && kept[j] / lanes == from; ++j) {
      source[j % lanes] = static_cast<std::int32_t>(kept[j] % lanes);
    }
    move_panel(panels + from * lanes * head_dim, panels + to * lanes * head_dim, head_dim,
               lane_move(source));
  }
}

void compact_rows(float* rows, std::size_t stride, const std::uint32_t* kept,
                  std::size_t count) noexcept {
  for (std::size_t j = unmoved(kept, count); j < count;) {
    std::size_t run = 1;
    while (j + run < count && kept[j + run] == kept[j] + run) ++run;
    const float* from = rows + kept[j] * stride;
    float* to = rows + j * stride;
    const std::size_t n = run * stride;
    // The target lies before the source, so a copy in ascending order reads before it overwrites.
    for (std::size_t i = 0; i < n; i += lanes) {
      store_up_to(to + i, load_up_to(from + i, n - i), n - i);
    }
    j += run;
  }
}

}  // namespace neoxref::simd::NEOXREF_ISA
