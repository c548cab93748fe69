// SPDX-License-Identifier: Apache-2.0
#include "simd/vector/declare.hpp"
#include "simd/vector/functions.hpp"

namespace neoxref::simd::NEOXREF_ISA {
namespace {

template <f32x16 (*function)(const f32x16&)>
void map_with(const float* in, float* out, std::size_t n) noexcept {
  each_sixteen(n, [&](std::size_t i, std::size_t width) NEOXREF_INLINED {
    store_up_to(out + i, function(load_up_to(in + i, width)), width);
  });
}

}  // namespace

void map(Function function, const float* in, float* out, std::size_t n) noexcept {
  switch (function) {
    case Function::exp:
      return map_with<exp>(in, out, n);
    case Function::log:
      return map_with<log>(in, out, n);
    case Function::tanh:
      return map_with<tanh>(in, out, n);
    case Function::silu:
      return map_with<silu>(in, out, n);
    case Function::gelu:
      return map_with<gelu>(in, out, n);
    case Function::gelu_tanh:
      return map_with<gelu_tanh>(in, out, n);
    case Function::gelu_fast:
      return map_with<gelu_fast>(in, out, n);
    case Function::quick_gelu:
      return map_with<quick_gelu>(in, out, n);
    case Function::relu:
      return map_with<relu>(in, out, n);
    case Function::sin:
      return map_with<sin>(in, out, n);
    case Function::cos:
      return map_with<cos>(in, out, n);
  }
}

}  // namespace neoxref::simd::NEOXREF_ISA
