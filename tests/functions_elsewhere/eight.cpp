// SPDX-License-Identifier: Apache-2.0

/// functions_digest with the scalar definition on eight lanes: the text of its series, compiled with
/// eight doubles in the place of one, so that the same operations run in the same order for eight
/// arguments at a time. Where the branches of eight arguments part, and for every argument outside
/// the series, the definition itself is called.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string_view>

#include "simd/scalar/functions.cpp"

namespace neoxref::eight {

constexpr std::size_t count = 8;
using simd::Function;

/// Eight arguments took different branches.
struct Parted {};

/// Comparisons of eight lanes, true or false if all agree.
struct Answer {
  long lanes [[gnu::vector_size(64)]];
  operator bool() const {
    for (std::size_t i = 1; i < count; ++i) {
      if (lanes[i] != lanes[0]) throw Parted{};
    }
    return lanes[0] != 0;
  }
};

struct Lanes {
  using Values [[gnu::vector_size(64)]] = double;
  Values values;

  Lanes() = default;
  Lanes(Values v) : values(v) {}
  Lanes(double x) : values{x, x, x, x, x, x, x, x} {}
  explicit operator int() const {
    const int first = static_cast<int>(values[0]);
    for (std::size_t i = 1; i < count; ++i) {
      if (static_cast<int>(values[i]) != first) throw Parted{};
    }
    return first;
  }

  friend Lanes operator+(Lanes a, Lanes b) { return a.values + b.values; }
  friend Lanes operator-(Lanes a, Lanes b) { return a.values - b.values; }
  friend Lanes operator*(Lanes a, Lanes b) { return a.values * b.values; }
  friend Lanes operator/(Lanes a, Lanes b) { return a.values / b.values; }
  friend Lanes operator-(Lanes a) { return -a.values; }
  friend Answer operator<(Lanes a, Lanes b) { return {a.values < b.values}; }
  friend Answer operator>(Lanes a, Lanes b) { return {a.values > b.values}; }
};

#include <definition_text.inc>

simd::DoubleDouble lane(const DoubleDouble& a, std::size_t i) {
  return {a.head.values[i], a.tail.values[i]};
}

void one_by_one(Function function, const float* x, float* y) {
  for (std::size_t i = 0; i < count; ++i) y[i] = simd::evaluate(function, x[i]);
}

/// sin and cos of arguments that are neither 0 nor infinite nor NaN.
void turn(Function function, const float* x, float* y) {
  std::array<unsigned, count> quadrant;
  DoubleDouble rest;
  for (std::size_t i = 0; i < count; ++i) {
    const simd::Angle angle = simd::reduce(simd::size_of(x[i]));
    rest.head.values[i] = angle.rest.head;
    rest.tail.values[i] = angle.rest.tail;
    quadrant[i] = (angle.quadrant + (function == Function::cos ? 1 : 0)) % 4;
  }
  const DoubleDouble sines = sine_series(rest);
  const DoubleDouble cosines = cosine_series(rest);
  for (std::size_t i = 0; i < count; ++i) {
    const simd::DoubleDouble value = lane(quadrant[i] % 2 == 0 ? sines : cosines, i);
    const float rounded = simd::round_to_float(quadrant[i] < 2 ? value : -value);
    y[i] = function == Function::sin && x[i] < 0 ? -rounded : rounded;
  }
}

void gate(Function function, const float* x, float* y) {
  Lanes wide;
  for (std::size_t i = 0; i < count; ++i) wide.values[i] = static_cast<double>(x[i]);
  const DoubleDouble value = DoubleDouble{wide} * share_of(function, wide);
  for (std::size_t i = 0; i < count; ++i) y[i] = simd::round_to_float(lane(value, i));
}

/// Sizes of the arguments for which eight lanes stand in for the definition.
struct Range {
  float least, below;
};
Range range_of(Function function) {
  switch (function) {
    case Function::sin:
    case Function::cos:
      return {0x1p-149f, simd::infinity};
    case Function::silu:
    case Function::quick_gelu:
      return {0x1p-60f, 128};
    case Function::gelu:
    case Function::gelu_tanh:
    case Function::gelu_fast:
      return {0x1p-60f, 20};
    default:
      return {simd::infinity, 0};
  }
}

void map(Function function, const float* in, float* out, std::size_t n) noexcept {
  const Range range = range_of(function);
  std::size_t i = 0;
  for (; i + count <= n; i += count) {
    const float* x = in + i;
    const bool inside = std::all_of(x, x + count, [&](float each) {
      return simd::size_of(each) >= range.least && simd::size_of(each) < range.below;
    });
    if (!inside) {
      one_by_one(function, x, out + i);
      continue;
    }
    try {
      (function == Function::sin || function == Function::cos ? turn : gate)(function, x, out + i);
    } catch (const Parted&) {
      one_by_one(function, x, out + i);
    }
  }
  for (; i < n; ++i) out[i] = simd::evaluate(function, in[i]);
}

}  // namespace neoxref::eight

namespace neoxref::simd {

std::span<const Isa> usable_isas() {
  static constexpr Isa only[] = {Isa::scalar};
  return only;
}

std::string_view isa_name(Isa) {
  return "scalar";
}

const Kernels& kernels(std::string_view name) {
  if (name != "scalar") throw std::invalid_argument("this program has the definition only");
  static const Kernels table = [] {
    Kernels made{};
    made.isa = Isa::scalar;
    made.name = "scalar";
    made.map = eight::map;
    return made;
  }();
  return table;
}

}  // namespace neoxref::simd
