// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "simd/kernels.hpp"

namespace neoxref::eval {

/// nll of one token: log(Z) + (M - l_t), docs/contract.md.
float nll(const simd::Kernels& kernels, std::span<const float> logits, std::int32_t token);

}  // namespace neoxref::eval
