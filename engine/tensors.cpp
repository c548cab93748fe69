// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors.hpp"

#include <charconv>

namespace neoxref::engine {
namespace {

constexpr std::string_view prefix = "gpt_neox.layers.";

/// What stands behind "gpt_neox.layers.N", or the whole name of what exists once.
std::string_view name_of(Tensor tensor) {
  switch (tensor) {
    case Tensor::embed_in:
      return "gpt_neox.embed_in";
    case Tensor::input_layernorm:
      return ".input_layernorm";
    case Tensor::query_key_value:
      return ".attention.query_key_value";
    case Tensor::rotary_q:
      return ".attention.rotary_q";
    case Tensor::rotary_k:
      return ".attention.rotary_k";
    case Tensor::context:
      return ".attention.context";
    case Tensor::dense:
      return ".attention.dense";
    case Tensor::post_attention_layernorm:
      return ".post_attention_layernorm";
    case Tensor::dense_h_to_4h:
      return ".mlp.dense_h_to_4h";
    case Tensor::act:
      return ".mlp.act";
    case Tensor::dense_4h_to_h:
      return ".mlp.dense_4h_to_h";
    case Tensor::layer_output:
      return "";
    case Tensor::final_layer_norm:
      return "gpt_neox.final_layer_norm";
    case Tensor::embed_out:
      break;
  }
  return "embed_out";
}

}  // namespace

bool exists_per_layer(Tensor tensor) {
  return tensor != Tensor::embed_in && tensor != Tensor::final_layer_norm &&
         tensor != Tensor::embed_out;
}

std::string tensor_name(const TensorId& id) {
  const std::string name(name_of(id.tensor));
  return exists_per_layer(id.tensor) ? std::string(prefix) + std::to_string(id.layer) + name : name;
}

std::optional<TensorId> tensor_from_name(std::string_view name) {
  for (const Tensor tensor : {Tensor::embed_in, Tensor::final_layer_norm, Tensor::embed_out}) {
    if (name == name_of(tensor)) return TensorId{tensor};
  }
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  std::size_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  const auto digits = static_cast<std::size_t>(end - name.data());
  if (error != std::errc{} || (digits > 1 && name.front() == '0')) return std::nullopt;
  name.remove_prefix(digits);
  for (const Tensor tensor : layer_tensors) {
    if (name == name_of(tensor)) return TensorId{tensor, layer};
  }
  return std::nullopt;
}

std::size_t tensor_width(Tensor tensor, const Config& config) {
  switch (tensor) {
    case Tensor::query_key_value:
      return 3 * config.hidden;
    case Tensor::dense_h_to_4h:
    case Tensor::act:
      return config.intermediate;
    case Tensor::embed_out:
      return config.vocab;
    default:
      return config.hidden;
  }
}

std::size_t execution_order(const TensorId& id, const Config& config) {
  const auto place = static_cast<std::size_t>(id.tensor);
  if (id.tensor == Tensor::embed_in) return 0;
  if (exists_per_layer(id.tensor)) return id.layer * layer_tensors.size() + place;
  return config.layers * layer_tensors.size() + 1 +
         (place - static_cast<std::size_t>(Tensor::final_layer_norm));
}

}  // namespace neoxref::engine
