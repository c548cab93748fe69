// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "simd/kernels.hpp"

/// The kernels of one instruction set (NEOXREF_ISA): what each does stands in simd/kernels.hpp.
namespace neoxref::simd::NEOXREF_ISA {

void product(const Product& p) noexcept;
void deep_product(const Product& p) noexcept;  ///< avx512 only, as is zen4_table
void attention(const Attention& a) noexcept;
bool layer_norm(const float* x, std::size_t n, const float* gamma, const float* beta, float eps,
                float* y, std::size_t y_block) noexcept;
void rotate(float* x, const float* cos, const float* sin, std::size_t rotary_dims) noexcept;
void store_keys(const float* key, std::size_t key_stride, std::size_t count, std::size_t head_dim,
                float* panels, std::size_t first_slot) noexcept;
bool key_norms(const float* panels, std::size_t head_dim, std::size_t first_slot, std::size_t count,
               float* norms) noexcept;
void compact_keys(float* panels, std::size_t head_dim, const std::uint32_t* kept,
                  std::size_t count) noexcept;
void compact_rows(float* rows, std::size_t stride, const std::uint32_t* kept,
                  std::size_t count) noexcept;
void map(Function function, const float* in, float* out, std::size_t n) noexcept;
void add3(const float* a, const float* b, const float* c, float* out, std::size_t n) noexcept;
void add(const float* a, const float* b, float* out, std::size_t n) noexcept;
void widen(Dtype dtype, const void* in, float* out, std::size_t n) noexcept;
MaxAndSum max_and_sum(const float* x, std::size_t n) noexcept;
double weighted_difference(const float* weights, const float* a, const float* b,
                           std::size_t n) noexcept;
bool all_finite(const float* x, std::size_t n) noexcept;

/// All of the above but deep_product.
extern const Kernels table;
extern const Kernels zen4_table;  ///< with deep_product for product

}  // namespace neoxref::simd::NEOXREF_ISA
