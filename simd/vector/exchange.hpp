// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "simd/vector/lanes.hpp"

/// Lanes that change places.
namespace neoxref::simd::NEOXREF_ISA {
namespace {

/// Which lanes of one value go to which lanes of another.
struct LaneMove {
#if defined(__AVX512F__)
  __m512i from;
  __mmask16 moved;
#elif defined(__AVX2__)
  __m256i from[2];
  __m256 moved[2][2];  ///< [half that receives][half that gives]
#else
  uint8x16_t from[4];
#endif
};

/// from[l] is the lane that lane l receives, or 16 where it keeps its own.
NEOXREF_INLINE LaneMove lane_move(const std::int32_t (&from)[16]) {
  LaneMove move;
#if defined(__AVX512F__)
  move.from = _mm512_loadu_si512(from);
  move.moved = _mm512_cmplt_epi32_mask(move.from, _mm512_set1_epi32(16));
#elif defined(__AVX2__)
  for (std::size_t to = 0; to < 2; ++to) {
    move.from[to] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 8 * to));
    const __m256i half = _mm256_srli_epi32(move.from[to], 3);
    move.moved[to][0] = _mm256_castsi256_ps(_mm256_cmpeq_epi32(half, _mm256_setzero_si256()));
    move.moved[to][1] = _mm256_castsi256_ps(_mm256_cmpeq_epi32(half, _mm256_set1_epi32(1)));
  }
#else
  // Four bytes of a 64-byte table; an index past it keeps the byte.
  std::uint8_t bytes[64];
  for (std::size_t i = 0; i < 64; ++i) {
    const auto lane = static_cast<std::size_t>(from[i / 4]);
    bytes[i] = static_cast<std::uint8_t>(lane < 16 ? 4 * lane + i % 4 : 255);
  }
  repeat<4>([&](auto i) NEOXREF_INLINED { move.from[i] = vld1q_u8(bytes + 16 * i); });
#endif
  return move;
}

/// `to` with the moved lanes of `value` in their places.
NEOXREF_INLINE f32x16 moved_into(const f32x16& to, const f32x16& value, const LaneMove& move) {
  f32x16 v;
#if defined(__AVX512F__)
  v.part[0] = _mm512_mask_permutexvar_ps(to.part[0], move.moved, move.from, value.part[0]);
#elif defined(__AVX2__)
  repeat<2>([&](auto half) {
    const __m256 low = _mm256_permutevar8x32_ps(value.part[0], move.from[half]);
    const __m256 high = _mm256_permutevar8x32_ps(value.part[1], move.from[half]);
    const __m256 merged = _mm256_blendv_ps(to.part[half], low, move.moved[half][0]);
    v.part[half] = _mm256_blendv_ps(merged, high, move.moved[half][1]);
  });
#else
  uint8x16x4_t table;
  repeat<4>([&](auto i) NEOXREF_INLINED { table.val[i] = vreinterpretq_u8_f32(value.part[i]); });
  repeat<4>([&](auto i) NEOXREF_INLINED {
    v.part[i] =
        vreinterpretq_f32_u8(vqtbx4q_u8(vreinterpretq_u8_f32(to.part[i]), table, move.from[i]));
  });
#endif
  return v;
}

/// Of two rows whose numbers differ in the bit `distance`, the one without it (or, `second`, with it) after
/// that bit has changed places with the lanes'.
template <std::size_t distance, bool second, std::size_t... lane>
NEOXREF_INLINE Native32 exchanged(const Native32& a, const Native32& b,
                                  std::index_sequence<lane...>) {
  constexpr std::size_t size = sizeof...(lane);
  const Native32::register_type x = a;
  const Native32::register_type y = b;
  return Native32(
      __builtin_shufflevector(x, y,
                              static_cast<int>((lane & ~distance) + (second ? distance : 0) +
                                               (lane & distance ? size : 0))...));
}

/// Lane j of row i becomes lane i of row j.
template <std::size_t size, std::size_t distance = size / 2>
NEOXREF_INLINE void transpose(Native32 (&row)[size]) {
  repeat<size>([&](auto i) NEOXREF_INLINED {
    if constexpr ((i & distance) == 0) {
      constexpr auto all = std::make_index_sequence<size>{};
      const Native32 first = exchanged<distance, false>(row[i], row[i + distance], all);
      row[i + distance] = exchanged<distance, true>(row[i], row[i + distance], all);
      row[i] = first;
    }
  });
  if constexpr (distance > 1) transpose<size, distance / 2>(row);
}

/// Lane l ^ distance in lane l.
template <std::size_t distance, class Native, std::size_t... lane>
NEOXREF_INLINE Native swapped(const Native& a, std::index_sequence<lane...>) {
  const typename Native::register_type x = a;
  return Native(__builtin_shufflevector(x, x, static_cast<int>(lane ^ distance)...));
}

/// All lanes by one operation: l and l+8, then l and l+4, then l and l+2, then l and l+1. What commutes gives
/// the same in every lane.
template <class Native, std::size_t parts, class Operation>
NEOXREF_INLINE auto fold_lanes(const Native (&values)[parts], Operation&& operation) {
  Native part[parts];
  repeat<parts>([&](auto i) NEOXREF_INLINED { part[i] = values[i]; });
  for (std::size_t half = parts / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) part[i] = operation(part[i], part[i + half]);
  }
  constexpr auto all = std::make_index_sequence<Native::size>{};
  Native folded = part[0];
  if constexpr (Native::size > 8) folded = operation(folded, swapped<8>(folded, all));
  if constexpr (Native::size > 4) folded = operation(folded, swapped<4>(folded, all));
  if constexpr (Native::size > 2) folded = operation(folded, swapped<2>(folded, all));
  folded = operation(folded, swapped<1>(folded, all));
  return folded.get(0);
}

/// lane_sum's fold.
NEOXREF_INLINE double fold(const f64x16& a) {
  return fold_lanes(a.part,
                    [](const Native64& x, const Native64& y) NEOXREF_INLINED { return x + y; });
}

/// Of lanes without NaN; of zeros, any.
NEOXREF_INLINE float largest_lane(const f32x16& a) {
  return fold_lanes(a.part, [](const Native32& x, const Native32& y)
                                NEOXREF_INLINED { return xsimd::max(x, y); });
}

}  // namespace
}  // namespace neoxref::simd::NEOXREF_ISA
