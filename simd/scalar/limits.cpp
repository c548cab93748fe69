// SPDX-License-Identifier: Apache-2.0
#include "simd/limits.hpp"

namespace neoxref::simd::scalar {
namespace {

constexpr std::size_t chains = 16;

double multiply_add(std::size_t rounds) noexcept {
  float sum[chains];
  for (std::size_t i = 0; i < chains; ++i) sum[i] = static_cast<float>(i + 2);
  for (std::size_t r = 0; r < rounds; ++r) {
    for (std::size_t i = 0; i < chains; ++i) sum[i] = sum[i] * 0.999f + 0.001f;
  }
  __asm__ volatile("" : : "r"(sum) : "memory");
  return static_cast<double>(rounds) * static_cast<double>(chains) * 2.0;
}

float read(const float* data, std::size_t n) noexcept {
  float sum[chains] = {};
  for (std::size_t i = 0; i < n; i += chains) {
    for (std::size_t j = 0; j < chains; ++j) sum[j] += data[i + j];
  }
  for (std::size_t j = 1; j < chains; ++j) sum[0] += sum[j];
  return sum[0];
}

}  // namespace

extern const Limits measured_limits;
const Limits measured_limits{multiply_add, read};

}  // namespace neoxref::simd::scalar
