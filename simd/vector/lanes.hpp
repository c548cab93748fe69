// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The 16-lane types every vector kernel is written on, and with bits.hpp and exchange.hpp the only files
/// that use intrinsics. From xsimd come load, store, +, -, *, compare, select, min and max; division, square
/// root, fma and conversions are the instructions themselves, because xsimd estimates, splits or
/// reorders some of them on some machines.
///
/// Each instruction set compiles this file into its own namespace with internal linkage
/// (NEOXREF_ISA), so that no copy built for a wider machine can be the one the linker keeps.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <xsimd/xsimd.hpp>

#ifndef NEOXREF_ISA
#error "vector kernels are compiled once per instruction set, with -DNEOXREF_ISA=name"
#endif
#ifdef __FAST_MATH__
#error "the contract needs IEEE arithmetic: no -ffast-math"
#endif

#define NEOXREF_INLINE [[gnu::always_inline]] inline
/// For lambdas: gcc leaves calls in long kernels otherwise.
#define NEOXREF_INLINED __attribute__((always_inline))

namespace neoxref::simd::NEOXREF_ISA {
namespace {

#if defined(__AVX512F__)
using Arch = xsimd::avx512bw;
#elif defined(__AVX2__) && defined(__FMA__)
using Arch = xsimd::fma3<xsimd::avx2>;
#elif defined(__aarch64__)
using Arch = xsimd::neon64;
#else
#error "no 16-lane type for this instruction set"
#endif

using Native32 = xsimd::batch<float, Arch>;
using Native64 = xsimd::batch<double, Arch>;
using NativeMask32 = typename Native32::batch_bool_type;
using NativeMask64 = typename Native64::batch_bool_type;

/// Registers of one 16-lane value.
inline constexpr std::size_t parts32 = 16 / Native32::size;
inline constexpr std::size_t parts64 = 16 / Native64::size;

/// f(0), f(1), ... f(count - 1) with the index as a constant: loops that must live in registers.
template <std::size_t count, class F>
NEOXREF_INLINE void repeat(F&& f) {
  [&]<std::size_t... i>(std::index_sequence<i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<std::size_t, i>{}), ...);
  }
  (std::make_index_sequence<count>{});
}

struct f32x16 {
  Native32 part[parts32];
};
struct f64x16 {
  Native64 part[parts64];
};
struct mask32x16 {
  NativeMask32 part[parts32];
};
struct mask64x16 {
  NativeMask64 part[parts64];
};

// ---- binary32 ------------------------------------------------------------------------------

NEOXREF_INLINE f32x16 load(const float* p) {
  f32x16 v;
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
    v.part[i] = Native32::load_unaligned(p + i * Native32::size);
  });
  return v;
}

NEOXREF_INLINE void store(float* p, const f32x16& v) {
  repeat<parts32>([&](auto i)
                      NEOXREF_INLINED { v.part[i].store_unaligned(p + i * Native32::size); });
}

#if defined(__AVX2__) && !defined(__AVX512F__)
/// All bits in the lanes of one register, the first of them lane `first` of 16, that lie below n.
NEOXREF_INLINE __m256i low_lanes(std::size_t n, int first) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n) - first), lane);
}
#endif

/// The first n < 16 lanes from memory, the others +0; nothing past them is read.
NEOXREF_INLINE f32x16 load_part(const float* p, std::size_t n) {
#if defined(__AVX512F__)
  return {{Native32(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p))}};
#elif defined(__AVX2__)
  return {{Native32(_mm256_maskload_ps(p, low_lanes(n, 0))),
           Native32(_mm256_maskload_ps(p + 8, low_lanes(n, 8)))}};
#else
  alignas(64) float buffer[16] = {};
  std::memcpy(buffer, p, n * sizeof(float));
  return load(buffer);
#endif
}

/// Writes the first n < 16 lanes only.
NEOXREF_INLINE void store_part(float* p, const f32x16& v, std::size_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), v.part[0]);
#elif defined(__AVX2__)
  _mm256_maskstore_ps(p, low_lanes(n, 0), v.part[0]);
  _mm256_maskstore_ps(p + 8, low_lanes(n, 8), v.part[1]);
#else
  alignas(64) float buffer[16];
  store(buffer, v);
  std::memcpy(p, buffer, n * sizeof(float));
#endif
}

/// load / store of min(n, 16) lanes.
NEOXREF_INLINE f32x16 load_up_to(const float* p, std::size_t n) {
  return n >= 16 ? load(p) : load_part(p, n);
}
NEOXREF_INLINE void store_up_to(float* p, const f32x16& v, std::size_t n) {
  if (n >= 16) {
    store(p, v);
  } else {
    store_part(p, v, n);
  }
}

/// f(i, n) for every 16 elements of `length` in turn, n of them: 16, as a constant, but for the last.
template <class F>
NEOXREF_INLINE void each_sixteen(std::size_t length, F&& f) {
  std::size_t i = 0;
  for (; i + 16 <= length; i += 16) f(i, std::size_t{16});
  if (i < length) f(i, length - i);
}

NEOXREF_INLINE f32x16 broadcast(float x) {
  f32x16 v;
  const Native32 one(x);
  repeat<parts32>([&](auto i) NEOXREF_INLINED { v.part[i] = one; });
  return v;
}

NEOXREF_INLINE f32x16 zero() {
  return broadcast(0.0f);
}

#define NEOXREF_LANEWISE(type, parts, op)                                               \
  NEOXREF_INLINE type operator op(const type& a, const type& b) {                       \
    type v;                                                                             \
    repeat<parts>([&](auto i) NEOXREF_INLINED { v.part[i] = a.part[i] op b.part[i]; }); \
    return v;                                                                           \
  }
NEOXREF_LANEWISE(f32x16, parts32, +)
NEOXREF_LANEWISE(f32x16, parts32, -)
NEOXREF_LANEWISE(f32x16, parts32, *)
NEOXREF_LANEWISE(f64x16, parts64, +)
NEOXREF_LANEWISE(f64x16, parts64, -)
NEOXREF_LANEWISE(f64x16, parts64, *)
NEOXREF_LANEWISE(mask32x16, parts32, |)
NEOXREF_LANEWISE(mask32x16, parts32, &)
NEOXREF_LANEWISE(mask64x16, parts64, |)
NEOXREF_LANEWISE(mask64x16, parts64, &)
#undef NEOXREF_LANEWISE

#define NEOXREF_COMPARE(type, mask, parts, op)                                          \
  NEOXREF_INLINE mask operator op(const type& a, const type& b) {                       \
    mask m;                                                                             \
    repeat<parts>([&](auto i) NEOXREF_INLINED { m.part[i] = a.part[i] op b.part[i]; }); \
    return m;                                                                           \
  }
NEOXREF_COMPARE(f32x16, mask32x16, parts32, <)
NEOXREF_COMPARE(f32x16, mask32x16, parts32, >)
NEOXREF_COMPARE(f32x16, mask32x16, parts32, <=)
NEOXREF_COMPARE(f32x16, mask32x16, parts32, >=)
NEOXREF_COMPARE(f32x16, mask32x16, parts32, ==)
NEOXREF_COMPARE(f64x16, mask64x16, parts64, <)
NEOXREF_COMPARE(f64x16, mask64x16, parts64, >)
NEOXREF_COMPARE(f64x16, mask64x16, parts64, <=)
NEOXREF_COMPARE(f64x16, mask64x16, parts64, >=)
NEOXREF_COMPARE(f64x16, mask64x16, parts64, ==)
#undef NEOXREF_COMPARE

NEOXREF_INLINE bool any(const mask32x16& m) {
  bool result = false;
  repeat<parts32>([&](auto i) NEOXREF_INLINED { result = result || xsimd::any(m.part[i]); });
  return result;
}
NEOXREF_INLINE bool any(const mask64x16& m) {
  bool result = false;
  repeat<parts64>([&](auto i) NEOXREF_INLINED { result = result || xsimd::any(m.part[i]); });
  return result;
}

/// m ? a : b, lane by lane.
NEOXREF_INLINE f32x16 select(const mask32x16& m, const f32x16& a, const f32x16& b) {
  f32x16 v;
  repeat<parts32>(
      [&](auto i) NEOXREF_INLINED { v.part[i] = xsimd::select(m.part[i], a.part[i], b.part[i]); });
  return v;
}
NEOXREF_INLINE f64x16 select(const mask64x16& m, const f64x16& a, const f64x16& b) {
  f64x16 v;
  repeat<parts64>(
      [&](auto i) NEOXREF_INLINED { v.part[i] = xsimd::select(m.part[i], a.part[i], b.part[i]); });
  return v;
}

NEOXREF_INLINE bool all(const mask32x16& m) {
  bool result = true;
  repeat<parts32>([&](auto i) NEOXREF_INLINED { result = result && xsimd::all(m.part[i]); });
  return result;
}

/// True in the lanes below n.
NEOXREF_INLINE mask32x16 first_lanes(std::size_t n) {
  alignas(64) static constexpr float index[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                  8, 9, 10, 11, 12, 13, 14, 15};
  return load(index) < broadcast(static_cast<float>(n < 16 ? n : 16));
}

/// candidate > best ? candidate : best: a NaN candidate is passed over, best must not be NaN.
NEOXREF_INLINE f32x16 larger(const f32x16& candidate, const f32x16& best) {
  f32x16 v;
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
#if defined(__AVX512F__)
    v.part[i] = _mm512_max_ps(candidate.part[i], best.part[i]);
#elif defined(__AVX2__)
    v.part[i] = _mm256_max_ps(candidate.part[i], best.part[i]);
#else
    v.part[i] = vmaxnmq_f32(candidate.part[i], best.part[i]);
#endif
  });
  return v;
}

#if defined(__AVX512F__)
#define NEOXREF_OF_THREE(wide, narrow, neon) wide
#elif defined(__AVX2__)
#define NEOXREF_OF_THREE(wide, narrow, neon) narrow
#else
#define NEOXREF_OF_THREE(wide, narrow, neon) neon
/// vmaxq would make +0 of two zeros.
NEOXREF_INLINE float64x2_t second_unless_less(float64x2_t first, float64x2_t second) {
  return vbslq_f64(vcltq_f64(second, first), first, second);
}
#endif
/// at_least: a < b ? b : a, at_most: a > b ? b : a; a NaN stays, b must not be NaN, and 0 only in
/// at_least of binary64.
#define NEOXREF_BOUND(name, type, element, native, parts, wide, narrow, neon) \
  NEOXREF_INLINE type name(const type& a, element b) {                        \
    type v;                                                                   \
    const native bound(b);                                                    \
    repeat<parts>([&](auto i) NEOXREF_INLINED {                               \
      v.part[i] = NEOXREF_OF_THREE(wide, narrow, neon)(bound, a.part[i]);     \
    });                                                                       \
    return v;                                                                 \
  }
NEOXREF_BOUND(at_least, f32x16, float, Native32, parts32, _mm512_max_ps, _mm256_max_ps, vmaxq_f32)
NEOXREF_BOUND(at_most, f32x16, float, Native32, parts32, _mm512_min_ps, _mm256_min_ps, vminq_f32)
NEOXREF_BOUND(at_least, f64x16, double, Native64, parts64, _mm512_max_pd, _mm256_max_pd,
              second_unless_less)
NEOXREF_BOUND(at_most, f64x16, double, Native64, parts64, _mm512_min_pd, _mm256_min_pd, vminq_f64)
#undef NEOXREF_BOUND
#undef NEOXREF_OF_THREE

NEOXREF_INLINE Native32 fma_native(const Native32& a, const Native32& b, const Native32& c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return vfmaq_f32(c, a, b);
#endif
}
NEOXREF_INLINE Native64 fma_native(const Native64& a, const Native64& b, const Native64& c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_pd(a, b, c);
#else
  return vfmaq_f64(c, a, b);
#endif
}

/// a * b + c with one rounding.
NEOXREF_INLINE f32x16 fma(const f32x16& a, const f32x16& b, const f32x16& c) {
  f32x16 v;
  repeat<parts32>([&](auto i)
                      NEOXREF_INLINED { v.part[i] = fma_native(a.part[i], b.part[i], c.part[i]); });
  return v;
}
NEOXREF_INLINE f64x16 fma(const f64x16& a, const f64x16& b, const f64x16& c) {
  f64x16 v;
  repeat<parts64>([&](auto i)
                      NEOXREF_INLINED { v.part[i] = fma_native(a.part[i], b.part[i], c.part[i]); });
  return v;
}

/// IEEE quotient, rounded to nearest even.
NEOXREF_INLINE f32x16 divide(const f32x16& a, const f32x16& b) {
  f32x16 v;
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
#if defined(__AVX512F__)
    v.part[i] = _mm512_div_ps(a.part[i], b.part[i]);
#elif defined(__AVX2__)
    v.part[i] = _mm256_div_ps(a.part[i], b.part[i]);
#else
    v.part[i] = vdivq_f32(a.part[i], b.part[i]);
#endif
  });
  return v;
}
NEOXREF_INLINE f64x16 divide(const f64x16& a, const f64x16& b) {
  f64x16 v;
  repeat<parts64>([&](auto i) NEOXREF_INLINED {
#if defined(__AVX512F__)
    v.part[i] = _mm512_div_pd(a.part[i], b.part[i]);
#elif defined(__AVX2__)
    v.part[i] = _mm256_div_pd(a.part[i], b.part[i]);
#else
    v.part[i] = vdivq_f64(a.part[i], b.part[i]);
#endif
  });
  return v;
}

#if defined(__AVX512F__)
/// 1 / b within 2^-51 of its size, for b from 2^-100 to 2^100. A division costs as much as many products.
NEOXREF_INLINE Native64 reciprocal(const Native64& b) {
  const __m512d one = _mm512_set1_pd(1.0);
  __m512d inverse = _mm512_rcp14_pd(b);
  for (int step = 0; step < 2; ++step) {
    inverse = _mm512_fmadd_pd(_mm512_fnmadd_pd(b, inverse, one), inverse, inverse);
  }
  return inverse;
}
#endif

/// a / b within 2^-50 of its size, for b from 2^-100 to 2^100: what is rounded to binary32 under a
/// bound needs no more.
NEOXREF_INLINE f64x16 quotient(const f64x16& a, const f64x16& b) {
#if defined(__AVX512F__)
  f64x16 v;
  repeat<parts64>([&](auto i) NEOXREF_INLINED { v.part[i] = a.part[i] * reciprocal(b.part[i]); });
  return v;
#else
  return divide(a, b);
#endif
}

/// a - b / c, the quotient within 2^-41.99 of its size, for c from 2^-100 to 2^100.
NEOXREF_INLINE f64x16 less_quotient(const f64x16& a, const f64x16& b, const f64x16& c) {
#if defined(__AVX512F__)
  f64x16 v;
  repeat<parts64>([&](auto i) NEOXREF_INLINED {
    // 1 / c = y / (1 - e), |e| < 2^-14, and 1 / (1 - e) is 1 + e + e^2 within 2^-42.
    const __m512d y = _mm512_rcp14_pd(c.part[i]);
    const __m512d e = _mm512_fnmadd_pd(c.part[i], y, _mm512_set1_pd(1.0));
    const __m512d inverse = _mm512_fmadd_pd(_mm512_fmadd_pd(e, e, e), y, y);
    v.part[i] = _mm512_fnmadd_pd(b.part[i], inverse, a.part[i]);
  });
  return v;
#else
  return a - divide(b, c);
#endif
}

/// IEEE square root, rounded to nearest even.
NEOXREF_INLINE f32x16 square_root(const f32x16& a) {
  f32x16 v;
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
#if defined(__AVX512F__)
    v.part[i] = _mm512_sqrt_ps(a.part[i]);
#elif defined(__AVX2__)
    v.part[i] = _mm256_sqrt_ps(a.part[i]);
#else
    v.part[i] = vsqrtq_f32(a.part[i]);
#endif
  });
  return v;
}

// ---- binary64 ------------------------------------------------------------------------------

NEOXREF_INLINE f64x16 load(const double* p) {
  f64x16 v;
  repeat<parts64>([&](auto i) NEOXREF_INLINED {
    v.part[i] = Native64::load_unaligned(p + i * Native64::size);
  });
  return v;
}

NEOXREF_INLINE void store(double* p, const f64x16& v) {
  repeat<parts64>([&](auto i)
                      NEOXREF_INLINED { v.part[i].store_unaligned(p + i * Native64::size); });
}

NEOXREF_INLINE f64x16 broadcast(double x) {
  f64x16 v;
  const Native64 one(x);
  repeat<parts64>([&](auto i) NEOXREF_INLINED { v.part[i] = one; });
  return v;
}

/// Exact.
NEOXREF_INLINE f64x16 to_f64(const f32x16& a) {
  f64x16 v;
#if defined(__AVX512F__)
  v.part[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(a.part[0]));
  v.part[1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.part[0], 1));
#elif defined(__AVX2__)
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
    v.part[2 * i] = _mm256_cvtps_pd(_mm256_castps256_ps128(a.part[i]));
    v.part[2 * i + 1] = _mm256_cvtps_pd(_mm256_extractf128_ps(a.part[i], 1));
  });
#else
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
    v.part[2 * i] = vcvt_f64_f32(vget_low_f32(a.part[i]));
    v.part[2 * i + 1] = vcvt_high_f64_f32(a.part[i]);
  });
#endif
  return v;
}

/// Rounded to nearest even.
NEOXREF_INLINE f32x16 to_f32(const f64x16& a) {
  f32x16 v;
#if defined(__AVX512F__)
  v.part[0] = _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(a.part[0])),
                                 _mm512_cvtpd_ps(a.part[1]), 1);
#elif defined(__AVX2__)
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
    v.part[i] = _mm256_set_m128(_mm256_cvtpd_ps(a.part[2 * i + 1]), _mm256_cvtpd_ps(a.part[2 * i]));
  });
#else
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
    v.part[i] = vcvt_high_f32_f64(vcvt_f32_f64(a.part[2 * i]), a.part[2 * i + 1]);
  });
#endif
  return v;
}

// ---- 16-bit storage, widened exactly ---------------------------------------------------------

struct f16_bits {
  std::uint16_t bits;
};
struct bf16_bits {
  std::uint16_t bits;
};

NEOXREF_INLINE f32x16 load(const f16_bits* p) {
  f32x16 v;
#if defined(__AVX512F__)
  v.part[0] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
    v.part[i] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * i)));
  });
#else
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
    v.part[i] = vcvt_f32_f16(
        vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p + 4 * i))));
  });
#endif
  return v;
}

NEOXREF_INLINE f32x16 load(const bf16_bits* p) {
  f32x16 v;
#if defined(__AVX512F__)
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  v.part[0] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
#elif defined(__AVX2__)
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * i));
    v.part[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
  });
#else
  repeat<parts32>([&](auto i) NEOXREF_INLINED {
    v.part[i] = vreinterpretq_f32_u32(
        vshll_n_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p + 4 * i)), 16));
  });
#endif
  return v;
}

}  // namespace
}  // namespace neoxref::simd::NEOXREF_ISA
