// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>

#include "engine/checkpoint.hpp"
#include "engine/parallel.hpp"
#include "eval/units.hpp"

namespace neoxref::eval {

/// The operations of docs/contract.md, section 2, in binary64 (section 6), on all tokens at once. Sums
/// are taken in any order: these values are compared with rounding errors of narrower formats.

/// Rows of embed_in.
Matrix64 embedding(const engine::Checkpoint& checkpoint, std::span<const std::int32_t> tokens);

Matrix64 layer_norm(const engine::Checkpoint& checkpoint, const Matrix64& x, engine::Weight gamma,
                    engine::Weight beta, std::size_t layer, double eps);

/// [tokens, outputs] of x [tokens, inputs].
Matrix64 linear_layer(engine::Team& team, const engine::Checkpoint& checkpoint, const Matrix64& x,
                      engine::Weight weight, std::optional<engine::Weight> bias, std::size_t layer);
/// Those columns of the logits.
Matrix64 logits_of(engine::Team& team, const engine::Checkpoint& checkpoint, const Matrix64& x,
                   std::span<const std::size_t> columns);

double activate(simd::Function function, double x);

/// Turns the first rotary_dims of each head of x [tokens, heads * head_dim] by its row + shift; cos and
/// sin at their binary32 values.
/// interleaved   pairs are (2i, 2i + 1), not (i, i + rotary_dims / 2).
void rotate(Matrix64& x, const engine::Config& config, std::size_t rotary_dims, bool interleaved,
            int shift);

struct AttentionRules {
  std::size_t first_slot = 0;  ///< slots before it are not seen
  int ahead = 0;               ///< token t sees slots up to t + ahead, as far as there are tokens
  bool more_tokens = false;    ///< the sequence goes on behind the last row
  double scale = 1.0;
};
/// The context [tokens, heads * head_dim] of q, k, v of that shape. NaN for a token that sees no slot, or
/// one that is not among the rows.
Matrix64 attend(engine::Team& team, const Matrix64& q, const Matrix64& k, const Matrix64& v,
                std::size_t heads, const AttentionRules& rules);

/// Of matrices of one shape, from the first on.
Matrix64 sum(std::initializer_list<const Matrix64*> terms);

}  // namespace neoxref::eval
