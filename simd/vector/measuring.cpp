// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set, with the flags and the NEOXREF_ISA of its kernels.
#include "simd/measuring.hpp"

#include "simd/vector/lanes.hpp"

namespace neoxref::simd::NEOXREF_ISA {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t tile_rows = 8;
#elif defined(__aarch64__)
constexpr std::size_t tile_rows = 3;
#else
constexpr std::size_t tile_rows = 2;
#endif
constexpr std::size_t stretched_rows = 6;

/// Bare registers, as in product_tile.hpp.
template <std::size_t rows>
void tile(const Product64& p, std::size_t first) noexcept {
  typename Native64::register_type sums[rows * parts64];
  repeat<rows * parts64>([&](auto i) { sums[i] = Native64(0.0); });
  const double* x = p.input + first * p.input_stride;
  const double* w = p.panel;
  for (std::size_t k = 0; k < p.depth; ++k) {
    typename Native64::register_type column[parts64];
    repeat<parts64>([&](auto q) { column[q] = Native64::load_unaligned(w + q * Native64::size); });
    w += lanes;
    repeat<rows>([&](auto r) {
      const Native64 value(x[r * p.input_stride + k]);
      repeat<parts64>([&](auto q) {
        sums[r * parts64 + q] = fma_native(value, column[q], sums[r * parts64 + q]);
      });
    });
  }
  double row[lanes];
  repeat<rows>([&](auto r) {
    repeat<parts64>(
        [&](auto q) { Native64(sums[r * parts64 + q]).store_unaligned(row + q * Native64::size); });
    double* to = p.output + (first + r) * p.output_stride;
    for (std::size_t n = 0; n < p.columns; ++n) to[n] = row[n];
  });
}

void product64(const Product64& p) noexcept {
  std::size_t m = 0;
  for (; m + tile_rows <= p.rows; m += tile_rows) tile<tile_rows>(p, m);
  for (; m < p.rows; ++m) tile<1>(p, m);
}

template <std::size_t rows, bool fused>
void tile(const StretchedProduct& p, std::size_t first) noexcept {
  typename Native32::register_type sums[rows * parts32];
  repeat<rows * parts32>([&](auto i) { sums[i] = Native32(0.0f); });
  const float* x = p.input + first * p.input_stride;
  for (std::size_t s = 0; s < p.count; ++s) {
    typename Native32::register_type chain[rows * parts32];
    repeat<rows * parts32>([&](auto i) { chain[i] = Native32(0.0f); });
    const float* w = p.panel + p.stretches[s].begin * lanes;
    for (std::size_t k = p.stretches[s].begin; k < p.stretches[s].end; ++k) {
      typename Native32::register_type column[parts32];
      repeat<parts32>(
          [&](auto q) { column[q] = Native32::load_unaligned(w + q * Native32::size); });
      w += lanes;
      repeat<rows>([&](auto r) {
        const Native32 value(x[r * p.input_stride + k]);
        repeat<parts32>([&](auto q) {
          const Native32 so_far(chain[r * parts32 + q]);
          if constexpr (fused) {
            chain[r * parts32 + q] = fma_native(value, Native32(column[q]), so_far);
          } else {
            chain[r * parts32 + q] = value * Native32(column[q]) + so_far;
          }
        });
      });
    }
    repeat<rows * parts32>([&](auto i) { sums[i] = Native32(sums[i]) + Native32(chain[i]); });
  }
  float row[lanes];
  repeat<rows>([&](auto r) {
    repeat<parts32>(
        [&](auto q) { Native32(sums[r * parts32 + q]).store_unaligned(row + q * Native32::size); });
    float* to = p.output + (first + r) * p.output_stride;
    for (std::size_t n = 0; n < p.columns; ++n) to[n] = row[n];
  });
}

template <bool fused>
void stretched(const StretchedProduct& p) noexcept {
  std::size_t m = 0;
  for (; m + stretched_rows <= p.rows; m += stretched_rows) tile<stretched_rows, fused>(p, m);
  for (; m < p.rows; ++m) tile<1, fused>(p, m);
}

void stretched_product(const StretchedProduct& p) noexcept {
  p.fused ? stretched<true>(p) : stretched<false>(p);
}

}  // namespace

extern const Measuring measuring_products;
const Measuring measuring_products{product64, stretched_product};

}  // namespace neoxref::simd::NEOXREF_ISA
