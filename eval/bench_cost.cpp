// SPDX-License-Identifier: Apache-2.0
#include "eval/bench_cost.hpp"

#include <algorithm>

namespace neoxref::eval {
namespace {

double weights_of(const engine::Linear& linear) {
  return static_cast<double>(linear.outputs() * linear.inputs);
}

/// Weights of all layers.
double layer_weights(const engine::Weights& weights) {
  double sum = 0.0;
  for (const engine::LayerWeights& layer : weights.layers) {
    sum += weights_of(layer.query_key_value) + weights_of(layer.dense) +
           weights_of(layer.dense_h_to_4h) + weights_of(layer.dense_4h_to_h);
  }
  return sum;
}

/// A query with a key and a weight with a value, in all layers.
double flops_per_pair(const engine::Config& config) {
  return 4.0 * static_cast<double>(config.layers * config.heads * config.head_dim);
}

}  // namespace

double Cost::least_seconds(double flops_per_second, double bytes_per_second) const {
  return std::max(matrix_flops / flops_per_second, weight_bytes / bytes_per_second) +
         std::max(attention_flops / flops_per_second, cache_bytes / bytes_per_second);
}

double Cost::computing_seconds(double flops_per_second, double bytes_per_second) const {
  const auto computing = [&](double flops, double bytes) {
    const double seconds = flops / flops_per_second;
    return seconds >= bytes / bytes_per_second ? seconds : 0.0;
  };
  return computing(matrix_flops, weight_bytes) + computing(attention_flops, cache_bytes);
}

double slot_bytes(const engine::Config& config) {
  return static_cast<double>(config.layers * config.heads * config.head_dim * 2 * sizeof(float));
}

Cost prefill_cost(const engine::Config& config, const engine::Weights& weights, std::size_t tokens,
                  std::size_t batch) {
  const auto sequences = static_cast<double>(batch);
  const auto rows = static_cast<double>(tokens);
  // But for its keys and values, the last layer takes the last token only.
  const engine::LayerWeights& last = weights.layers.back();
  const auto queries = static_cast<double>(config.hidden * config.hidden);
  const double left_out = queries + weights_of(last.dense) + weights_of(last.dense_h_to_4h) +
                          weights_of(last.dense_4h_to_h);
  Cost cost;
  cost.matrix_flops =
      2.0 * sequences *
      (rows * layer_weights(weights) - (rows - 1.0) * left_out + weights_of(weights.embed_out));
  cost.weight_bytes = static_cast<double>(weights.packed_bytes());
  const double layers = static_cast<double>(config.layers);
  const double pairs = (layers - 1.0) * rows * (rows + 1.0) / 2.0 + rows;  // of all layers
  cost.attention_flops = sequences * flops_per_pair(config) / layers * pairs;
  cost.cache_bytes = sequences * rows * slot_bytes(config);
  return cost;
}

Cost decode_cost(const engine::Config& config, const engine::Weights& weights, double slots,
                 std::size_t batch) {
  const auto sequences = static_cast<double>(batch);
  Cost cost;
  cost.matrix_flops = 2.0 * sequences * (layer_weights(weights) + weights_of(weights.embed_out));
  cost.weight_bytes = static_cast<double>(weights.packed_bytes());
  cost.attention_flops = sequences * flops_per_pair(config) * slots;
  cost.cache_bytes = sequences * slots * slot_bytes(config);
  return cost;
}

}  // namespace neoxref::eval
