// SPDX-License-Identifier: Apache-2.0
#include "simd/measuring.hpp"

#include "simd/scalar/ieee.hpp"

namespace neoxref::simd::scalar {
namespace {

void product64(const Product64& p) noexcept {
  for (std::size_t m = 0; m < p.rows; ++m) {
    double sums[lanes] = {};
    const double* x = p.input + m * p.input_stride;
    for (std::size_t k = 0; k < p.depth; ++k) {
      for (std::size_t n = 0; n < lanes; ++n) sums[n] += x[k] * p.panel[k * lanes + n];
    }
    for (std::size_t n = 0; n < p.columns; ++n) p.output[m * p.output_stride + n] = sums[n];
  }
}

template <bool fused>
void stretched(const StretchedProduct& p) noexcept {
  for (std::size_t m = 0; m < p.rows; ++m) {
    float sums[lanes] = {};
    const float* x = p.input + m * p.input_stride;
    for (std::size_t i = 0; i < p.count; ++i) {
      float chain[lanes] = {};
      for (std::size_t k = p.stretches[i].begin; k < p.stretches[i].end; ++k) {
        for (std::size_t n = 0; n < lanes; ++n) {
          const float w = p.panel[k * lanes + n];
          chain[n] = fused ? fma(x[k], w, chain[n]) : x[k] * w + chain[n];
        }
      }
      for (std::size_t n = 0; n < lanes; ++n) sums[n] += chain[n];
    }
    for (std::size_t n = 0; n < p.columns; ++n) p.output[m * p.output_stride + n] = sums[n];
  }
}

void stretched_product(const StretchedProduct& p) noexcept {
  p.fused ? stretched<true>(p) : stretched<false>(p);
}

}  // namespace

extern const Measuring measuring_products;
const Measuring measuring_products{product64, stretched_product};

}  // namespace neoxref::simd::scalar
