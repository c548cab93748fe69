// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Numbers of about 106 bits as the unevaluated sum of two doubles, in + - * / on binary64 only: no
/// fma, no library, so every compiler and machine gives the same bits (contraction is off).

#include <bit>
#include <cstdint>

namespace neoxref::simd {

/// head + tail with |tail| <= ulp(head) / 2.
struct DoubleDouble {
  double head;
  double tail = 0;
};

/// a + b exactly, if |a| >= |b| or a = 0.
constexpr DoubleDouble add_ordered(double a, double b) {
  const double sum = a + b;
  return {sum, b - (sum - a)};
}

/// a + b exactly (Knuth).
constexpr DoubleDouble add_exactly(double a, double b) {
  const double sum = a + b;
  const double b_seen = sum - a;
  return {sum, (a - (sum - b_seen)) + (b - b_seen)};
}

/// a * b exactly (Dekker, with Veltkamp's halves), for factors below 2^990 and products that are
/// zero or above 2^-960.
constexpr DoubleDouble multiply_exactly(double a, double b) {
  constexpr double split = 0x1p27 + 1;
  const double a_big = a * split;
  const double a_head = a_big - (a_big - a);
  const double a_tail = a - a_head;
  const double b_big = b * split;
  const double b_head = b_big - (b_big - b);
  const double b_tail = b - b_head;
  const double product = a * b;
  return {product,
          ((a_head * b_head - product) + a_head * b_tail + a_tail * b_head) + a_tail * b_tail};
}

/// Relative error below 2^-104, also where the heads cancel.
constexpr DoubleDouble operator+(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble head = add_exactly(a.head, b.head);
  const DoubleDouble tail = add_exactly(a.tail, b.tail);
  const DoubleDouble sum = add_ordered(head.head, head.tail + tail.head);
  return add_ordered(sum.head, sum.tail + tail.tail);
}

constexpr DoubleDouble operator-(DoubleDouble a) {
  return {-a.head, -a.tail};
}

constexpr DoubleDouble operator-(DoubleDouble a, DoubleDouble b) {
  return a + -b;
}

/// Relative error below 2^-102.
constexpr DoubleDouble operator*(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble product = multiply_exactly(a.head, b.head);
  return add_ordered(product.head, product.tail + (a.head * b.tail + a.tail * b.head));
}

/// Relative error below 2^-101: two quotient digits and the remainder of the second.
constexpr DoubleDouble operator/(DoubleDouble a, DoubleDouble b) {
  const double first = a.head / b.head;
  const DoubleDouble rest = a - b * DoubleDouble{first};
  const double second = rest.head / b.head;
  const DoubleDouble last = rest - b * DoubleDouble{second};
  const DoubleDouble sum = add_ordered(first, second);
  return add_ordered(sum.head, sum.tail + last.head / b.head);
}

/// a 2^k, exact unless the head leaves the normal range; |k| <= 1000.
constexpr DoubleDouble scale(DoubleDouble a, int k) {
  const double power = std::bit_cast<double>(static_cast<std::uint64_t>(1023 + k) << 52);
  return {a.head * power, a.tail * power};
}

/// The binary32 nearest to head + tail, ties to even, one rounding: the sum is first rounded to odd
/// in binary64, whose 53 bits are more than two longer than any binary32, subnormal or not.
constexpr float round_to_float(DoubleDouble a) {
  std::uint64_t bits = std::bit_cast<std::uint64_t>(a.head);
  if (a.tail != 0 && bits % 2 == 0) {
    bits = (a.head > 0) == (a.tail > 0) ? bits + 1 : bits - 1;
  }
  return static_cast<float>(std::bit_cast<double>(bits));
}

}  // namespace neoxref::simd
