// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "simd/kernels.hpp"

namespace neoxref::eval {

/// One kernel of a table, asked what the scalar table answers.
struct KernelAnswer {
  std::string name;
  std::size_t values = 0;  ///< compared
  bool same = false;
};

/// Every kernel against the scalar one, bit for bit, on fixed inputs: all row and column tails of a
/// vector, several blocks of a sum, each weight type; and for functions also zeros, subnormals,
/// infinities, NaN and a walk through all exponents. Takes some hundredths of a second.
std::vector<KernelAnswer> check_kernels(const simd::Kernels& kernels);

}  // namespace neoxref::eval
