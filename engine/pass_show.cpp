// SPDX-License-Identifier: Apache-2.0
// Tensors of a pass to whoever watches their sequences.
#include <algorithm>

#include "engine/pass.hpp"

namespace neoxref::engine {

void Model::Pass::show(const TensorId& id, std::size_t first_row, std::size_t rows,
                       std::size_t first_column, std::size_t columns, const float* values,
                       std::size_t stride) {
  for (std::size_t row = first_row; row < first_row + rows;) {
    const Row& place = rows_[row];
    const Segment& segment = segments_[place.segment];
    const std::size_t run = std::min(first_row + rows - row, segment.count - place.offset);
    const Sequence& sequence = *segment.step->sequence;
    if (sequence.tensors != nullptr && sequence.tensors->wants(id)) {
      sequence.tensors->see(id, sequence.position + place.offset, run, first_column, columns,
                            values + (row - first_row) * stride, stride);
    }
    row += run;
  }
}

void Model::Pass::show(const TensorId& id, std::size_t first_row, std::size_t first_column,
                       std::size_t columns, const BlockedRows& values) {
  if (values.rows == 1) {
    show(id, first_row, 1, first_column, columns, values.at(0, first_column), columns);
    return;
  }
  for (std::size_t done = 0; done < columns;) {
    const std::size_t column = first_column + done;
    const std::size_t width = std::min(columns - done, simd::dot_block - column % simd::dot_block);
    show(id, first_row, values.rows, column, width, values.at(0, column), simd::dot_block);
    done += width;
  }
}

void Model::Pass::show_heads(Tensor tensor, std::size_t layer, std::size_t first_row,
                             std::size_t rows, std::size_t first_head, std::size_t heads) {
  const Linear& qkv = weights_.layers[layer].query_key_value;
  const std::size_t head_dim = config_.head_dim;
  const std::size_t columns = tensor == Tensor::query_key_value ? 3 * head_dim : head_dim;
  if (tensor == Tensor::query_key_value && qkv.group_stride() == columns) {
    // No padding between the heads: one piece.
    show({tensor, layer}, first_row, rows, first_head * columns, heads * columns,
         qkv_.data() + first_row * qkv.outputs() + first_head * columns, qkv.outputs());
    return;
  }
  for (std::size_t head = first_head; head < first_head + heads; ++head) {
    const float* values = qkv_.data() + first_row * qkv.outputs() + head * qkv.group_stride() +
                          (tensor == Tensor::rotary_k ? head_dim : 0);
    show({tensor, layer}, first_row, rows, head * columns, columns, values, qkv.outputs());
  }
}

}  // namespace neoxref::engine
