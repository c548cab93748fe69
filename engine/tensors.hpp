// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/config.hpp"

namespace neoxref::engine {

/// The tensors that a forward pass makes, in the order of execution (docs/tensors.md). All but the first
/// and the last two exist once per layer.
enum class Tensor : std::uint8_t {
  embed_in,                  ///< [tokens, hidden]
  input_layernorm,           ///< [tokens, hidden]
  query_key_value,           ///< [tokens, heads * 3 * head_dim], as stored
  rotary_q,                  ///< [tokens, heads * head_dim]
  rotary_k,                  ///< [tokens, heads * head_dim]
  context,                   ///< [tokens, heads * head_dim]
  dense,                     ///< [tokens, hidden]
  post_attention_layernorm,  ///< [tokens, hidden]
  dense_h_to_4h,             ///< [tokens, intermediate]
  act,                       ///< [tokens, intermediate]
  dense_4h_to_h,             ///< [tokens, hidden]
  layer_output,              ///< [tokens, hidden]
  final_layer_norm,          ///< [tokens, hidden]
  embed_out                  ///< [tokens, vocab]
};

inline constexpr std::array<Tensor, 11> layer_tensors = {Tensor::input_layernorm,
                                                         Tensor::query_key_value,
                                                         Tensor::rotary_q,
                                                         Tensor::rotary_k,
                                                         Tensor::context,
                                                         Tensor::dense,
                                                         Tensor::post_attention_layernorm,
                                                         Tensor::dense_h_to_4h,
                                                         Tensor::act,
                                                         Tensor::dense_4h_to_h,
                                                         Tensor::layer_output};

/// One tensor of a model. layer is 0 for those that exist once. Not the order of execution: see
/// execution_order.
struct TensorId {
  Tensor tensor;
  std::size_t layer = 0;
  auto operator<=>(const TensorId&) const = default;
};

/// False for embed_in, final_layer_norm and embed_out.
bool exists_per_layer(Tensor tensor);

/// "gpt_neox.layers.3.attention.dense".
std::string tensor_name(const TensorId& id);
/// The tensor of this name; nothing for another name. The layer may be past the model's last.
std::optional<TensorId> tensor_from_name(std::string_view name);

/// Values of a row.
std::size_t tensor_width(Tensor tensor, const Config& config);

/// Ascends in the order of execution: embedding, layer 0, ..., final norm, logits. In a layer with the
/// sequential residual and in one with the parallel residual it is the order of the enumeration.
std::size_t execution_order(const TensorId& id, const Config& config);

/// Sees the tensors of a sequence as they come to be. Never changes a bit of them.
class TensorWatcher {
public:
  virtual ~TensorWatcher() = default;
  /// Asked for each piece, by several threads at once.
  virtual bool wants(const TensorId& id) const noexcept = 0;
  /// A piece: rows of the tokens [first_token, first_token + rows) of the sequence, counted from its
  /// beginning; columns [first_column, first_column + columns) of each. Pieces are disjoint and come from
  /// several threads at once, in any order; together they are the whole tensor, but for
  /// final_layer_norm and embed_out only the tokens whose logits were asked for. Where a step failed,
  /// tokens may come twice, and values behind the failure are not to be used.
  virtual void see(const TensorId& id, std::size_t first_token, std::size_t rows,
                   std::size_t first_column, std::size_t columns, const float* values,
                   std::size_t stride) noexcept = 0;
};

}  // namespace neoxref::engine
