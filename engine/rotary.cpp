// SPDX-License-Identifier: Apache-2.0
#include "engine/model.hpp"

namespace neoxref::engine {

RotaryTable::RotaryTable(const Config& config, const simd::Kernels& kernels)
    : half(config.rotary_dims / 2),
      cos(config.max_positions * half),
      sin(config.max_positions * half) {
  for (std::size_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.rotary_dims);
    const float inverse_frequency = 1.0f / simd::pow(config.rotary_base, exponent);
    for (std::size_t position = 0; position < config.max_positions; ++position) {
      cos[position * half + i] = static_cast<float>(position) * inverse_frequency;
    }
  }
  kernels.map(simd::Function::sin, cos.data(), sin.data(), sin.size());
  kernels.map(simd::Function::cos, cos.data(), cos.data(), cos.size());
}

}  // namespace neoxref::engine
