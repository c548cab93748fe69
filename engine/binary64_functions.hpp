// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "simd/kernels.hpp"

namespace neoxref::engine {

/// A function of the contract in binary64, by the C library: what errors are measured against
/// (Oracle<double>), never a bit of a result.
double function_in_binary64(simd::Function function, double x);

}  // namespace neoxref::engine
