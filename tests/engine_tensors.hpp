// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "eval/matrices.hpp"

namespace neoxref::tests {

/// Tensors in memory.
class HeldTensors : public eval::TensorSource {
public:
  explicit HeldTensors(std::vector<std::int32_t> tokens) : tokens_(std::move(tokens)) {}
  bool has(const engine::TensorId& id) const override { return all.contains(id); }
  std::optional<eval::Matrix> get(const engine::TensorId& id) const override {
    const auto found = all.find(id);
    if (found == all.end()) return std::nullopt;
    return found->second;
  }
  std::span<const std::int32_t> tokens() const override { return tokens_; }

  std::map<engine::TensorId, eval::Matrix> all;

private:
  std::vector<std::int32_t> tokens_;
};

/// Every tensor of a model, in the order of execution.
inline std::vector<engine::TensorId> all_tensors(const engine::Config& config) {
  std::vector<engine::TensorId> ids = {{engine::Tensor::embed_in}};
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    for (const engine::Tensor tensor : engine::layer_tensors) ids.push_back({tensor, layer});
  }
  ids.push_back({engine::Tensor::final_layer_norm});
  ids.push_back({engine::Tensor::embed_out});
  return ids;
}

/// All tensors of one forward pass of the engine.
inline HeldTensors engine_tensors(engine::Model& model, std::vector<std::int32_t> tokens) {
  HeldTensors held(tokens);
  for (const engine::TensorId& id : all_tensors(model.config())) {
    const std::size_t width = engine::tensor_width(id.tensor, model.config());
    held.all[id] = {tokens.size(), width, std::vector<float>(tokens.size() * width)};
  }
  class Watcher : public engine::TensorWatcher {
  public:
    explicit Watcher(HeldTensors& held) : held_(held) {}
    bool wants(const engine::TensorId&) const noexcept override { return true; }
    void see(const engine::TensorId& id, std::size_t first_token, std::size_t rows,
             std::size_t first_column, std::size_t columns, const float* values,
             std::size_t stride) noexcept override {
      eval::Matrix& to = held_.all.find(id)->second;
      for (std::size_t r = 0; r < rows; ++r) {
        std::memcpy(to.row(first_token + r) + first_column, values + r * stride,
                    columns * sizeof(float));
      }
    }

  private:
    HeldTensors& held_;
  } watcher(held);
  engine::Sequence sequence = model.sequence(tokens.size());
  sequence.tensors = &watcher;
  std::vector<float> logits(tokens.size() * model.config().vocab);
  engine::Step step{&sequence, tokens, engine::LogitRows::all, logits.data()};
  if (!model.forward({&step, 1})) throw engine::Error("forward", "not finite");
  return held;
}

}  // namespace neoxref::tests
