// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set, with the flags and the NEOXREF_ISA of its kernels.
#include "tests/kernels_limits.hpp"

#include "simd/vector/lanes.hpp"

namespace neoxref::simd::NEOXREF_ISA {
namespace {

// Twelve registers of sums on every machine: two units of latency 4 or 5 need ten.
constexpr std::size_t chains = 12 / parts32 < 4 ? 4 : 12 / parts32;

double multiply_add(std::size_t rounds) {
  f32x16 sum[chains];
  repeat<chains>([&](auto i) { sum[i] = broadcast(static_cast<float>(i)); });
  const f32x16 factor = broadcast(0.999f);
  const f32x16 addend = broadcast(0.001f);
  for (std::size_t r = 0; r < rounds; ++r) {
    repeat<chains>([&](auto i) { sum[i] = fma(sum[i], factor, addend); });
  }
  float lane[16];
  repeat<chains>([&](auto i) {
    store(lane, sum[i]);
    __asm__ volatile("" : : "m"(lane));
  });
  return static_cast<double>(rounds) * static_cast<double>(chains) * 16.0 * 2.0;
}

float read(const float* data, std::size_t n) {
  f32x16 sum[8];
  repeat<8>([&](auto i) { sum[i] = zero(); });
  for (std::size_t i = 0; i < n; i += 8 * 16) {
    repeat<8>([&](auto j) { sum[j] = sum[j] + load(data + i + j * 16); });
  }
  repeat<7>([&](auto i) { sum[0] = sum[0] + sum[i + 1]; });
  float lane[16];
  store(lane, sum[0]);
  return lane[0];
}

}  // namespace

extern const tests::Limits limits;
const tests::Limits limits{multiply_add, read};

}  // namespace neoxref::simd::NEOXREF_ISA
