// SPDX-License-Identifier: Apache-2.0
#include "simd/vector/declare.hpp"
#include "simd/vector/lanes.hpp"

namespace neoxref::simd::NEOXREF_ISA {
namespace {

template <class Stored>
void widen_from(const Stored* in, float* out, std::size_t n) noexcept {
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) store(out + i, load(in + i));
  if (i < n) {
    Stored rest[lanes] = {};
    std::memcpy(rest, in + i, (n - i) * sizeof(Stored));
    store_part(out + i, load(rest), n - i);
  }
}

}  // namespace

void rotate(float* x, const float* cos, const float* sin, std::size_t rotary_dims) noexcept {
  const std::size_t half = rotary_dims / 2;
  const f32x16 minus_one = broadcast(-1.0f);
  for (std::size_t i = 0; i < half; i += lanes) {
    const std::size_t n = half - i;
    const f32x16 x1 = load_up_to(x + i, n);
    const f32x16 x2 = load_up_to(x + half + i, n);
    const f32x16 c = load_up_to(cos + i, n);
    const f32x16 s = load_up_to(sin + i, n);
    // A difference from 0 would lose the sign of a zero product.
    store_up_to(x + i, fma(x1, c, (x2 * s) * minus_one), n);
    store_up_to(x + half + i, fma(x2, c, x1 * s), n);
  }
}

void add3(const float* a, const float* b, const float* c, float* out, std::size_t n) noexcept {
  each_sixteen(n, [&](std::size_t i, std::size_t width) NEOXREF_INLINED {
    const f32x16 sum = load_up_to(a + i, width) + load_up_to(b + i, width);
    store_up_to(out + i, sum + load_up_to(c + i, width), width);
  });
}

void add(const float* a, const float* b, float* out, std::size_t n) noexcept {
  each_sixteen(n, [&](std::size_t i, std::size_t width) NEOXREF_INLINED {
    store_up_to(out + i, load_up_to(a + i, width) + load_up_to(b + i, width), width);
  });
}

void widen(Dtype dtype, const void* in, float* out, std::size_t n) noexcept {
  switch (dtype) {
    case Dtype::f32:
      return widen_from(static_cast<const float*>(in), out, n);
    case Dtype::f16:
      return widen_from(static_cast<const f16_bits*>(in), out, n);
    case Dtype::bf16:
      return widen_from(static_cast<const bf16_bits*>(in), out, n);
  }
}

}  // namespace neoxref::simd::NEOXREF_ISA
