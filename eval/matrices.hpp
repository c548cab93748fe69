// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/tensors.hpp"

namespace neoxref::eval {

/// Rows are tokens from the first on, row-major.
struct Matrix {
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::vector<float> values;  ///< [rows, columns]

  const float* row(std::size_t i) const { return values.data() + i * columns; }
  float* row(std::size_t i) { return values.data() + i * columns; }
};

/// Tensors of one sequence, by name: those of a reference run, or what somebody else's file holds
/// after its names and shapes were mapped.
class TensorSource {
public:
  virtual ~TensorSource() = default;
  virtual bool has(const engine::TensorId& id) const = 0;
  /// [tokens, tensor_width], every value a float. Nothing when it is not there. May be costly: callers
  /// hold one unit's tensors at a time. Errors: Error.
  virtual std::optional<Matrix> get(const engine::TensorId& id) const = 0;
  /// The ids that entered.
  virtual std::span<const std::int32_t> tokens() const = 0;
};

}  // namespace neoxref::eval
