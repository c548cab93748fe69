// SPDX-License-Identifier: Apache-2.0

/// functions_digest with the text of `map` for NEON, carried out by x86 instructions through SIMDe:
/// all 2^32 arguments of a function in minutes, where emulation of the whole machine takes hours.
/// Every NEON instruction becomes the x86 one of the same meaning, fma included.

// All headers first: below, this machine looks like another.
#include <simde/arm/neon.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <complex>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

// clang-format off
#include <arm_neon.h>  // after SIMDe, whose names it gives
// clang-format on
#include "simd/kernels.hpp"

#ifndef SIMDE_X86_FMA_NATIVE
#error "fma must be one instruction: -mavx2 -mfma"
#endif

// xsimd chooses by these.
#undef __AVX512F__
#undef __AVX512BW__
#undef __AVX512DQ__
#undef __AVX512CD__
#undef __AVX512VL__
#undef __AVX512VBMI__
#undef __AVX512IFMA__
#undef __AVX512VNNI__
#undef __AVX512ER__
#undef __AVX512PF__
#undef __AVXVNNI__
#undef __AVX2__
#undef __AVX__
#undef __FMA__
#undef __FMA4__
#undef __XOP__
#undef __SSE4_2__
#undef __SSE4_1__
#undef __SSSE3__
#undef __SSE3__
#undef __SSE2__
#undef __SSE__
#undef __x86_64__
#undef __i386__
#define __aarch64__ 1
#define __ARM_NEON 1
#define __ARM_ARCH 8
#define NEOXREF_ISA neon
#include "simd/vector/map.cpp"

namespace neoxref::simd {

std::span<const Isa> usable_isas() {
  static constexpr Isa only[] = {Isa::neon};
  return only;
}

std::string_view isa_name(Isa) {
  return "neon";
}

const Kernels& kernels(std::string_view name) {
  if (name != "neon") throw std::invalid_argument("this program has neon only");
  static const Kernels table = [] {
    Kernels made{};
    made.isa = Isa::neon;
    made.name = "neon";
    made.map = neon::map;
    return made;
  }();
  return table;
}

}  // namespace neoxref::simd
