// SPDX-License-Identifier: Apache-2.0
#include "simd/vector/declare.hpp"

#define NEOXREF_TEXT(name) #name
#define NEOXREF_NAME_OF(name) NEOXREF_TEXT(name)

namespace neoxref::simd::NEOXREF_ISA {

const Kernels table{
    .isa = Isa::NEOXREF_ISA,
    .name = NEOXREF_NAME_OF(NEOXREF_ISA),
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

}  // namespace neoxref::simd::NEOXREF_ISA
