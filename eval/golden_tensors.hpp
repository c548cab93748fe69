// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/config.hpp"
#include "engine/tensors.hpp"

namespace neoxref::eval {

/// A tensor of docs/tensors.md with its shape for one run.
struct NamedTensor {
  std::string name;
  std::string dtype = "F32";  ///< or "I32"
  std::vector<std::uint64_t> shape;

  std::uint64_t row_values() const { return shape.back(); }
  std::uint64_t rows() const;
  std::uint64_t bytes() const { return rows() * row_values() * 4; }
};

/// What every forward pass makes, in the order of execution: [1, tokens, width].
std::vector<engine::TensorId> forward_tensors(const engine::Config& config);
NamedTensor forward_tensor(const engine::TensorId& id, const engine::Config& config,
                           std::size_t tokens);

/// past_key_values.N.key, .value [1, heads, slots, head_dim], .position (I32), .norm [1, heads, slots].
std::vector<NamedTensor> cache_tensors(const engine::Config& config, std::size_t layer,
                                       std::size_t slots);

/// What is made only for who asks, or nothing for another name:
///   gpt_neox.layers.N.attention.scores, .probabilities  [1, heads, tokens, tokens]
///   rotary.cos, rotary.sin                              [tokens, rotary_dims / 2]
std::optional<NamedTensor> extra_tensor(std::string_view name, const engine::Config& config,
                                        std::size_t tokens);
/// The layer of scores or probabilities.
std::size_t extra_layer(std::string_view name);

/// Names for what somebody asks: "none", "logits", "layers" (layer outputs and logits), "all" (the
/// forward pass and the cache), or names, in which * stands for any characters. In the order of a
/// golden, each once. Errors: Error for a name that this model has not.
std::vector<std::string> select_tensors(std::span<const std::string> asked,
                                        const engine::Config& config);

}  // namespace neoxref::eval
