// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/config.hpp"
#include "engine/safetensors.hpp"
#include "simd/kernels.hpp"

namespace neoxref::engine {

/// The weights of a GPT-NeoX model. Those before final_norm_weight exist once per layer, except
/// embed_in.
enum class Weight : std::uint8_t {
  embed_in,           ///< [vocab, hidden]
  input_norm_weight,  ///< [hidden]; the norm before attention
  input_norm_bias,    ///< [hidden]
  qkv_weight,         ///< [3 * hidden, hidden], rows in the order [heads][q, k, v][head_dim]
  qkv_bias,           ///< [3 * hidden]; only with attention_bias
  dense_weight,       ///< [hidden, hidden]
  dense_bias,         ///< [hidden]; only with attention_bias
  post_norm_weight,   ///< [hidden]; post_attention_layernorm, the norm before the mlp
  post_norm_bias,     ///< [hidden]
  mlp_up_weight,      ///< [intermediate, hidden]; dense_h_to_4h
  mlp_up_bias,        ///< [intermediate]
  mlp_down_weight,    ///< [hidden, intermediate]; dense_4h_to_h
  mlp_down_bias,      ///< [hidden]
  final_norm_weight,  ///< [hidden]
  final_norm_bias,    ///< [hidden]
  embed_out           ///< [vocab, hidden]; may be absent when it is tied to embed_in
};

/// The name in the file, "gpt_neox.layers.3.attention.dense.bias". layer is ignored for a weight
/// that exists once.
std::string weight_name(Weight weight, std::size_t layer = 0);

struct TensorSpec {
  std::string name;
  std::vector<std::uint64_t> shape;
};

/// Every tensor that a checkpoint of this config must hold, in model order (embed_out too, unless
/// it is tied).
std::vector<TensorSpec> required_tensors(const Config& config);

/// The dtype of a weight.
/// Errors: Error when it is not F32, F16 or BF16.
simd::Dtype weight_dtype(const TensorView& tensor);

/// Errors: Error naming the tensor and the index of its first NaN or infinity; also as
/// weight_dtype.
void check_finite(const TensorView& tensor);
/// The same of `count` bytes from `first` on, whole elements.
void check_finite(const TensorView& tensor, std::size_t first, std::size_t count);

/// A model's folder, opened and checked: config.json, and model.safetensors or the shards that
/// model.safetensors.index.json lists (the single file wins when both are there, as in
/// transformers). Each tensor that the config calls for is there once, in the right shape, as F32,
/// F16 or BF16; only the position and mask buffers of old checkpoints may stand beside them. Values
/// are not looked at (see check_finite). Move-only; views stay valid when it is moved.
class Checkpoint {
public:
  /// Errors: Error naming file, tensor or field, with what was expected and found.
  static Checkpoint open(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const Config& config() const { return config_; }

  /// True when this model has the weight: false only for attention biases that the config turns
  /// off.
  bool has(Weight weight) const;
  /// The stored weight; a tied embed_out gives embed_in. layer < config().layers.
  /// Errors: Error when the model has no such weight.
  const TensorView& tensor(Weight weight, std::size_t layer = 0) const;
  /// By the name in the file; buffers that are ignored cannot be asked for.
  const TensorView& tensor(std::string_view name) const;

  /// The open files, shards in the order of their names.
  std::span<const Safetensors> files() const { return files_; }

private:
  Checkpoint() = default;
  void open_files();
  void open_shards(const std::filesystem::path& index);
  void collect_tensors();
  void check_tensors();

  std::filesystem::path folder_;
  Config config_;
  std::vector<Safetensors> files_;
  std::map<std::string, const TensorView*, std::less<>> tensors_;
};

}  // namespace neoxref::engine
