// SPDX-License-Identifier: Apache-2.0
#include "eval/bound_rules.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "simd/kernels.hpp"

namespace neoxref::eval {
namespace {

using simd::Function;

constexpr double infinity = std::numeric_limits<double>::infinity();

double gelu_tanh_factor(Function function) {
  return function == Function::gelu_fast ? 0.7978845608
                                         : std::numbers::sqrt2 * std::numbers::inv_sqrtpi;
}

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

double slope(Function function, double x) {
  switch (function) {
    case Function::gelu:
      return 0.5 * std::erfc(-x / std::numbers::sqrt2) +
             x * std::exp(-0.5 * x * x) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
    case Function::gelu_tanh:
    case Function::gelu_fast: {
      const double c = gelu_tanh_factor(function);
      const double t = std::tanh(c * (x + 0.044715 * x * x * x));
      return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * x * x);
    }
    case Function::quick_gelu: {
      const double s = sigmoid(1.702 * x);
      return s * (1.0 + 1.702 * x * (1.0 - s));
    }
    case Function::silu: {
      const double s = sigmoid(x);
      return s * (1.0 + x * (1.0 - s));
    }
    case Function::tanh: {
      const double t = std::tanh(x);
      return 1.0 - t * t;
    }
    default:
      return 1.0;
  }
}

/// No activation is steeper than this, nor does its slope change faster (docs/bounds.md).
constexpr double steepest = 1.13;
constexpr double fastest_change = 0.9;
/// Below what float functions of the far tail may take for zero.
constexpr double far_tail = 0x1p-118;

}  // namespace

double growth(double steps, double unit) {
  const double all = steps * unit;
  return all < 1.0 ? all * (1.0 + unit) / (1.0 - all) : infinity;
}

double outward(double bound) {
  return bound < infinity ? bound * (1.0 + 0x1p-30) : infinity;
}

double activation64(Function function, double x) {
  switch (function) {
    case Function::gelu:
      return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
    case Function::gelu_tanh:
    case Function::gelu_fast:
      return 0.5 * x * (1.0 + std::tanh(gelu_tanh_factor(function) * (x + 0.044715 * x * x * x)));
    case Function::quick_gelu:
      return x / (1.0 + std::exp(-1.702 * x));
    case Function::silu:
      return x / (1.0 + std::exp(-x));
    case Function::tanh:
      return std::tanh(x);
    default:
      return x > 0.0 ? x : 0.0;
  }
}

double BoundRules::underflow(Format format) const {
  const FormatLimits& limits = format_limits(format);
  return profile_.flushed.contains(format) ? limits.least_normal : 0.5 * limits.least;
}

SumRule BoundRules::sum(std::size_t length, bool weights_round) const {
  const bool truncates = profile_.accumulator_rounding == Rounding::truncate;
  const double u = unit(profile_.accumulator) * (truncates ? 2.0 : 1.0);
  const double steps = static_cast<double>(length + 1) * (truncates ? 2.0 : 1.0);
  const double g = growth(steps, u);
  // Products of two operands of at most half the accumulator's bits are exact.
  const double operand_unit = unit(profile_.operands);
  const double product = operand_unit * operand_unit >= unit(profile_.accumulator) ? 0.0 : u;
  const double weight =
      weights_round ? operand_unit * (profile_.operand_rounding == Rounding::truncate ? 2.0 : 1.0)
                    : 0.0;
  SumRule rule;
  rule.terms = weight + (1.0 + weight) * product + g * (0.5 + weight) * (1.0 + product) +
               own_rounding(length);
  rule.errors = (1.0 + weight) * (1.0 + product + g * (1.0 + product));
  rule.total = 0.5 * g * (1.0 + product);
  rule.least = 2.0 * steps * (underflow(profile_.accumulator) + underflow(profile_.operands));
  return rule;
}

double BoundRules::operand(double value, double bound, Format stored) const {
  const Format format = profile_.operands;
  const double flush = profile_.flushed.contains(format) ? format_limits(format).least_normal : 0.0;
  if (fits(stored, format)) return flush;
  if (std::abs(value) + bound > format_limits(format).largest) return infinity;
  const bool truncates = profile_.operand_rounding == Rounding::truncate;
  if (bound == 0.0) {
    const double nearest = std::abs(round_to(format, value) - value);
    if (nearest == 0.0) return flush;
    if (!truncates) return nearest + flush;
  }
  return unit(format) * (truncates ? 2.0 : 1.0) * (std::abs(value) + bound) +
         format_limits(format).least + flush;
}

double BoundRules::parameter(Format format, double value) {
  return std::abs(round_to(format, value) - value);
}

double BoundRules::store(Format made, Format format, double value, double bound) const {
  if (!(std::abs(value) + bound <= format_limits(format).largest)) return infinity;
  if (fits(made, format)) return bound;
  return bound + unit(format) * (std::abs(value) + bound) + underflow(format);
}

double BoundRules::dumped(Format stored, double value, double bound) const {
  return store(stored, profile_.dump, value, bound);
}

void BoundRules::layer_norm(const double* x, const double* e, std::size_t n, const float* gamma,
                            const float* beta, Format format, double* y, double* bound,
                            double* magnitude) const {
  const double u = unit(profile_.internal);
  const double least = static_cast<double>(n) * 4.0 * underflow(profile_.internal);
  const auto count = static_cast<double>(n);
  const double g = growth(count + 1.0, u);
  double total = 0.0, size = 0.0, inherited = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    total += x[i];
    size += std::abs(x[i]);
    inherited += e[i];
  }
  const double mean = total / count;
  const double size_mean = size / count;
  const double inherited_mean = inherited / count;
  // The mean: the sum in any order, then two roundings for dividing (or multiplying by 1 / n).
  const double sum_part = g * (0.5 * (size_mean + std::abs(mean)) + inherited_mean) + least +
                          own_rounding(n) * size_mean;
  const double twice = (1.0 + u) * (1.0 + u) - 1.0;
  const double rounded_mean = sum_part + twice * (std::abs(mean) + inherited_mean + sum_part);
  const double mean_error = inherited_mean + rounded_mean;

  double variance = 0.0, square = 0.0, first = 0.0, second = 0.0;
  double moved = 0.0, moved_x = 0.0, moved2 = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    const double d = x[i] - mean;
    variance += d * d;
    square += x[i] * x[i];
    moved += std::abs(d) * e[i];
    moved_x += std::abs(x[i]) * e[i];
    moved2 += e[i] * e[i];
    const double difference = e[i] + u * (std::abs(d) + e[i] + mean_error);
    first += std::abs(d) * difference;
    second += (difference + mean_error) * (difference + mean_error);
  }
  variance /= count;
  square /= count;
  // Squares, their sum in any order (all terms positive: the largest partial sum is the sum), the
  // division.
  const double sum_of_squares = (1.0 + u) * (1.0 + u) * (1.0 + u) * (1.0 + g) - 1.0;
  const double own = own_rounding(n) * (square + size_mean * size_mean);
  const double two_pass = (2.0 * first + second) / count;
  double spread = two_pass + sum_of_squares * (variance + two_pass);
  if (profile_.layer_norm == LayerNormForm::one_pass) {
    const double shift = (2.0 * moved + moved2) / count;
    const double larger = square + (2.0 * moved_x + moved2) / count;
    const double mean_size = std::abs(mean) + inherited_mean;
    double of_mean = 2.0 * mean_size * rounded_mean + rounded_mean * rounded_mean;
    of_mean += u * (mean_size * mean_size + of_mean);
    double one_pass = shift + sum_of_squares * larger + of_mean;
    one_pass += u * (variance + one_pass);
    spread = std::max(spread, one_pass);
  }
  spread += own + least;
  const double eps = static_cast<double>(config_.layer_norm_eps);
  const double r = 1.0 / std::sqrt(variance + eps);
  const double scale_rounding =
      (1.0 + 2.0 * profile_.functions.rsqrt * u) * (1.0 + u) * (1.0 + u) * (1.0 + u) - 1.0;
  const double low = variance - spread;
  double r_error = infinity;
  if (low > 0.0 && spread < infinity) {
    const double highest = (1.0 + scale_rounding) / std::sqrt(low + eps);
    const double lowest = (1.0 - scale_rounding) / std::sqrt(variance + spread + eps);
    r_error = std::max(highest - r, r - lowest) + 0x1p-50 * r;
  }
  const double thrice = (1.0 + u) * (1.0 + u) * (1.0 + u) - 1.0;
  const double most_r = r + r_error;
  const double fold = profile_.folded_weights ? unit(profile_.operands) + 2.0 * 0x1p-24 : 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    const double d = x[i] - mean;
    const double normal = d * r;
    const double gain = static_cast<double>(gamma[i]);
    const double shift = static_cast<double>(beta[i]);
    y[i] = normal * gain + shift;
    const double normal_error =
        std::abs(d) * r_error + (e[i] + mean_error) * most_r +
        thrice * most_r * (std::abs(x[i]) + e[i] + std::abs(mean) + mean_error);
    const double gain_error = parameter(format, gain);
    const double shift_error = parameter(format, shift);
    const double most_gain = std::abs(gain) + gain_error;
    const double product = most_gain * (std::abs(normal) + normal_error);
    double error = most_gain * normal_error + gain_error * std::abs(normal) + shift_error;
    error += u * (product + std::abs(shift) + shift_error);
    error += u * (std::abs(y[i]) + error) + 2.0 * underflow(profile_.internal) +
             0x1p-50 * (product + std::abs(shift));
    if (magnitude != nullptr) {
      magnitude[i] = product + std::abs(shift);
      error += fold * magnitude[i];
    }
    bound[i] = outward(store(profile_.internal, format, y[i], error));
  }
}

void BoundRules::activation(double x, double e, double& y, double& bound) const {
  const Function function = config_.activation;
  const double u = unit(profile_.internal);
  y = activation64(function, x);
  double error = 0.0;
  if (e > 0.0) {
    error = function == Function::relu
                ? e
                : e * std::min(steepest, std::abs(slope(function, x)) + fastest_change * e);
  }
  const double most = std::abs(y) + error;
  const double argument = std::abs(x) + e;
  switch (function) {
    case Function::relu:
      break;
    case Function::tanh:
      error += 2.0 * profile_.functions.tanh * u * most;
      break;
    case Function::silu:
      error += (profile_.functions.silu + 1.5) * u * argument +
               (2.0 * profile_.functions.silu + 4.0) * u * most + far_tail;
      break;
    default:
      error += (profile_.functions.gelu + 1.5) * u * argument +
               (2.0 * profile_.functions.gelu + 4.0) * u * most + far_tail;
  }
  error *= (1.0 + u) * (1.0 + u);
  error += 0x1p-50 * (argument + most) + underflow(profile_.internal);
  bound = outward(store(profile_.internal, profile_.stored(engine::Tensor::act), y, error));
}

void BoundRules::real_angle(std::size_t position, std::size_t pair, double& angle,
                            double& error) const {
  const double exponent =
      2.0 * static_cast<double>(pair) / static_cast<double>(config_.rotary_dims);
  const auto base = static_cast<double>(config_.rotary_base);
  angle = static_cast<double>(position) * std::pow(base, -exponent);
  constexpr double u = 0x1p-24;
  // Exponents of binary32 that are not exact move the power by ln(base) times as much.
  const double rounding = std::abs(static_cast<double>(static_cast<float>(exponent)) - exponent);
  const double relative = (1.0 + 2.0 * profile_.functions.power * u) * (1.0 + u) * (1.0 + u) *
                              std::exp(rounding * std::log(base)) -
                          1.0;
  error = angle * (relative + 0x1p-48);
}

double BoundRules::table_error(double value, double angle_error) const {
  const double error =
      angle_error +
      2.0 * profile_.functions.cos_sin * unit(Format::f32) * (std::abs(value) + angle_error) +
      0x1p-50;
  return store(Format::f32, profile_.rotary_table, value, error);
}

BoundRules::Turn BoundRules::turn(std::size_t position, std::size_t pair) const {
  const float exponent = static_cast<float>(2 * pair) / static_cast<float>(config_.rotary_dims);
  const float frequency = 1.0f / simd::pow(config_.rotary_base, exponent);
  const float angle = static_cast<float>(position) * frequency;
  Turn turn{};
  turn.cos = static_cast<double>(simd::evaluate(Function::cos, angle));
  turn.sin = static_cast<double>(simd::evaluate(Function::sin, angle));
  double real = 0.0;
  double error = 0.0;
  real_angle(position, pair, real, error);
  const double cos = std::cos(real);
  const double sin = std::sin(real);
  turn.cos_error = outward(table_error(cos, error) + std::abs(turn.cos - cos));
  turn.sin_error = outward(table_error(sin, error) + std::abs(turn.sin - sin));
  return turn;
}

void BoundRules::rotate(double* x, double* e, const Turn* turns, Format made, Format format) const {
  const std::size_t half = config_.rotary_dims / 2;
  const double u = unit(profile_.pointwise);
  const double twice = (1.0 + u) * (1.0 + u) - 1.0;
  const double least = 3.0 * underflow(profile_.pointwise);
  for (std::size_t i = 0; i < half; ++i) {
    const Turn& t = turns[i];
    const double x1 = x[i], x2 = x[i + half], e1 = e[i], e2 = e[i + half];
    const auto turned = [&](double a, double ea, double b, double eb, double sign, std::size_t to) {
      const double value = a * t.cos + sign * (b * t.sin);
      const double moved = ea * std::abs(t.cos) + (std::abs(a) + ea) * t.cos_error +
                           eb * std::abs(t.sin) + (std::abs(b) + eb) * t.sin_error;
      const double size = std::abs(a * t.cos) + std::abs(b * t.sin) + moved;
      const double error = moved + twice * size + least + 0x1p-50 * size;
      x[to] = value;
      e[to] = outward(store(profile_.pointwise, format, value, error));
    };
    turned(x1, e1, x2, e2, -1.0, i);
    turned(x2, e2, x1, e1, 1.0, i + half);
  }
  for (std::size_t i = 2 * half; i < config_.head_dim; ++i) {
    e[i] = store(made, format, x[i], e[i]);
  }
}

void BoundRules::residual(const double* const* value, const double* const* bound, std::size_t terms,
                          std::size_t n, Format format, double* y, double* out_bound) const {
  const double u = unit(profile_.pointwise);
  const double least = 3.0 * underflow(profile_.pointwise);
  for (std::size_t i = 0; i < n; ++i) {
    double sum = 0.0, size = 0.0, error = 0.0;
    for (std::size_t t = 0; t < terms; ++t) {
      sum += value[t][i];
      size += std::abs(value[t][i]);
      error += bound[t][i];
    }
    // Three terms: the first of two additions has a partial sum, at most (size + |sum|) / 2.
    const double partial = terms > 2 ? u * (0.5 * (size + std::abs(sum)) + error) : 0.0;
    error += partial;
    error += u * (std::abs(sum) + error) + least + 0x1p-50 * size;
    y[i] = sum;
    out_bound[i] = outward(store(profile_.pointwise, format, sum, error));
  }
}

}  // namespace neoxref::eval
