// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

/// What a core can do at most with one instruction set: what kernel speeds are measured against.
namespace neoxref::tests {

struct Limits {
  /// `rounds` rounds of independent chains of fma in registers. Returns the operations done.
  double (*multiply_add)(std::size_t rounds);
  /// Reads n floats, a multiple of 128, and adds them up.
  float (*read)(const float* data, std::size_t n);
};

}  // namespace neoxref::tests
