// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set, with the flags and the NEOXREF_ISA of its kernels.
#include "simd/limits.hpp"

#include "simd/vector/lanes.hpp"

namespace neoxref::simd::NEOXREF_ISA {
namespace {

// Bare registers, as in product_tile.hpp. Two units of latency 4 or 5 need ten chains; large cores with NEON
// have four of latency 4.
#if defined(__aarch64__)
constexpr std::size_t chains = 20;
#else
constexpr std::size_t chains = 12;
#endif

double multiply_add(std::size_t rounds) noexcept {
  Native32::register_type sum[chains];
  // From 2: a chain that starts at 1 stays there, and clang drops it.
  repeat<chains>([&](auto i) { sum[i] = Native32(static_cast<float>(i + 2)); });
  const Native32 factor(0.999f);
  const Native32 addend(0.001f);
  for (std::size_t r = 0; r < rounds; ++r) {
    repeat<chains>([&](auto i) { sum[i] = fma_native(sum[i], factor, addend); });
  }
  float lane[Native32::size];
  repeat<chains>([&](auto i) {
    Native32(sum[i]).store_unaligned(lane);
    __asm__ volatile("" : : "r"(lane) : "memory");
  });
  return static_cast<double>(rounds) * static_cast<double>(chains * Native32::size) * 2.0;
}

float read(const float* data, std::size_t n) noexcept {
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

extern const Limits measured_limits;
const Limits measured_limits{multiply_add, read};

}  // namespace neoxref::simd::NEOXREF_ISA
