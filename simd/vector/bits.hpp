// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "simd/vector/lanes.hpp"

/// Binary64 lanes as 64-bit integers: what the functions need of them.
namespace neoxref::simd::NEOXREF_ISA {
namespace {

#if defined(__AVX512F__)
#define NEOXREF_ON_BITS(wide, narrow, neon, a, b) \
  _mm512_castsi512_pd(_mm512_##wide(_mm512_castpd_si512(a), _mm512_castpd_si512(b)))
#elif defined(__AVX2__)
#define NEOXREF_ON_BITS(wide, narrow, neon, a, b) \
  _mm256_castsi256_pd(_mm256_##narrow(_mm256_castpd_si256(a), _mm256_castpd_si256(b)))
#else
#define NEOXREF_ON_BITS(wide, narrow, neon, a, b) \
  vreinterpretq_f64_u64(neon(vreinterpretq_u64_f64(a), vreinterpretq_u64_f64(b)))
#endif
#define NEOXREF_BITWISE(name, wide, narrow, neon)                            \
  NEOXREF_INLINE f64x16 name(const f64x16& a, const f64x16& b) {             \
    f64x16 v;                                                                \
    repeat<parts64>([&](auto i) NEOXREF_INLINED {                            \
      v.part[i] = NEOXREF_ON_BITS(wide, narrow, neon, a.part[i], b.part[i]); \
    });                                                                      \
    return v;                                                                \
  }
NEOXREF_BITWISE(add_bits, add_epi64, add_epi64, vaddq_u64)
NEOXREF_BITWISE(subtract_bits, sub_epi64, sub_epi64, vsubq_u64)
NEOXREF_BITWISE(and_bits, and_si512, and_si256, vandq_u64)
NEOXREF_BITWISE(or_bits, or_si512, or_si256, vorrq_u64)
#undef NEOXREF_BITWISE
#undef NEOXREF_ON_BITS

/// True if some lane has none of the bits of `mask` in its low 32 bits less `shift`.
NEOXREF_INLINE bool any_clear(const f64x16& a, std::uint32_t shift, std::uint32_t mask) {
#if defined(__AVX512F__)
  const __m512i low = _mm512_castps_si512(
      _mm512_shuffle_ps(_mm512_castpd_ps(a.part[0]), _mm512_castpd_ps(a.part[1]), 0x88));
  const __m512i shifted = _mm512_sub_epi32(low, _mm512_set1_epi32(static_cast<int>(shift)));
  return _mm512_testn_epi32_mask(shifted, _mm512_set1_epi32(static_cast<int>(mask))) != 0;
#elif defined(__AVX2__)
  const __m256i bits = _mm256_set1_epi32(static_cast<int>(mask));
  __m256i clear = _mm256_setzero_si256();
  repeat<parts64 / 2>([&](auto i) NEOXREF_INLINED {
    const __m256i low = _mm256_castps_si256(_mm256_shuffle_ps(
        _mm256_castpd_ps(a.part[2 * i]), _mm256_castpd_ps(a.part[2 * i + 1]), 0x88));
    const __m256i shifted = _mm256_sub_epi32(low, _mm256_set1_epi32(static_cast<int>(shift)));
    const __m256i masked = _mm256_and_si256(shifted, bits);
    clear = _mm256_or_si256(clear, _mm256_cmpeq_epi32(masked, _mm256_setzero_si256()));
  });
  return _mm256_testz_si256(clear, clear) == 0;
#else
  const uint32x4_t bits = vdupq_n_u32(mask);
  uint32x4_t all = vdupq_n_u32(~0u);
  repeat<parts64 / 2>([&](auto i) NEOXREF_INLINED {
    const uint32x4_t low =
        vuzp1q_u32(vreinterpretq_u32_f64(a.part[2 * i]), vreinterpretq_u32_f64(a.part[2 * i + 1]));
    all = vandq_u32(all, vtstq_u32(vsubq_u32(low, vdupq_n_u32(shift)), bits));
  });
  return vminvq_u32(all) == 0;
#endif
}

/// The low bits moved up by `places`; with 52, the low 12 to where sign and exponent are.
template <int places>
NEOXREF_INLINE f64x16 shift_left(const f64x16& a) {
  f64x16 v;
  repeat<parts64>([&](auto i) NEOXREF_INLINED {
#if defined(__AVX512F__)
    v.part[i] = _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(a.part[i]), places));
#elif defined(__AVX2__)
    v.part[i] = _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(a.part[i]), places));
#else
    v.part[i] = vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(a.part[i]), places));
#endif
  });
  return v;
}

#if defined(__AVX512F__)
/// table[i], i the low 4 bits of a lane.
NEOXREF_INLINE f64x16 look_up(const double (&table)[16], const f64x16& index) {
  f64x16 v;
  repeat<parts64>([&](auto i) NEOXREF_INLINED {
    v.part[i] = _mm512_permutex2var_pd(_mm512_loadu_pd(table), _mm512_castpd_si512(index.part[i]),
                                       _mm512_loadu_pd(table + 8));
  });
  return v;
}
#endif

/// Sign and exponent bits moved down to an integer in [0, 4096).
NEOXREF_INLINE f64x16 from_exponent_field(const f64x16& a) {
  f64x16 v;
  repeat<parts64>([&](auto i) NEOXREF_INLINED {
#if defined(__AVX512F__)
    v.part[i] = _mm512_castsi512_pd(_mm512_srli_epi64(_mm512_castpd_si512(a.part[i]), 52));
#elif defined(__AVX2__)
    v.part[i] = _mm256_castsi256_pd(_mm256_srli_epi64(_mm256_castpd_si256(a.part[i]), 52));
#else
    v.part[i] = vreinterpretq_f64_u64(vshrq_n_u64(vreinterpretq_u64_f64(a.part[i]), 52));
#endif
  });
  return v;
}

}  // namespace
}  // namespace neoxref::simd::NEOXREF_ISA
