// SPDX-License-Identifier: Apache-2.0
#include "eval/golden_tensors.hpp"

#include <algorithm>
#include <charconv>
#include <functional>
#include <numeric>

#include "engine/error.hpp"

namespace neoxref::eval {
namespace {

using engine::Config;
using engine::Tensor;
using engine::TensorId;

constexpr std::string_view layers_prefix = "gpt_neox.layers.";

std::string layer_name(std::size_t layer) {
  return std::string(layers_prefix) + std::to_string(layer);
}

/// * stands for any characters.
bool matches(std::string_view pattern, std::string_view name) {
  std::size_t star = pattern.npos;
  std::size_t behind = 0;
  std::size_t p = 0;
  std::size_t n = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      behind = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != pattern.npos) {
      p = star + 1;
      n = ++behind;
    } else {
      return false;
    }
  }
  return std::all_of(pattern.begin() + static_cast<std::ptrdiff_t>(p), pattern.end(),
                     [](char c) { return c == '*'; });
}

}  // namespace

std::uint64_t NamedTensor::rows() const {
  return std::accumulate(shape.begin(), shape.end() - 1, std::uint64_t{1},
                         std::multiplies<std::uint64_t>());
}

std::vector<TensorId> forward_tensors(const Config& config) {
  std::vector<TensorId> all = {{Tensor::embed_in}};
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    for (const Tensor tensor : engine::layer_tensors) all.push_back({tensor, layer});
  }
  all.push_back({Tensor::final_layer_norm});
  all.push_back({Tensor::embed_out});
  return all;
}

NamedTensor forward_tensor(const TensorId& id, const Config& config, std::size_t tokens) {
  return {engine::tensor_name(id), "F32", {1, tokens, engine::tensor_width(id.tensor, config)}};
}

std::vector<NamedTensor> cache_tensors(const Config& config, std::size_t layer, std::size_t slots) {
  const std::string name = "past_key_values." + std::to_string(layer) + ".";
  return {{name + "key", "F32", {1, config.heads, slots, config.head_dim}},
          {name + "value", "F32", {1, config.heads, slots, config.head_dim}},
          {name + "position", "I32", {1, config.heads, slots}},
          {name + "norm", "F32", {1, config.heads, slots}}};
}

std::optional<NamedTensor> extra_tensor(std::string_view name, const Config& config,
                                        std::size_t tokens) {
  if (name == "rotary.cos" || name == "rotary.sin") {
    if (config.rotary_dims == 0) return std::nullopt;
    return NamedTensor{std::string(name), "F32", {tokens, config.rotary_dims / 2}};
  }
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    for (const char* what : {".attention.scores", ".attention.probabilities"}) {
      if (name == layer_name(layer) + what) {
        return NamedTensor{std::string(name), "F32", {1, config.heads, tokens, tokens}};
      }
    }
  }
  return std::nullopt;
}

std::size_t extra_layer(std::string_view name) {
  name.remove_prefix(layers_prefix.size());
  std::size_t layer = 0;
  std::from_chars(name.data(), name.data() + name.size(), layer);
  return layer;
}

std::vector<std::string> select_tensors(std::span<const std::string> asked, const Config& config) {
  std::vector<std::string> forward;
  for (const TensorId& id : forward_tensors(config)) forward.push_back(engine::tensor_name(id));
  std::vector<std::string> names = forward;
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    for (const NamedTensor& tensor : cache_tensors(config, layer, 1)) names.push_back(tensor.name);
  }
  const std::size_t common = names.size();
  if (config.rotary_dims > 0) {
    names.push_back("rotary.cos");
    names.push_back("rotary.sin");
  }
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    names.push_back(layer_name(layer) + ".attention.scores");
    names.push_back(layer_name(layer) + ".attention.probabilities");
  }
  std::vector<bool> chosen(names.size());
  for (const std::string& what : asked) {
    if (what == "none") continue;
    bool any = false;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto id = engine::tensor_from_name(names[i]);
      const bool logits = id && id->tensor == Tensor::embed_out;
      const bool layers = logits || (id && id->tensor == Tensor::layer_output);
      if ((what == "logits" && logits) || (what == "layers" && layers) ||
          (what == "all" && i < common) || matches(what, names[i])) {
        chosen[i] = any = true;
      }
    }
    if (!any) {
      throw engine::Error("tensors", "this model makes no such tensor",
                          "none, logits, layers, all, or names of docs/tensors.md", what);
    }
  }
  std::vector<std::string> result;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (chosen[i]) result.push_back(names[i]);
  }
  return result;
}

}  // namespace neoxref::eval
