// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/kernels.hpp"

namespace neoxref::simd {

/// output[m, n] = sum over k of input[m, k] * panel[k, n], n < columns <= 16, in binary64.
/// input [rows, depth], row m at input + m * input_stride; output likewise; panel [depth][16], read whole.
struct Product64 {
  std::size_t rows;
  std::size_t depth;
  std::size_t columns;
  const double* input;
  std::size_t input_stride;
  const double* panel;
  double* output;
  std::size_t output_stride;
};

/// A stretch [begin, end) of a sum's indices.
struct Stretch {
  std::uint32_t begin;
  std::uint32_t end;
};

/// The same in binary32 in an order of the caller's: the stretches one after the other, each a chain
/// from +0 in ascending order, then added to what there is. fused: by fma, else multiplied, then added.
struct StretchedProduct {
  std::size_t rows;
  std::size_t columns;
  const float* input;
  std::size_t input_stride;
  const float* panel;
  const Stretch* stretches;
  std::size_t count;
  bool fused;
  float* output;
  std::size_t output_stride;
};

/// Products that errors are measured with: no bit of the contract goes through them, and those in
/// binary64 may differ in the last places between instruction sets.
struct Measuring {
  void (*product64)(const Product64&) noexcept;
  void (*stretched_product)(const StretchedProduct&) noexcept;
};

/// Errors: std::invalid_argument when the instruction set was not built or this CPU lacks it.
const Measuring& measuring(Isa isa);

}  // namespace neoxref::simd
