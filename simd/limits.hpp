// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "simd/kernels.hpp"

namespace neoxref::simd {

/// What a core can do at most with one instruction set: what speeds are measured against. No result
/// of a model goes through these.
struct Limits {
  /// `rounds` rounds of independent chains of fma in registers (the scalar table: a multiplication
  /// and an addition, as compiled for any machine). Returns the operations done, two for each fma.
  double (*multiply_add)(std::size_t rounds) noexcept;
  /// Reads n floats, a multiple of 128, and adds them up.
  float (*read)(const float* data, std::size_t n) noexcept;
};

/// Errors: std::invalid_argument when the instruction set was not built or this CPU lacks it.
const Limits& limits(Isa isa);

}  // namespace neoxref::simd
