// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

/// The operations of the contract in portable C++: no intrinsics, no libm.
namespace neoxref::simd::scalar {

static_assert(sizeof(float) == 4 && sizeof(double) == 8);
#ifdef __FLT_EVAL_METHOD__
static_assert(__FLT_EVAL_METHOD__ == 0, "float expressions must be evaluated in binary32");
#endif

/// a * b + c with one rounding, also where there is no FMA unit: the product is exact in binary64,
/// the sum is rounded to odd there, and 53 >= 24 + 2 bits make the second rounding harmless.
inline float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double addend = static_cast<double>(c);
  double sum = product + addend;
  const double back = sum - product;
  const double error = (product - (sum - back)) + (addend - back);
  if (error < 0.0 || error > 0.0) {
    const auto bits = std::bit_cast<std::uint64_t>(sum);
    if ((bits & 1) == 0) {
      const bool away_from_zero = (error > 0.0) == (sum > 0.0);
      sum = std::bit_cast<double>(away_from_zero ? bits + 1 : bits - 1);
    }
  }
  return static_cast<float>(sum);
#endif
}

/// Only the oracle in binary64 computes with this; no result of the contract does.
inline double fma(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}

inline float square_root(float x) {
  return std::sqrt(x);
}

/// Exact.
inline float widen_f16(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t exponent = (h >> 10) & 31u;
  const std::uint32_t mantissa = h & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

/// Exact.
inline float widen_bf16(std::uint16_t b) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16);
}

/// The contract's dot: blocks of 64 anchored at 0, fma ascending from +0, sums added in order.
/// a, b are called with the index and give binary32 values (binary64 ones in that oracle).
template <class A, class B>
auto dot(std::size_t length, A a, B b) {
  using Real = std::decay_t<decltype(a(std::size_t{}))>;
  Real total = 0;
  for (std::size_t start = 0; start < length; start += 64) {
    const std::size_t end = length - start < 64 ? length : start + 64;
    Real sum = 0;
    for (std::size_t k = start; k < end; ++k) sum = fma(a(k), b(k), sum);
    total = total + sum;
  }
  return total;
}

/// The contract's lane_sum of value(0) .. value(length - 1), binary64.
template <class Value>
double lane_sum(std::size_t length, Value value) {
  double lane[16] = {};
  for (std::size_t i = 0; i < length; ++i) lane[i % 16] += static_cast<double>(value(i));
  for (std::size_t width = 8; width > 0; width /= 2) {
    for (std::size_t l = 0; l < width; ++l) lane[l] += lane[l + width];
  }
  return lane[0];
}

}  // namespace neoxref::simd::scalar
