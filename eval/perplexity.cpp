// SPDX-License-Identifier: Apache-2.0
#include "eval/perplexity.hpp"

#include "simd/float_environment.hpp"

namespace neoxref::eval {
float nll(const simd::MaxAndSum& sums, float logit) {
  return simd::evaluate(simd::Function::log, sums.sum) + (sums.max - logit);
}

namespace {

/// Not inlined: no operation may slip out of the environment that the caller sets around it.
[[gnu::noinline]] float contract_nll(const simd::Kernels& kernels, std::span<const float> logits,
                                     std::int32_t token) {
  return nll(kernels.max_and_sum(logits.data(), logits.size()),
             logits[static_cast<std::size_t>(token)]);
}

}  // namespace

float nll(const simd::Kernels& kernels, std::span<const float> logits, std::int32_t token) {
  const simd::FloatEnvironment environment;
  return contract_nll(kernels, logits, token);
}

}  // namespace neoxref::eval
