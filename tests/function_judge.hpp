// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The correctly rounded value of each Function, found without any code of simd/: a fast filter in
/// double-double whose tables MPFR makes at start-up, and MPFR itself where the filter cannot tell.
///
/// The filter returns a value whose relative error is below 2^-62 by the estimates beside each
/// piece; it is used as if the error were 2^-58, and a sample of all inputs compares it with MPFR.
/// std::fma and std::log serve speed only: fma is exact everywhere, the logarithm is a first guess.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "tests/mpfr_functions.hpp"

namespace neoxref::tests {

/// h + l, |l| <= ulp(h) / 2.
struct Pair {
  double h;
  double l;
};

inline Pair two_sum(double a, double b) {
  const double s = a + b;
  const double t = s - a;
  return {s, (a - (s - t)) + (b - t)};
}
inline Pair quick_sum(double a, double b) {
  const double s = a + b;
  return {s, b - (s - a)};
}
inline Pair two_product(double a, double b) {
  const double p = a * b;
  return {p, std::fma(a, b, -p)};
}
inline Pair plus(Pair a, Pair b) {
  const Pair s = two_sum(a.h, b.h);
  return quick_sum(s.h, s.l + (a.l + b.l));
}
inline Pair times(Pair a, Pair b) {
  const Pair p = two_product(a.h, b.h);
  return quick_sum(p.h, p.l + (a.h * b.l + a.l * b.h));
}
inline Pair times(double a, Pair b) {
  const Pair p = two_product(a, b.h);
  return quick_sum(p.h, std::fma(a, b.l, p.l));
}
inline Pair over(Pair a, Pair b) {
  const double q = a.h / b.h;
  const double rest = std::fma(-q, b.h, a.h) + (a.l - q * b.l);
  return quick_sum(q, rest / b.h);
}

/// Sum rounded to odd in binary64, then to binary32: one rounding in effect.
inline float rounded(double h, double l) {
  const Pair s = two_sum(h, l);
  if (s.l == 0 || !std::isfinite(s.h)) return static_cast<float>(s.h);
  const double toward =
      s.l > 0 ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
  const bool odd = (std::bit_cast<std::uint64_t>(s.h) & 1) != 0;
  return static_cast<float>(odd ? s.h : std::nextafter(s.h, toward));
}

/// The value to about 107 bits.
inline Pair pair_of(Real& value) {
  const double h = mpfr_get_d(value, MPFR_RNDN);
  Real rest(mpfr_get_prec(value));
  mpfr_sub_d(rest, value, h, MPFR_RNDN);
  return {h, mpfr_get_d(rest, MPFR_RNDN)};
}

class Filter {
public:
  Filter();

  /// function(x) with relative error below 2^-62, for the arguments that judge() passes on.
  Pair value(Function function, float x) const;

  static constexpr double bound = 0x1p-58;

private:
  Pair exponential(Pair z) const;
  Pair sigmoid_of(Pair z) const;
  Pair logarithm(double x) const;
  Pair hyperbolic_tangent(double x) const;
  Pair normal(double x) const;
  Pair sine(float x, unsigned turn) const;

  static constexpr int normal_first = -15 * 256;
  static constexpr int normal_last = 9 * 256;
  struct NormalPoint {
    Pair value;
    Pair slope;
    double higher[9];
  };
  Pair fine_[32];
  Pair coarse_[32];
  double step_head_, step_tail_, steps_per_unit_;
  std::vector<NormalPoint> normal_;
  Pair sine_[1024 + 256];
  double turn_[160][3];
  Pair step_angle_;
  Pair quick_, cubic_, twice_real_, twice_decimal_;
};

struct Verdict {
  float result;
  bool used_mpfr;
  double distance;  ///< |value - nearest midpoint| / |value| where below 2^-46, else 1
};

/// The correctly rounded function(x), any x.
Verdict judge(const Filter& filter, Function function, float x);

// ---- tables -----------------------------------------------------------------------------------

inline Filter::Filter() {
  Real a(300);
  Real b(300);
  for (int i = 0; i < 32; ++i) {  // 2^(i/32), 2^(i/1024)
    mpfr_set_d(a, i / 32.0, MPFR_RNDN);
    mpfr_exp2(a, a, MPFR_RNDN);
    coarse_[i] = pair_of(a);
    mpfr_set_d(a, i / 1024.0, MPFR_RNDN);
    mpfr_exp2(a, a, MPFR_RNDN);
    fine_[i] = pair_of(a);
  }
  mpfr_const_log2(a, MPFR_RNDN);
  mpfr_div_ui(a, a, 1024, MPFR_RNDN);
  steps_per_unit_ = 1 / mpfr_get_d(a, MPFR_RNDN);
  step_head_ = std::bit_cast<double>(std::bit_cast<std::uint64_t>(mpfr_get_d(a, MPFR_RNDZ)) &
                                     0xffffffffff000000u);  // 29 bits: times n < 2^24 exact
  mpfr_sub_d(b, a, step_head_, MPFR_RNDN);
  step_tail_ = mpfr_get_d(b, MPFR_RNDN);

  for (int i = normal_first; i <= normal_last; ++i) {
    NormalPoint point{};
    const double x = i / 256.0;
    mpfr_sqrt_ui(b, 2, MPFR_RNDN);
    mpfr_d_div(a, -x, b, MPFR_RNDN);
    mpfr_erfc(a, a, MPFR_RNDN);
    mpfr_div_2ui(a, a, 1, MPFR_RNDN);
    point.value = pair_of(a);
    mpfr_set_d(a, -x * x / 2, MPFR_RNDN);
    mpfr_exp(a, a, MPFR_RNDN);
    mpfr_const_pi(b, MPFR_RNDN);
    mpfr_mul_2ui(b, b, 1, MPFR_RNDN);
    mpfr_sqrt(b, b, MPFR_RNDN);
    mpfr_div(a, a, b, MPFR_RNDN);
    point.slope = pair_of(a);
    // Derivative n + 1 of Phi is (-1)^n He_n(x) density(x); He_n = x He_{n-1} - (n-1) He_{n-2}.
    Real h0(300);
    Real h1(300);
    Real h2(300);
    mpfr_set_ui(h0, 1, MPFR_RNDN);
    mpfr_set_d(h1, x, MPFR_RNDN);
    for (int n = 1; n <= 9; ++n) {
      mpfr_div_si(a, a, -(n + 1), MPFR_RNDN);
      mpfr_mul(b, a, h1, MPFR_RNDN);
      point.higher[n - 1] = mpfr_get_d(b, MPFR_RNDN);
      mpfr_mul_d(h2, h1, x, MPFR_RNDN);
      mpfr_mul_si(h0, h0, n, MPFR_RNDN);
      mpfr_sub(h2, h2, h0, MPFR_RNDN);
      mpfr_set(h0, h1, MPFR_RNDN);
      mpfr_set(h1, h2, MPFR_RNDN);
    }
    normal_.push_back(point);
  }

  mpfr_const_pi(b, MPFR_RNDN);
  mpfr_div_ui(b, b, 512, MPFR_RNDN);
  step_angle_ = pair_of(b);
  for (int i = 0; i < 1024 + 256; ++i) {
    mpfr_mul_si(a, b, i, MPFR_RNDN);
    mpfr_sin(a, a, MPFR_RNDN);
    sine_[i] = i % 512 == 0 ? Pair{0, 0} : pair_of(a);
  }
  for (int e = -50; e <= 104; ++e) {  // 2^e 512 / pi modulo 1024 in three parts
    Real rest(500);
    Real whole(500);
    mpfr_const_pi(rest, MPFR_RNDN);
    mpfr_ui_div(rest, 512, rest, MPFR_RNDN);
    mpfr_mul_2si(rest, rest, e - 10, MPFR_RNDN);
    mpfr_frac(rest, rest, MPFR_RNDN);
    mpfr_mul_2ui(rest, rest, 10, MPFR_RNDN);
    double* part = turn_[e + 50];
    part[0] = std::bit_cast<double>(std::bit_cast<std::uint64_t>(mpfr_get_d(rest, MPFR_RNDZ)) &
                                    0xffffffffff000000u);
    mpfr_sub_d(rest, rest, part[0], MPFR_RNDN);
    part[1] = mpfr_get_d(rest, MPFR_RNDN);
    mpfr_sub_d(rest, rest, part[1], MPFR_RNDN);
    part[2] = mpfr_get_d(rest, MPFR_RNDN);
  }

  mpfr_set_str(a, "1.702", 10, MPFR_RNDN);
  quick_ = pair_of(a);
  mpfr_set_str(a, "0.044715", 10, MPFR_RNDN);
  cubic_ = pair_of(a);
  mpfr_set_str(a, "1.5957691216", 10, MPFR_RNDN);
  twice_decimal_ = pair_of(a);
  mpfr_const_pi(a, MPFR_RNDN);
  mpfr_ui_div(a, 8, a, MPFR_RNDN);
  mpfr_sqrt(a, a, MPFR_RNDN);
  twice_real_ = pair_of(a);
}

// ---- the filter -------------------------------------------------------------------------------

/// e^z, |z| < 700 (0 below): |r| < 2^-11.4, so r^2/2 in binary64 leaves 2^-76; the step's 82 bits
/// times n < 2^20 leave 2^-72 at most.
inline Pair Filter::exponential(Pair z) const {
  if (z.h < -700) return {0, 0};
  const double n = std::nearbyint(z.h * steps_per_unit_);
  const Pair a = two_sum(z.h, -n * step_head_);
  const Pair b = two_product(-n, step_tail_);
  const Pair s = two_sum(a.h, b.h);
  const double r = s.h;
  const double low = s.l + (a.l + b.l + z.l);
  const double series =
      r * r * (0.5 + r * (1.0 / 6 + r * (1.0 / 24 + r * (1.0 / 120 + r * (1.0 / 720)))));
  const Pair p = two_sum(r, low + r * low + series);
  const Pair one_more = quick_sum(1, p.h);
  const Pair factor{one_more.h, one_more.l + p.l};
  const int k = static_cast<int>(n);
  const Pair power = times(coarse_[k >> 5 & 31], fine_[k & 31]);
  const Pair result = times(factor, power);
  const double scale = std::bit_cast<double>(static_cast<std::uint64_t>(1023 + (k >> 10)) << 52);
  return {result.h * scale, result.l * scale};
}

inline Pair Filter::sigmoid_of(Pair z) const {
  const Pair e = exponential(z.h < 0 ? z : Pair{-z.h, -z.l});
  return over(z.h < 0 ? e : Pair{1, 0}, plus({1, 0}, e));
}

/// Near 1 the series of 2 atanh t, |t| < 2^-8.9; elsewhere |log x| > 2^-8.1 and one Newton step
/// from a guess whose quality the step itself shows (NaN, so MPFR, should it ever be poor).
inline Pair Filter::logarithm(double x) const {
  if (x > 1 - 0x1p-8 && x < 1 + 0x1p-8) {
    const Pair t = over({x - 1, 0}, {x + 1, 0});
    const double q = t.h * t.h;
    const double rest =
        t.h * q * (1.0 / 3 + q * (1.0 / 5 + q * (1.0 / 7 + q * (1.0 / 9 + q / 11))));
    const Pair s = two_sum(t.h, t.l + rest);
    return {2 * s.h, 2 * s.l};
  }
  const double guess = std::log(x);
  const Pair ratio = times(x, exponential({-guess, 0}));
  const double z = (ratio.h - 1) + ratio.l;
  if (!(std::fabs(z) < 0x1p-44)) return {std::numeric_limits<double>::quiet_NaN(), 0};
  return two_sum(guess, z - z * z / 2);
}

inline Pair Filter::hyperbolic_tangent(double x) const {
  if (std::fabs(x) < 0x1p-8) {
    const double q = x * x;
    return two_sum(x, x * q * (-1.0 / 3 + q * (2.0 / 15 + q * (-17.0 / 315 + q * (62.0 / 2835)))));
  }
  const Pair e = exponential({-2 * std::fabs(x), 0});
  const Pair t = over(plus({1, 0}, {-e.h, -e.l}), plus({1, 0}, e));
  return x < 0 ? Pair{-t.h, -t.l} : t;
}

/// Taylor at the nearest i/256; in the tail |x h| < 2^-5, so the second derivative's term is 2^-11
/// of the value, and the first one left out (h^11) 2^-80.
inline Pair Filter::normal(double x) const {
  if (x >= 9) return {1, 0};  // 1 - Phi(9) < 2^-62
  const double i = std::nearbyint(x * 256);
  const double h = x - i / 256;
  const NormalPoint& point = normal_[static_cast<std::size_t>(static_cast<int>(i) - normal_first)];
  double tail = 0;
  for (int n = 8; n >= 0; --n) tail = tail * h + point.higher[n];
  Pair sum = times(h, point.slope);
  sum = plus(sum, {tail * h * h, 0});
  return plus(point.value, sum);
}

/// sin(x + turn pi/2). x = n pi/512 + r with n from the bits of 512/pi modulo 1024, |r| < 2^-8.3.
inline Pair Filter::sine(float x, unsigned turn) const {
  Pair r{static_cast<double>(x), 0};
  int n = 0;
  if (std::fabs(x) >= 0x1p-8f) {
    int e = 0;
    const double m = std::frexp(static_cast<double>(x), &e) * 0x1p24;
    const double* part = turn_[e - 24 + 50];
    const double first = m * part[0];
    const double whole = std::nearbyint(first + m * part[1]);
    n = static_cast<int>(static_cast<std::int64_t>(whole) & 1023);
    const Pair fraction = plus(plus({first - whole, 0}, two_product(m, part[1])), {m * part[2], 0});
    r = times(fraction, step_angle_);
  }
  const std::size_t index = static_cast<std::size_t>(n) + (turn != 0 ? 256 : 0);
  const Pair s = sine_[index % 1024];
  const Pair c = sine_[index % 1024 + 256];
  const double q = r.h * r.h;
  const Pair sine_r = two_sum(
      r.h, r.l + r.h * q * (-1.0 / 6 + q * (1.0 / 120 + q * (-1.0 / 5040 + q * (1.0 / 362880)))));
  const Pair square = times(r, r);
  const Pair cosine_r =
      plus({1, 0}, plus({-square.h / 2, -square.l / 2},
                        {q * q * (1.0 / 24 - q * (1.0 / 720 - q * (1.0 / 40320))), 0}));
  return plus(times(s, cosine_r), times(c, sine_r));
}

inline Pair Filter::value(Function function, float argument) const {
  const double x = static_cast<double>(argument);
  switch (function) {
    case Function::exp:
      return exponential({x, 0});
    case Function::log:
      return logarithm(x);
    case Function::tanh:
      return hyperbolic_tangent(x);
    case Function::sin:
      return sine(argument, 0);
    case Function::cos:
      return sine(argument, 1);
    case Function::gelu:
      return times(x, normal(x));
    case Function::silu:
      return times(x, sigmoid_of({x, 0}));
    case Function::quick_gelu:
      return times(x, sigmoid_of(times(x, quick_)));
    case Function::relu:
      return {x > 0 ? x : 0, 0};
    default: {
      const Pair cube = plus({1, 0}, times(cubic_, two_product(x, x)));
      const Pair c = function == Function::gelu_fast ? twice_decimal_ : twice_real_;
      return times(x, sigmoid_of(times(times(x, c), cube)));
    }
  }
}

/// What needs no arithmetic: not-numbers, infinities, zeros, and where the result is constant.
inline bool settled(Function function, float x, float& result) {
  if (function == Function::relu) {
    result = x > 0 ? x : 0.0f;
    return true;
  }
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const bool gated = function == Function::silu || function == Function::gelu ||
                     function == Function::gelu_tanh || function == Function::gelu_fast ||
                     function == Function::quick_gelu;
  result = nan;
  if (x != x) return true;
  if (function == Function::exp && (x > 89 || x < -104)) {  // e^89 > 2^128, e^-104 < 2^-150
    result = x > 0 ? infinity : 0.0f;
    return true;
  }
  if (function == Function::log && !(x > 0 && x < infinity)) {
    result = x == 0 ? -infinity : (x > 0 ? infinity : nan);
    return true;
  }
  if ((function == Function::sin || function == Function::cos) && std::fabs(x) == infinity) {
    return true;
  }
  if (function == Function::tanh && std::fabs(x) > 20) {  // 1 - tanh 20 < 2^-56
    result = std::copysign(1.0f, x);
    return true;
  }
  if (x == 0 && function != Function::exp && function != Function::cos) {
    result = x;
    return true;
  }
  if (gated && x > 1000) {  // 1 - F(1000) < 2^-1000
    result = x;
    return true;
  }
  // 120 e^-120, 80 e^(-1.702 * 80) and the Gaussian ones at -15 are below 2^-150, and fall from
  // there.
  const float left =
      function == Function::silu ? 120 : (function == Function::quick_gelu ? 80 : 15);
  if (gated && x < -left) {
    result = -0.0f;
    return true;
  }
  if (gated && std::fabs(x) < 0x1p-64f) {  // x/2 + slope x^2, the second below 2^-63 of the first
    result = static_cast<float>(
        std::nextafter(static_cast<double>(x) / 2, std::numeric_limits<double>::infinity()));
    return true;
  }
  return false;
}

inline Verdict judge(const Filter& filter, Function function, float x) {
  Verdict verdict{0, false, 1};
  if (settled(function, x, verdict.result)) return verdict;
  const Pair value = filter.value(function, x);
  const double size = std::fabs(value.h);
  // 2^-46 covers the filter's error, value.l and the two roundings here many times over.
  const float low = static_cast<float>(value.h - size * 0x1p-46);
  const float high = static_cast<float>(value.h + size * 0x1p-46);
  if (low == high) {
    verdict.result = low;
    return verdict;
  }
  if (std::isfinite(low) && std::isfinite(high)) {
    const double middle = (static_cast<double>(low) + static_cast<double>(high)) / 2;
    verdict.distance = std::fabs((value.h - middle) + value.l) / size;
  }
  const float nearer_low = rounded(value.h, value.l - size * Filter::bound);
  const float nearer_high = rounded(value.h, value.l + size * Filter::bound);
  verdict.used_mpfr = !(nearer_low == nearer_high);
  verdict.result = verdict.used_mpfr ? by_mpfr(function, x) : nearer_low;
  return verdict;
}

}  // namespace neoxref::tests
