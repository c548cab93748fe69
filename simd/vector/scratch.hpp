// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "simd/kernels.hpp"

/// How the scratch of a product and of an attention call is cut. The same on every instruction set,
/// because callers ask before they know which table will run. Internal linkage: this header is
/// compiled with the flags of every instruction set.
namespace neoxref::simd {
namespace {

/// Most rows of a tile of several panels, and of one of attention, on any instruction set.
constexpr std::size_t max_tile_rows = 12;
/// Most outputs whose partial sums are held in the first-level cache at a time; blocks of depth and panels of
/// a visit share as many columns of widened weights (product.cpp).
constexpr std::size_t max_group_columns = 64;
/// Floats of input that should stay in the second-level cache.
constexpr std::size_t packed_floats = 256 * 1024;

/// Most rows that are multiplied at a time: their totals share the first-level cache with the
/// weights of a visit (product.cpp).
constexpr std::size_t most_chunk_rows(std::size_t rows, std::size_t depth) {
  const std::size_t blocks = round_up(depth, dot_block) / dot_block;
  const std::size_t tiles = blocks == 0 ? 1 : packed_floats / (blocks * dot_block * max_tile_rows);
  const std::size_t most = (tiles < 4 ? 4 : tiles > 8 ? 8 : tiles) * max_tile_rows;
  return rows < most ? rows : most;
}

/// Rows of a deep tile, and most rows that are multiplied by these at a time. As many however
/// deep: a panel of weights comes from memory once for all of them, their input from a cache.
constexpr std::size_t deep_tile_rows = 14;
constexpr std::size_t most_deep_chunk_rows(std::size_t rows) {
  constexpr std::size_t most = 7 * deep_tile_rows;
  return rows < most ? rows : most;
}

/// At most `most` rows at a time, in pieces of one length: a short last one would read and widen the
/// weights for few rows.
constexpr std::size_t even_rows(std::size_t rows, std::size_t most) {
  if (rows == 0) return 0;
  const std::size_t pieces = (rows + most - 1) / most;
  return (rows + pieces - 1) / pieces;
}

/// Product: totals, then the widened weights of a visit, whose blocks of depth share max_group_columns
/// (asserted in product.cpp), then input that has to be copied. Deep tiles: only that.
constexpr std::size_t packed_size(std::size_t rows, std::size_t depth) {
  return rows * round_up(depth, dot_block);
}
constexpr std::size_t totals_size(std::size_t rows) {
  return rows * max_group_columns;
}
constexpr std::size_t widened_size = dot_block * max_group_columns;

/// Attention: one tile of packed queries, their scores [slots / 64][rows][64], then their totals.
constexpr std::size_t queries_size(std::size_t rows, std::size_t head_dim) {
  return rows * round_up(head_dim, dot_block);
}
constexpr std::size_t scores_size(std::size_t rows, std::size_t slots) {
  return rows * round_up(slots, dot_block);
}
constexpr std::size_t context_size(std::size_t rows, std::size_t head_dim) {
  return rows * round_up(head_dim, max_group_columns);
}

}  // namespace
}  // namespace neoxref::simd
