// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The functions of simd/kernels.hpp by MPFR alone: slow, and the last word.

#include <mpfr.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "simd/kernels.hpp"

namespace neoxref::tests {

using simd::Function;

/// A number of MPFR; `bits` of precision.
class Real {
public:
  explicit Real(mpfr_prec_t bits) { mpfr_init2(value_, bits); }
  ~Real() { mpfr_clear(value_); }
  Real(const Real&) = delete;
  Real& operator=(const Real&) = delete;
  operator mpfr_ptr() { return value_; }  // NOLINT: MPFR's functions take this

private:
  mpfr_t value_;
};

/// out = function(x) at the precision of `out`, for finite x (and x > 0 for log).
inline void real_value(Function function, float x, Real& out) {
  const mpfr_prec_t bits = mpfr_get_prec(out);
  Real z(bits);
  mpfr_set_flt(out, x, MPFR_RNDN);
  switch (function) {
    case Function::exp:
      mpfr_exp(out, out, MPFR_RNDN);
      return;
    case Function::log:
      mpfr_log(out, out, MPFR_RNDN);
      return;
    case Function::tanh:
      mpfr_tanh(out, out, MPFR_RNDN);
      return;
    case Function::sin:
      mpfr_sin(out, out, MPFR_RNDN);
      return;
    case Function::cos:
      mpfr_cos(out, out, MPFR_RNDN);
      return;
    case Function::relu:
      if (x < 0) mpfr_set_zero(out, 1);
      return;
    case Function::gelu:  // x erfc(-x / sqrt 2) / 2
      mpfr_sqrt_ui(z, 2, MPFR_RNDN);
      mpfr_div(z, out, z, MPFR_RNDN);
      mpfr_neg(z, z, MPFR_RNDN);
      mpfr_erfc(z, z, MPFR_RNDN);
      mpfr_mul(out, out, z, MPFR_RNDN);
      mpfr_div_2ui(out, out, 1, MPFR_RNDN);
      return;
    case Function::silu:
      mpfr_neg(z, out, MPFR_RNDN);
      break;
    case Function::quick_gelu:
      mpfr_set_str(z, "-1.702", 10, MPFR_RNDN);
      mpfr_mul(z, z, out, MPFR_RNDN);
      break;
    case Function::gelu_tanh:
    case Function::gelu_fast: {
      Real c(bits);
      if (function == Function::gelu_fast) {
        mpfr_set_str(c, "0.7978845608", 10, MPFR_RNDN);
      } else {
        mpfr_const_pi(c, MPFR_RNDN);
        mpfr_ui_div(c, 2, c, MPFR_RNDN);
        mpfr_sqrt(c, c, MPFR_RNDN);
      }
      mpfr_mul_si(c, c, -2, MPFR_RNDN);
      mpfr_mul(c, c, out, MPFR_RNDN);
      mpfr_set_str(z, "0.044715", 10, MPFR_RNDN);
      mpfr_mul(z, z, out, MPFR_RNDN);
      mpfr_mul(z, z, out, MPFR_RNDN);
      mpfr_add_ui(z, z, 1, MPFR_RNDN);
      mpfr_mul(z, z, c, MPFR_RNDN);
      break;
    }
  }
  mpfr_exp(z, z, MPFR_RNDN);  // x / (1 + e^z)
  mpfr_add_ui(z, z, 1, MPFR_RNDN);
  mpfr_div(out, out, z, MPFR_RNDN);
}

/// The binary32 nearest to an MPFR number, by rounding to odd in binary64.
inline float nearest_float(Real& value) {
  double d = mpfr_get_d(value, MPFR_RNDZ);
  if (mpfr_cmp_d(value, d) != 0) {
    d = std::bit_cast<double>(std::bit_cast<std::uint64_t>(d) | 1);
  }
  return static_cast<float>(d);
}

/// Correctly rounded by MPFR alone; 600 bits where x is small (x/2 + x^2 must be told from x/2).
inline float by_mpfr(Function function, float x) {
  Real value(std::fabs(x) < 0x1p-30f || std::fabs(x) > 0x1p60f ? 600 : 220);
  real_value(function, x, value);
  const float result = nearest_float(value);
  const bool negative = x < 0 && function != Function::exp && function != Function::relu;
  return result == 0 ? std::copysign(0.0f, negative ? -1.0f : 1.0f) : result;
}

/// Correctly rounded x^y for x > 0, finite arguments. A power that is a binary32 number or a
/// midpoint is exact in 220 bits, and no other comes close enough to one to matter.
inline float pow_by_mpfr(float x, float y) {
  Real value(220);
  Real exponent(24);
  mpfr_set_flt(value, x, MPFR_RNDN);
  mpfr_set_flt(exponent, y, MPFR_RNDN);
  mpfr_pow(value, value, exponent, MPFR_RNDN);
  return nearest_float(value);
}

}  // namespace neoxref::tests
