// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "simd/vector/exchange.hpp"
#include "simd/vector/lanes.hpp"

/// What the contract's order of sums costs is measured against kernels that are freed from it
/// (tests/contract_cost.cpp builds them so; the library never does): chains of fma that run on from
/// block to block, and sums of binary32 instead of binary64.
namespace neoxref::simd::NEOXREF_ISA {
namespace {

#ifdef NEOXREF_FREED
inline constexpr bool freed = true;
using SumLanes = f32x16;
NEOXREF_INLINE SumLanes no_sum() {
  return zero();
}
NEOXREF_INLINE SumLanes to_sum(const f32x16& a) {
  return a;
}
NEOXREF_INLINE double fold(const f32x16& a) {
  return fold(to_f64(a));
}
#else
inline constexpr bool freed = false;
using SumLanes = f64x16;
NEOXREF_INLINE SumLanes no_sum() {
  return broadcast(0.0);
}
NEOXREF_INLINE SumLanes to_sum(const f32x16& a) {
  return to_f64(a);
}
#endif

}  // namespace
}  // namespace neoxref::simd::NEOXREF_ISA
