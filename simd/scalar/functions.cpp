// SPDX-License-Identifier: Apache-2.0

/// The functions of the contract as plain code in double-double, rounded to binary32 once.
///
/// Each operation errs by less than 2^-101 of its result. What multiplies that: an exponent z turns
/// the error of z into |z| times as much (|z| <= 110: 2^-95), and the sum 1/2 + ... that gives
/// Phi(x) for -3 < x < 0 loses nine bits (2^-94); 2^-93 bounds all, and against MPFR the largest
/// error seen is 2^-95. A result is wrong only if the real value lies that close to a midpoint of
/// two binary32 numbers without being one. Of the 2^32 arguments of each function the closest comes
/// to 2^-77 (docs/functions.md), far outside. Values that are midpoints up to an invisible
/// excess (x/2 for subnormal x) are rounded by the sign of the excess, exact powers in integers.
/// For pow that leaves pairs nobody has looked at: a random pair comes within 2^-93 of a midpoint
/// with probability 2^-69, and every pair a rotary table uses (bases of known checkpoints, all
/// dimensions up to 512) and 10 million others were compared with MPFR.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "simd/kernels.hpp"
#include "simd/scalar/double_double.hpp"

namespace neoxref::simd {
namespace {

constexpr DoubleDouble one{1};
constexpr DoubleDouble ln_2{0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};
constexpr DoubleDouble half_pi{0x1.921fb54442d18p+0, 0x1.1a62633145c07p-54};
constexpr DoubleDouble inverse_root_of_two_pi{0x1.9884533d43651p-2, -0x1.cbc0d30ebfd15p-56};
/// The decimals 1.702, 0.044715 and twice 0.7978845608, and twice the real sqrt(2/pi).
constexpr DoubleDouble quick_slope{0x1.b3b645a1cac08p+0, 0x1.89374bc6a7efap-55};
constexpr DoubleDouble cubic_share{0x1.6e4e26d4801f7p-5, 0x1.441355475a31ap-59};
constexpr DoubleDouble twice_decimal_c{0x1.9884533d3d180p+0, -0x1.1f0d2c258754fp-54};
constexpr DoubleDouble twice_real_c{0x1.9884533d43651p+0, -0x1.cbc0d30ebfd15p-54};

/// 1/n for n < 128.
constexpr auto inverse = [] {
  std::array<DoubleDouble, 128> table{};
  for (std::size_t n = 1; n < table.size(); ++n) {
    table[n] = one / DoubleDouble{static_cast<double>(n)};
  }
  return table;
}();

constexpr float infinity = std::numeric_limits<float>::infinity();

float size_of(float x) {
  return x < 0 ? -x : x;
}

// ---- exponentials -----------------------------------------------------------------------------

int nearest_integer(double x) {
  return static_cast<int>(x < 0 ? x - 0.5 : x + 0.5);
}

/// e^r - 1 for |r| <= 0.35, relatively accurate: r + r^2/2! + ... + r^25/25!, remainder 2^-122.
DoubleDouble exp_minus_one_series(DoubleDouble r) {
  DoubleDouble sum = one;
  for (std::size_t n = 25; n >= 2; --n) sum = one + r * sum * inverse[n];
  return r * sum;
}

/// e^z, |z| < 700.
DoubleDouble exp_of(DoubleDouble z) {
  const int k = nearest_integer(z.head * 1.4426950408889634);
  const DoubleDouble r = z - ln_2 * DoubleDouble{static_cast<double>(k)};
  return scale(one + exp_minus_one_series(r), k);
}

/// e^z - 1, relatively accurate near 0.
DoubleDouble exp_minus_one(DoubleDouble z) {
  if (z.head > -0.34 && z.head < 0.34) return exp_minus_one_series(z);
  return exp_of(z) - one;
}

DoubleDouble sigmoid(DoubleDouble z) {
  const DoubleDouble e = exp_of(z.head < 0 ? z : -z);
  return (z.head < 0 ? e : one) / (one + e);
}

// ---- logarithm --------------------------------------------------------------------------------

/// log x = k ln 2 + 2 atanh(s), s = (m - 1) / (m + 1), x = m 2^k with m in [sqrt 1/2, sqrt 2).
/// s^2 < 0.0295, so the 22 terms of atanh leave 2^-112.
DoubleDouble log_of(float x) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(static_cast<double>(x));
  int k = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0xfffffffffffffu) | 0x3ff0000000000000u);
  if (m > 1.4142135) {
    m /= 2;
    ++k;
  }
  const DoubleDouble s = DoubleDouble{m - 1} / DoubleDouble{m + 1};
  const DoubleDouble square = s * s;
  DoubleDouble sum{0};
  for (std::size_t n = 22; n-- > 0;) sum = sum * square + inverse[2 * n + 1];
  return ln_2 * DoubleDouble{static_cast<double>(k)} + scale(s * sum, 1);
}

// ---- the normal distribution ------------------------------------------------------------------

/// exp(-x^2 / 2) / sqrt(2 pi).
DoubleDouble density(double x) {
  return exp_of(scale(-multiply_exactly(x, x), -1)) * inverse_root_of_two_pi;
}

/// Phi(x) = 1/2 + density(x) (x + x^3/3 + x^5/(3 5) + ...), |x| < 3; 70 terms leave 2^-150.
DoubleDouble normal_near_zero(double x) {
  const DoubleDouble square = multiply_exactly(x, x);
  DoubleDouble term{x};
  DoubleDouble sum = term;
  for (std::size_t n = 3; n < 128; n += 2) {
    term = term * square * inverse[n];
    sum = sum + term;
  }
  return DoubleDouble{0.5} + density(x) * sum;
}

/// Phi(-t) = density(t) / (t + 1/(t + 2/(t + 3/(t + ...)))), t >= 3; 180 levels leave 2^-105.
DoubleDouble normal_tail(double t) {
  DoubleDouble fraction{t};
  for (int n = 180; n >= 1; --n) {
    fraction = DoubleDouble{t} + DoubleDouble{static_cast<double>(n)} / fraction;
  }
  return density(t) / fraction;
}

DoubleDouble normal_distribution(double x) {
  if (x > -3 && x < 3) return normal_near_zero(x);
  return x < 0 ? normal_tail(-x) : one - normal_tail(x);
}

// ---- x times a distribution -------------------------------------------------------------------

/// z of x sigmoid(z): twice c (x + 0.044715 x^3).
DoubleDouble tanh_argument(double x, DoubleDouble twice_c) {
  return twice_c * DoubleDouble{x} * (one + cubic_share * multiply_exactly(x, x));
}

DoubleDouble share_of(Function function, double x) {
  switch (function) {
    case Function::silu:
      return sigmoid({x});
    case Function::quick_gelu:
      return sigmoid(quick_slope * DoubleDouble{x});
    case Function::gelu_tanh:
      return sigmoid(tanh_argument(x, twice_real_c));
    case Function::gelu_fast:
      return sigmoid(tanh_argument(x, twice_decimal_c));
    default:
      return normal_distribution(x);
  }
}

/// x F(x) for the five functions of this shape; F(x) = 1/2 + slope x + ..., slope > 0.
float gated(Function function, float x) {
  // F(128) > 1 - 2^-180 and 128 F(-128) < 2^-170 in all five; past 20 already for the Gaussian
  // ones.
  const float limit = function == Function::silu || function == Function::quick_gelu ? 128 : 20;
  if (x >= limit) return x;
  if (x <= -limit) return -0.0f;
  if (x == 0) return x;
  const double wide = static_cast<double>(x);
  if (size_of(x) < 0x1p-60f) {
    // x/2 + slope x^2: above x/2, by less than any double shows; it decides the ties of subnormals.
    return round_to_float({wide / 2, static_cast<double>(size_of(x)) * 0x1p-70});
  }
  return round_to_float(DoubleDouble{wide} * share_of(function, wide));
}

// ---- sine and cosine --------------------------------------------------------------------------

/// 64 zero bits, then the first 448 bits of 2/pi.
constexpr std::uint32_t two_over_pi[16] = {
    0,          0,          0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041,
    0xfe5163ab, 0xdebbc561, 0xb7246e3a, 0x424dd2e0, 0x06492eea, 0x09d1921c, 0xfe1deb1c, 0xb129a73e};

struct Angle {
  DoubleDouble rest;  ///< |rest| <= pi/4
  unsigned quadrant;  ///< x = rest + quadrant pi/2 modulo 2 pi
};

/// x >= 0. For x = m 2^e (m of 24 bits) the product of m with the bits of 2/pi whose weight, times
/// 2^e, is 2 or less gives x 2/pi modulo 4; 256 bits leave an error of 2^-230.
Angle reduce(float x) {
  if (x < 0.785f) return {{static_cast<double>(x)}, 0};
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint64_t m = (bits & 0x7fffffu) | 0x800000u;
  const unsigned first_bit = (bits >> 23) - 150 + 62;
  std::uint32_t limb[8];
  std::uint64_t carry = 0;
  for (unsigned i = 8; i-- > 0;) {
    const unsigned word = first_bit / 32 + i;
    const std::uint64_t pair =
        static_cast<std::uint64_t>(two_over_pi[word]) << 32 | two_over_pi[word + 1];
    carry += (pair >> (32 - first_bit % 32) & 0xffffffffu) * m;
    limb[i] = static_cast<std::uint32_t>(carry);
    carry >>= 32;
  }
  unsigned quadrant = limb[0] >> 30;
  const bool upper_half = (limb[0] >> 29 & 1) != 0;
  if (upper_half) {
    ++quadrant;
    for (std::uint32_t& part : limb) part = ~part;  // 2^254 - fraction, less one unit of 2^-254
  }
  limb[0] &= 0x3fffffffu;
  DoubleDouble fraction{0};
  for (int i = 7; i >= 0; --i) {
    fraction = fraction + scale({static_cast<double>(limb[i])}, -30 - 32 * i);
  }
  return {(upper_half ? -fraction : fraction) * half_pi, quadrant % 4};
}

/// t - t^3/3! + ..., |t| <= pi/4, 15 terms: remainder 2^-120.
DoubleDouble sine_series(DoubleDouble t) {
  const DoubleDouble square = t * t;
  DoubleDouble sum = one;
  for (std::size_t n = 30; n >= 2; n -= 2) sum = one - square * sum * inverse[n] * inverse[n + 1];
  return t * sum;
}

DoubleDouble cosine_series(DoubleDouble t) {
  const DoubleDouble square = t * t;
  DoubleDouble sum = one;
  for (std::size_t n = 30; n >= 2; n -= 2) sum = one - square * sum * inverse[n - 1] * inverse[n];
  return sum;
}

/// sin(x + turns pi/2) for x >= 0.
float sine_of(float x, unsigned turns) {
  const Angle angle = reduce(x);
  const unsigned quadrant = (angle.quadrant + turns) % 4;
  const DoubleDouble value =
      quadrant % 2 == 0 ? sine_series(angle.rest) : cosine_series(angle.rest);
  return round_to_float(quadrant < 2 ? value : -value);
}

// ---- powers that are exact --------------------------------------------------------------------

struct OddTimesPower {
  std::int64_t odd;
  int exponent;
};

/// |x| = odd 2^exponent, x finite and not zero.
OddTimesPower factor(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
  const bool normal = bits >> 23 != 0;
  OddTimesPower result{static_cast<std::int64_t>((bits & 0x7fffffu) | (normal ? 0x800000u : 0u)),
                       normal ? static_cast<int>(bits >> 23) - 150 : -149};
  while (result.odd % 2 == 0) {
    result.odd /= 2;
    ++result.exponent;
  }
  return result;
}

/// Square root of a, if it is an integer, else 0.
std::int64_t exact_root(std::int64_t a) {
  std::int64_t root = 0;
  while (root * root < a) ++root;
  return root * root == a ? root : 0;
}

/// x^y as a double where it is a number of at most 53 bits, else 0: nothing longer can be a
/// binary32 number or a midpoint of two. With x = a 2^s and y = n / 2^j in lowest terms, x^y is
/// rational only if a is the 2^j-th power of an integer and 2^j divides s. Needs |y log2 x| < 160,
/// x != 1, y != 0.
double exact_power(float x, float y) {
  OddTimesPower base = factor(x);
  OddTimesPower power = factor(y);
  for (; power.exponent < 0; ++power.exponent) {
    base.odd = exact_root(base.odd);
    if (base.odd == 0 || base.exponent % 2 != 0) return 0;
    base.exponent /= 2;
  }
  const std::int64_t n = power.odd << power.exponent;
  if (base.odd > 1 && (y < 0 || n > 33)) return 0;  // 3^34 > 2^53
  double value = 1;
  for (std::int64_t i = 0; base.odd > 1 && i < n; ++i) {
    value *= static_cast<double>(base.odd);
    if (value > 0x1p53) return 0;
  }
  const std::int64_t exponent = base.exponent * (y < 0 ? -n : n);
  return scale({value}, static_cast<int>(exponent)).head;
}

}  // namespace

float evaluate(Function function, float x) noexcept {
  if (function == Function::relu) return x > 0 ? x : 0.0f;
  if (x != x) return x;
  switch (function) {
    case Function::exp:
      if (x > 89) return infinity;
      if (x < -104) return 0;
      return round_to_float(exp_of({static_cast<double>(x)}));
    case Function::log:
      if (x == 0) return -infinity;
      if (x < 0) return std::numeric_limits<float>::quiet_NaN();
      return x == infinity ? x : round_to_float(log_of(x));
    case Function::tanh: {
      if (size_of(x) > 20) return x < 0 ? -1.0f : 1.0f;  // 1 - tanh 20 < 2^-56
      if (x == 0) return x;
      const DoubleDouble m = exp_minus_one({2 * static_cast<double>(x)});
      return round_to_float(m / (m + DoubleDouble{2}));
    }
    case Function::sin:
    case Function::cos: {
      if (size_of(x) == infinity) return std::numeric_limits<float>::quiet_NaN();
      if (function == Function::cos) return sine_of(size_of(x), 1);
      if (x == 0) return x;
      const float value = sine_of(size_of(x), 0);
      return x < 0 ? -value : value;
    }
    default:
      return gated(function, x);
  }
}

float pow(float x, float y) noexcept {
  if (x == 1 || y == 0) return 1;
  const DoubleDouble z = log_of(x) * DoubleDouble{static_cast<double>(y)};
  if (z.head > 89) return infinity;
  if (z.head < -104) return 0;
  const double exact = exact_power(x, y);
  return exact != 0 ? static_cast<float>(exact) : round_to_float(exp_of(z));
}

}  // namespace neoxref::simd
