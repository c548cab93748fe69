// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "simd/kernels.hpp"

namespace neoxref::eval {

/// nll of one token: log(Z) + (M - l_t), docs/contract.md.
float nll(const simd::Kernels& kernels, std::span<const float> logits, std::int32_t token);
/// The same from the two sums over the row, and its logit l_t. For callers that work in the
/// floating-point environment of the contract already, as participants of a Team do.
float nll(const simd::MaxAndSum& sums, float logit);

}  // namespace neoxref::eval
