// SPDX-License-Identifier: Apache-2.0
#include "simd/vector/declare.hpp"

#define NEOXREF_TEXT(name) #name
#define NEOXREF_NAME_OF(name) NEOXREF_TEXT(name)

namespace neoxref::simd::NEOXREF_ISA {

namespace {

constexpr Kernels table_of(Isa isa, const char* name, decltype(Kernels::product) product) {
  return {
      .isa = isa,
      .name = name,
      .product = product,
      .attention = attention,
      .layer_norm = layer_norm,
      .rotate = rotate,
      .store_keys = store_keys,
      .key_norms = key_norms,
      .compact_keys = compact_keys,
      .compact_rows = compact_rows,
      .map = map,
      .add3 = add3,
      .add = add,
      .widen = widen,
      .max_and_sum = max_and_sum,
      .weighted_difference = weighted_difference,
      .all_finite = all_finite,
  };
}

}  // namespace

constinit const Kernels table = table_of(Isa::NEOXREF_ISA, NEOXREF_NAME_OF(NEOXREF_ISA), product);

#if defined(__AVX512F__)
constinit const Kernels zen4_table = table_of(Isa::zen4, "zen4", deep_product);
#endif

}  // namespace neoxref::simd::NEOXREF_ISA
