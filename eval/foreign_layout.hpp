// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/config.hpp"
#include "eval/foreign.hpp"
#include "eval/foreign_rules.hpp"
#include "eval/matrices.hpp"

namespace neoxref::eval::foreign {

/// Where the elements of an array are along axes; looks at none of them.
struct View {
  ForeignType type = ForeignType::f32;
  std::vector<std::uint64_t> shape;
  std::vector<std::size_t> strides;  ///< in elements
  std::size_t start = 0;             ///< in elements
};

/// The whole array. type   what its bytes are, if not what the file says.
/// Errors: Error where the types have other sizes.
View view_of(const ForeignArray& array, std::optional<ForeignType> type);
/// One index of an axis, which goes away. Errors: Error naming `place`.
View at(View view, std::size_t axis, std::uint64_t index, const std::string& place);
/// Slices, squeezes and permutes as a rule says. Errors: Error naming `place`.
View apply(View view, const ForeignRule& rule, const std::string& place);

/// A view cut into rows (leading axes) and columns (the others), together one of tensor_width or a
/// part of it.
struct Grid {
  View view;
  std::size_t row_axes = 0;
  std::string how;  ///< "" as it stands, else "transposed", ... for messages
  /// The columns are [q, k, v][heads][head_dim].
  bool by_part = false;
};

/// Ways to see a view as rows of `width` values, the plain one first; empty where its shape allows none.
/// heads_first   axes [.., heads, tokens, values of a head] are the plain way.
std::vector<Grid> grids(const View& view, std::size_t width, std::size_t heads, bool heads_first);

/// Sequences and tokens of the leading axes; one sequence where there is a single axis.
struct GridRows {
  std::size_t batch = 1;
  std::size_t tokens = 1;
};
GridRows rows_of(const Grid& grid);

/// Rows [first, first + rows) of a sequence, widened or rounded to float; columns in the order of
/// docs/tensors.md.
Matrix values(const Grid& grid, std::span<const std::byte> bytes, std::size_t sequence,
              std::size_t first, std::size_t rows, std::size_t heads);
/// Every element as a whole number. Errors: Error for what is none.
std::vector<std::int64_t> integers(const View& view, std::span<const std::byte> bytes,
                                   const std::string& place);

}  // namespace neoxref::eval::foreign
