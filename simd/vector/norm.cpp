// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "simd/vector/declare.hpp"
#include "simd/vector/exchange.hpp"
#include "simd/vector/freed.hpp"
#include "simd/vector/functions.hpp"
#include "simd/vector/lanes.hpp"

namespace neoxref::simd::NEOXREF_ISA {
namespace {

bool finite(double x) {
  return x - x == 0.0;
}

/// lane_sum by sum = step(sum, i, n) for every 16 elements, n of them.
template <class Sum, class Step>
NEOXREF_INLINE double lane_sum(std::size_t length, Sum sum, Step&& step) {
  each_sixteen(length,
               [&](std::size_t i, std::size_t n) NEOXREF_INLINED { sum = step(sum, i, n); });
  return fold(sum);
}

/// The largest element that compares; NaN elements are passed over.
float largest(const float* x, std::size_t n) {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  f32x16 max[4] = {broadcast(lowest), broadcast(lowest), broadcast(lowest), broadcast(lowest)};
  std::size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    repeat<4>([&](auto j) { max[j] = larger(load(x + i + j * lanes), max[j]); });
  }
  for (; i < n; i += lanes) {
    const f32x16 rest = select(first_lanes(n - i), load_up_to(x + i, n - i), broadcast(lowest));
    max[0] = larger(rest, max[0]);
  }
  return largest_lane(larger(larger(max[0], max[1]), larger(max[2], max[3])));
}

/// The squared lengths of 16 keys, by dot.
f32x16 squared_lengths(const float* panel, std::size_t head_dim) {
  f32x16 total = zero();
  for (std::size_t start = 0; start < head_dim; start += dot_block) {
    const std::size_t end = head_dim - start < dot_block ? head_dim : start + dot_block;
    f32x16 sum = zero();
    for (std::size_t d = start; d < end; ++d) {
      const f32x16 component = load(panel + d * lanes);
      sum = fma(component, component, sum);
    }
    total = total + sum;
  }
  return total;
}

}  // namespace

bool layer_norm(const float* x, std::size_t n, const float* gamma, const float* beta, float eps,
                float* y, std::size_t y_block) noexcept {
  const auto count = static_cast<double>(n);
  const double sum = lane_sum(
      n, no_sum(), [&](const SumLanes& so_far, std::size_t i, std::size_t width) NEOXREF_INLINED {
        return so_far + to_sum(load_up_to(x + i, width));
      });
  const f32x16 mean = broadcast(static_cast<float>(sum / count));
  const double squares = lane_sum(
      n, no_sum(), [&](const SumLanes& so_far, std::size_t i, std::size_t width) NEOXREF_INLINED {
        f32x16 difference = load_up_to(x + i, width) - mean;
        if (width < lanes) difference = select(first_lanes(width), difference, zero());
        // A binary32 number squared is exact in binary64: this fma rounds as a product and a sum do.
        const SumLanes d = to_sum(difference);
        return fma(d, d, so_far);
      });
  const f32x16 variance = broadcast(static_cast<float>(squares / count));
  const f32x16 r = divide(broadcast(1.0f), square_root(variance + broadcast(eps)));
  each_sixteen(n, [&](std::size_t i, std::size_t width) NEOXREF_INLINED {
    const f32x16 d = load_up_to(x + i, width) - mean;
    store_up_to(y + in_blocks(i, y_block),
                fma(d * r, load_up_to(gamma + i, width), load_up_to(beta + i, width)), width);
  });
  return finite(sum) && finite(squares);
}

bool key_norms(const float* panels, std::size_t head_dim, std::size_t first_slot, std::size_t count,
               float* norms) noexcept {
  bool all_are = true;
  const std::size_t end = first_slot + count;
  for (std::size_t slot = first_slot; slot < end;) {
    const std::size_t panel = slot / lanes;
    const f32x16 norm = square_root(squared_lengths(panels + panel * lanes * head_dim, head_dim));
    float lane[lanes];
    store(lane, norm);
    const std::size_t panel_end = (panel + 1) * lanes;
    for (; slot < end && slot < panel_end; ++slot) {
      norms[slot] = lane[slot % lanes];
      all_are = all_are && norms[slot] - norms[slot] == 0.0f;
    }
  }
  return all_are;
}

MaxAndSum max_and_sum(const float* x, std::size_t n) noexcept {
  float max = largest(x, n);
  // A zero maximum is the first zero, whose sign the lanes have lost.
  if (max == 0.0f) {
    std::size_t first = 0;
    while (!(x[first] == 0.0f)) ++first;
    max = x[first];
  }
  const f32x16 shift = broadcast(max);
  const double sum =
      lane_sum(n, broadcast(0.0),
               [&](const f64x16& so_far, std::size_t i, std::size_t width) NEOXREF_INLINED {
                 f32x16 e = exp(load_up_to(x + i, width) - shift);
                 if (width < lanes) e = select(first_lanes(width), e, zero());
                 return so_far + to_f64(e);
               });
  // A NaN element makes the sum NaN, and so do infinities; the maximum is NaN for the former only.
  if (sum != sum) {
    for (std::size_t i = 0; i < n; ++i) {
      if (x[i] != x[i]) max = x[i];
    }
  }
  return {max, static_cast<float>(sum)};
}

double weighted_difference(const float* weights, const float* a, const float* b,
                           std::size_t n) noexcept {
  return lane_sum(n, broadcast(0.0),
                  [&](const f64x16& so_far, std::size_t i, std::size_t width) NEOXREF_INLINED {
                    const f64x16 difference =
                        to_f64(load_up_to(a + i, width)) - to_f64(load_up_to(b + i, width));
                    return so_far + to_f64(load_up_to(weights + i, width)) * difference;
                  });
}

bool all_finite(const float* x, std::size_t n) noexcept {
  f32x16 nothing = zero();
  each_sixteen(n, [&](std::size_t i, std::size_t width) NEOXREF_INLINED {
    const f32x16 v = load_up_to(x + i, width);
    nothing = nothing + (v - v);
  });
  return all(nothing == zero());
}

}  // namespace neoxref::simd::NEOXREF_ISA
