// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "engine/config.hpp"
#include "eval/profiles.hpp"

namespace neoxref::eval {

/// The rules of docs/bounds.md. Everywhere `bound` is how far a backend's value may be from ours in
/// binary64, both from the same inputs of the unit; infinite: no bound. Bounds are evaluated in
/// binary64, and what that rounds away is given back by a factor (slack) at the end of each rule.

/// Values on their way through a unit: [rows, columns].
struct Carried {
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::vector<double> value;
  std::vector<double> bound;      ///< empty: all zero
  std::vector<double> magnitude;  ///< empty: |value|; else what a folded product adds up
  Format stored = Format::f32;    ///< that the backend's numbers are representable in

  double bound_at(std::size_t i) const { return bound.empty() ? 0.0 : bound[i]; }
};

/// What a sum of products makes of its terms: with A = sum |w| m (m at least |x|) and B = sum |w| e it is
/// off by at most terms * A + errors * B + total * (|result| + |bias|) + steps * least.
struct SumRule {
  double terms = 0.0;
  double errors = 0.0;
  double total = 0.0;
  double least = 0.0;
};

class BoundRules {
public:
  BoundRules(const Profile& profile, const engine::Config& config)
      : profile_(profile), config_(config) {}

  /// Sums of `length` products and one addend more. weights_round: weights are not numbers of the
  /// operand format.
  SumRule sum(std::size_t length, bool weights_round) const;
  /// sum for which the second factor is a number that is carried as well (scores, weighted values).
  SumRule sum_of_carried(std::size_t length) const { return sum(length, false); }

  /// Rounding of a factor to the operand format.
  double operand(double value, double bound, Format stored) const;
  /// A parameter (bias, gain, embedding) held in `format`.
  static double parameter(Format format, double value);

  /// Adds what storing in `format` does to a result that was made in `made`.
  double store(Format made, Format format, double value, double bound) const;
  /// What the file may add on top, as a result and as an input.
  double dumped(Format stored, double value, double bound) const;

  /// y, bound: out [n]. magnitude: out [n] or null.
  void layer_norm(const double* x, const double* e, std::size_t n, const float* gamma,
                  const float* beta, Format format, double* y, double* bound,
                  double* magnitude) const;
  void activation(double x, double e, double& y, double& bound) const;
  /// cos, sin with what another's table may be off.
  struct Turn {
    double cos, sin;              ///< the contract's
    double cos_error, sin_error;  ///< of another's table against it
  };
  Turn turn(std::size_t position, std::size_t pair) const;
  /// The real angle, and how far another's may be from it.
  void real_angle(std::size_t position, std::size_t pair, double& angle, double& error) const;
  double table_error(double value, double angle_error) const;
  /// Turns row x of a head in place with its bounds; `format` is what results are stored as.
  void rotate(double* x, double* e, const Turn* turns, Format made, Format format) const;
  /// Sum of two or three, any order.
  void residual(const double* const* value, const double* const* bound, std::size_t terms,
                std::size_t n, Format format, double* y, double* out_bound) const;

  double unit(Format format) const { return format_limits(format).unit; }
  /// Absolute error where a result or operand underflows.
  double underflow(Format format) const;

  const Profile& profile() const { return profile_; }
  const engine::Config& config() const { return config_; }

private:
  const Profile& profile_;
  const engine::Config& config_;
};

/// g of docs/bounds.md: the largest error of `steps` additions over the largest partial sum.
double growth(double steps, double unit);
/// Upwards over what evaluating a bound in binary64 loses; NaN becomes infinite.
double outward(double bound);
/// What binary64 itself may lose in a sum of so many terms, relative to the sum of their sizes.
inline double own_rounding(std::size_t length) {
  return (static_cast<double>(length) + 8.0) * 0x1p-52;
}
/// The activation in binary64, as Oracle<double>.
double activation64(simd::Function function, double x);

}  // namespace neoxref::eval
