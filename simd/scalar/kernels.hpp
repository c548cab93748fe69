// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "simd/kernels.hpp"

namespace neoxref::simd::scalar {

/// The table of Isa::scalar: what every other table must equal.
extern const Kernels scalar_table;

}  // namespace neoxref::simd::scalar
