// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Correctly rounded functions on 16 lanes. Each is evaluated in binary64 with a known bound on its
/// relative error. Where a midpoint of two binary32 values could lie within the bound (one lane in
/// 65,536 of gelu, fewer of others), both ends of that interval are rounded, and lanes where the two
/// differ are redone by the scalar definition. So the bits are those of evaluate() whatever the
/// polynomial, the instruction set or the neighbouring lanes.

#include <bit>
#include <cstdint>

#include "simd/kernels.hpp"
#include "simd/vector/bits.hpp"
#include "simd/vector/coefficients.hpp"
#include "simd/vector/lanes.hpp"

namespace neoxref::simd::NEOXREF_ISA {
namespace {

/// Bounds on the relative error of the binary64 values, at least 1.7 times what the errors of the
/// coefficients, of quotients and of the roundings add up to: exp 2^-44.5, gelu 2^-41.8; the others at
/// most 2^-43 (tanh), the arguments of gelu_tanh near -105 included.
inline constexpr int exp_bound = -43;
inline constexpr int gelu_bound = -41;
inline constexpr int other_bound = -42;

NEOXREF_INLINE f64x16 broadcast_bits(std::uint64_t bits) {
  return broadcast(std::bit_cast<double>(bits));
}

template <std::size_t count>
NEOXREF_INLINE f64x16 horner(const double (&coefficients)[count], const f64x16& x) {
  f64x16 value = broadcast(coefficients[count - 1]);
  repeat<count - 1>([&](auto i) NEOXREF_INLINED {
    value = fma(value, x, broadcast(coefficients[count - 2 - i]));
  });
  return value;
}

/// x^count + coefficients[count - 1] x^(count - 1) + ... + coefficients[0], square = x * x. The first step
/// is an addition, which many processors do beside their fma.
template <std::size_t count>
NEOXREF_INLINE f64x16 monic(const double (&coefficients)[count], const f64x16& x,
                            [[maybe_unused]] const f64x16& square) {
  static_assert(count > 1);
  const auto coefficient = [&](std::size_t i)
                               NEOXREF_INLINED { return broadcast(coefficients[i]); };
#if defined(__AVX512F__)
  // Even and odd powers side by side: two registers of lanes have too few chains to keep the units busy.
  f64x16 highest = square + coefficient(count - 2);
  f64x16 others = coefficient(count - 1);
  repeat<(count - 1) / 2>([&](auto i) NEOXREF_INLINED {
    if constexpr (2 * i + 4 <= count) {
      highest = fma(highest, square, coefficient(count - 4 - 2 * i));
    }
    others = fma(others, square, coefficient(count - 3 - 2 * i));
  });
  return count % 2 == 0 ? fma(others, x, highest) : fma(highest, x, others);
#else
  f64x16 value = x + coefficient(count - 1);
  repeat<count - 1>([&](auto i)
                        NEOXREF_INLINED { value = fma(value, x, coefficient(count - 2 - i)); });
  return value;
#endif
}

// ---- binary64 pieces --------------------------------------------------------------------------

/// z = (k + r) ln 2, |r| <= 1/2, so e^z = 2^k 2^r; returns r, and k as bits to add to an exponent.
/// |z| < 700. NaN stays NaN: widened from binary32 it has 29 low zero bits, so the field made of
/// them is zero.
NEOXREF_INLINE f64x16 split_exponent(const f64x16& z, f64x16& exponent,
                                     double log2_of_base = log2_e) {
  const f64x16 to_integer = broadcast(0x1.8p52);
  const f64x16 scale = broadcast(log2_of_base);
  const f64x16 k = fma(z, scale, to_integer);
  exponent = shift_left<52>(k);
  return fma(z, scale, to_integer - k);
}

#if defined(__AVX512F__)
/// base^z = 2^(k/16) 2^r, |r| <= 1/32, the base e unless said otherwise; as log2 below 1010 in size.
/// The table is in two registers, and so saves four steps.
NEOXREF_INLINE f64x16 exp_f64(const f64x16& z, double log2_of_base = log2_e,
                              const double (&powers)[16] = sixteenths) {
  const f64x16 to_sixteenths = broadcast(0x1.8p48);
  const f64x16 scale = broadcast(log2_of_base);
  const f64x16 k = fma(z, scale, to_sixteenths);
  const f64x16 r = fma(z, scale, to_sixteenths - k);
  const f64x16 power = add_bits(look_up(powers, k), shift_left<48>(k));
  return fma(power * r, horner(sixteenth_of_two, r), power);
}
/// exp(-square / 2) * tail_factor
NEOXREF_INLINE f64x16 scaled_density(const f64x16& square) {
  return exp_f64(square, -log2_e / 2, tail_sixteenths);
}
#else
NEOXREF_INLINE f64x16 exp_f64(const f64x16& z, double log2_of_base = log2_e) {
  f64x16 exponent;
  const f64x16 r = split_exponent(z, exponent, log2_of_base);
  return add_bits(fma(horner(power_of_two, r), r, broadcast(1.0)), exponent);
}
NEOXREF_INLINE f64x16 scaled_density(const f64x16& square) {
  return exp_f64(square, -log2_e / 2) * broadcast(tail_factor);
}
#endif

NEOXREF_INLINE f64x16 absolute(const f64x16& a) {
  return and_bits(a, broadcast_bits(0x7fffffffffffffffu));
}
NEOXREF_INLINE f64x16 negative_absolute(const f64x16& a) {
  return or_bits(a, broadcast_bits(0x8000000000000000u));
}

/// x / (1 + e^-z), where z has the sign of x; no cancellation on either side.
NEOXREF_INLINE f64x16 times_sigmoid(const f64x16& x, const f64x16& z) {
  const f64x16 one = broadcast(1.0);
  const f64x16 e = exp_f64(negative_absolute(z));
  const f64x16 top = select(x < broadcast(0.0), x * e, x);
  return quotient(top, one + e);
}

// ---- rounding and the exact path --------------------------------------------------------------

[[gnu::noinline, gnu::cold]] inline void redo(Function function, const float* x, const float* other,
                                              float* result) noexcept {
  for (std::size_t lane = 0; lane < 16; ++lane) {
    if (std::bit_cast<std::uint32_t>(result[lane]) != std::bit_cast<std::uint32_t>(other[lane])) {
      result[lane] = evaluate(function, x[lane]);
    }
  }
}

/// The binary32 nearest to the real value that `value` approximates within `bound`, where that is
/// not certain.
template <int exponent>
[[gnu::noinline, gnu::cold]] f32x16 round_both_ends(Function function, const f32x16& x,
                                                    const f64x16& value) noexcept {
  constexpr double bound = 1.0 / static_cast<double>(1ull << -exponent);
  const f32x16 low = to_f32(value * broadcast(1.0 - bound));
  const f32x16 high = to_f32(value * broadcast(1.0 + bound));
  if (!any((low < high) | (low > high))) return low;
  alignas(64) float arguments[16];
  alignas(64) float others[16];
  alignas(64) float results[16];
  store(arguments, x);
  store(others, high);
  store(results, low);
  redo(function, arguments, others, results);
  return load(results);
}

/// The binary32 nearest to the real value that `value` approximates within 2^exponent * |value|.
/// The 29 bits that binary32 lacks are 2^28 at a midpoint, and the bound is less than 2^(53+exponent)
/// units of the last of them; subnormal results, which lack more, always take the long way.
template <int exponent, bool positive = false>
NEOXREF_INLINE f32x16 round_correctly(Function function, const f32x16& x, const f64x16& value) {
  constexpr std::uint32_t reach = 1u << (53 + exponent);
  constexpr std::uint32_t missing = (1u << 29) - 1;
  const f32x16 result = to_f32(value);
  const bool near_midpoint = any_clear(value, (1u << 28) - reach, missing & ~(2 * reach - 1));
  auto small = result <= broadcast(0x1p-126f);
  if constexpr (!positive) small = small & (result >= broadcast(-0x1p-126f));
  if (near_midpoint || any(small)) [[unlikely]] {
    return round_both_ends<exponent>(function, x, value);
  }
  return result;
}

// ---- functions --------------------------------------------------------------------------------

/// e^x. Overflow gives +inf, -inf gives +0, subnormal results are kept.
NEOXREF_INLINE f32x16 exp(const f32x16& x) {
  const f64x16 z = to_f64(at_most(at_least(x, -105.0f), 90.0f));
  return round_correctly<exp_bound, true>(Function::exp, x, exp_f64(z));
}

/// x Phi(x) = max(x, 0) - t Phi(-t), t = |x|. Phi(-t) = exp(-t^2/2) times a quotient of polynomials.
/// A zero keeps its sign: at_least lets it pass, and +0 is taken from it.
NEOXREF_INLINE f32x16 gelu(const f32x16& x) {
  const f64x16 wide = to_f64(x);
  const f64x16 t = at_most(absolute(wide), 20.0);
  const f64x16 square = t * t;
  const f64x16 top = scaled_density(square) * (t * monic(tail_numerator, t, square));
  const f64x16 bottom = monic(tail_denominator, t, square);
  return round_correctly<gelu_bound>(Function::gelu, x,
                                     less_quotient(at_least(wide, 0.0), top, bottom));
}

NEOXREF_INLINE f32x16 silu(const f32x16& x) {
  const f32x16 low = at_least(x, -128.0f);
  const f64x16 z = to_f64(at_most(low, 128.0f));
  return round_correctly<other_bound>(Function::silu, x, times_sigmoid(to_f64(low), z));
}

NEOXREF_INLINE f32x16 quick_gelu(const f32x16& x) {
  const f32x16 low = at_least(x, -128.0f);
  const f64x16 z = to_f64(at_most(low, 128.0f)) * broadcast(1.702);
  return round_correctly<other_bound>(Function::quick_gelu, x, times_sigmoid(to_f64(low), z));
}

/// x sigmoid(2 c (x + 0.044715 x^3)) = 0.5 x (1 + tanh(c (x + 0.044715 x^3))).
NEOXREF_INLINE f32x16 gelu_by_tanh(Function function, const f32x16& x, double twice_c) {
  const f32x16 low = at_least(x, -20.0f);
  const f64x16 t = to_f64(at_most(low, 20.0f));
  const f64x16 z = fma(t * t, broadcast(0.044715), broadcast(1.0)) * (t * broadcast(twice_c));
  return round_correctly<other_bound>(function, x, times_sigmoid(to_f64(low), z));
}
NEOXREF_INLINE f32x16 gelu_tanh(const f32x16& x) {
  return gelu_by_tanh(Function::gelu_tanh, x, two_sqrt_2_over_pi);
}
NEOXREF_INLINE f32x16 gelu_fast(const f32x16& x) {
  return gelu_by_tanh(Function::gelu_fast, x, 2 * 0.7978845608);
}

/// With m = e^(-2|x|) - 1: tanh|x| = -m / (2 + m).
NEOXREF_INLINE f32x16 tanh(const f32x16& x) {
  const f64x16 t = to_f64(at_most(at_least(x, -20.0f), 20.0f));
  const f64x16 one = broadcast(1.0);
  f64x16 exponent;
  const f64x16 r = split_exponent(negative_absolute(t) * broadcast(2.0), exponent);
  const f64x16 power = add_bits(one, exponent);
  const f64x16 m = fma(power, horner(power_of_two, r) * r, power - one);
  const f64x16 sign = and_bits(t, broadcast_bits(0x8000000000000000u));
  const f64x16 size = absolute(quotient(m, m + broadcast(2.0)));
  return round_correctly<other_bound>(Function::tanh, x, or_bits(size, sign));
}

/// log x = k ln 2 + log m, m in [sqrt 1/2, sqrt 2), log m = 2 atanh((m - 1) / (m + 1)).
NEOXREF_INLINE f32x16 log(const f32x16& x) {
  const f64x16 wide = to_f64(x);
  const f64x16 one = broadcast(1.0);
  const f64x16 above = subtract_bits(wide, broadcast(0x1.6a09e667f3bcdp-1));
  const f64x16 power = and_bits(above, broadcast_bits(0xfff0000000000000u));
  const f64x16 m = subtract_bits(wide, power);
  const f64x16 biased = from_exponent_field(add_bits(power, broadcast_bits(1024ull << 52)));
  const f64x16 k = or_bits(biased, broadcast(0x1p52)) - broadcast(0x1p52 + 1024.0);
  const f64x16 s = quotient(m - one, m + one);
  f64x16 value = fma(k, broadcast(ln_2), horner(log_series, s * s) * s);
  const f64x16 nothing = broadcast(0.0);
  const f64x16 infinity = broadcast_bits(0x7ff0000000000000u);
  const f64x16 none = broadcast_bits(0x7ff8000000000000u);
  value = select(wide > nothing, value, select(wide == nothing, nothing - infinity, none));
  value = select(wide == infinity, infinity, value);
  return round_correctly<other_bound>(Function::log, x, value);
}

/// x > 0 ? x : +0, so NaN gives +0.
NEOXREF_INLINE f32x16 relu(const f32x16& x) {
  return select(x > zero(), x, zero());
}

/// x = (quadrant + r) pi/2 modulo 2 pi, |r| <= 1/2; the low bits of `quadrant` hold the integer.
/// x = m 2^e with |m| < 2^24 an integer (a fraction below 2^-30), and m 2^e 2/pi modulo 4 is m
/// times three tabulated parts; m times the first is exact, so what cancels is exact.
NEOXREF_INLINE f64x16 reduce_quadrant(const f32x16& x, f64x16& quadrant) {
  alignas(64) float argument[16];
  alignas(64) double integer[16];
  alignas(64) double part[3][16];
  store(argument, x);
  for (std::size_t lane = 0; lane < 16; ++lane) {
    const int exponent =
        static_cast<int>(std::bit_cast<std::uint32_t>(argument[lane]) >> 23 & 0xff) - 150;
    const int e = exponent > 104
                      ? 104
                      : (exponent < first_quadrant_exponent ? first_quadrant_exponent : exponent);
    const double power = std::bit_cast<double>(static_cast<std::uint64_t>(1023 - e) << 52);
    integer[lane] = exponent > 104 ? static_cast<double>(argument[lane] - argument[lane])
                                   : static_cast<double>(argument[lane]) * power;
    for (std::size_t j = 0; j < 3; ++j) {
      part[j][lane] = quadrant_parts[e - first_quadrant_exponent][j];
    }
  }
  const f64x16 m = load(integer);
  const f64x16 to_integer = broadcast(0x1.8p52);
  const f64x16 first = m * load(part[0]);
  const f64x16 middle = load(part[1]);
  const f64x16 b = m * middle;
  const f64x16 shifted = (first + b) + to_integer;
  quadrant = shifted;
  const f64x16 a = first - (shifted - to_integer);
  const f64x16 b_error = fma(m, middle, broadcast(0.0) - b);
  const f64x16 sum = a + b;
  const f64x16 b_seen = sum - a;
  const f64x16 sum_error = (a - (sum - b_seen)) + (b - b_seen);
  return sum + (sum_error + fma(m, load(part[2]), b_error));
}

/// sin(x + turn pi/2) for turn 0 or 1.
NEOXREF_INLINE f32x16 sine(Function function, const f32x16& x, std::uint64_t turn) {
  f64x16 shifted;
  const f64x16 r = reduce_quadrant(x, shifted);
  const f64x16 quadrant = add_bits(shifted, broadcast_bits(turn));
  const f64x16 square = r * r;
  const f64x16 odd = horner(sin_series, square) * r;
  const f64x16 even = horner(cos_series, square);
  // Bit 0 of the quadrant chooses the series, bit 1 the sign; as doubles, they are 2^52 + bit.
  const f64x16 low_bit = or_bits(and_bits(quadrant, broadcast_bits(1)), broadcast(0x1p52));
  const f64x16 size = select(low_bit > broadcast(0x1p52), even, odd);
  const f64x16 second_bit = or_bits(and_bits(quadrant, broadcast_bits(2)), broadcast(0x1p52));
  const f64x16 value = select(second_bit > broadcast(0x1p52), broadcast(0.0) - size, size);
  return round_correctly<other_bound>(function, x, value);
}
NEOXREF_INLINE f32x16 sin(const f32x16& x) {
  const f32x16 result = sine(Function::sin, x, 0);
  return select(x == zero(), x, result);
}
NEOXREF_INLINE f32x16 cos(const f32x16& x) {
  return sine(Function::cos, x, 1);
}

}  // namespace
}  // namespace neoxref::simd::NEOXREF_ISA
