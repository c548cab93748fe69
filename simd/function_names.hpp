// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "simd/kernels.hpp"

namespace neoxref::simd {

/// Every Function under its own name.
inline constexpr std::pair<const char*, Function> named_functions[] = {
    {"exp", Function::exp},
    {"log", Function::log},
    {"tanh", Function::tanh},
    {"silu", Function::silu},
    {"gelu", Function::gelu},
    {"gelu_tanh", Function::gelu_tanh},
    {"gelu_fast", Function::gelu_fast},
    {"quick_gelu", Function::quick_gelu},
    {"relu", Function::relu},
    {"sin", Function::sin},
    {"cos", Function::cos}};

}  // namespace neoxref::simd
