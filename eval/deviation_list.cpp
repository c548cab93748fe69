// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <string_view>

#include "eval/deviations.hpp"

namespace neoxref::eval {
namespace {

using engine::Tensor;
using engine::Weight;
using simd::Function;

struct Activation {
  std::string_view name;
  Function function;
};
// gelu_fast is gelu_new to 1e-12: nothing tells them apart.
constexpr std::array<Activation, 6> activations = {{{"gelu", Function::gelu},
                                                    {"gelu_new", Function::gelu_tanh},
                                                    {"quick_gelu", Function::quick_gelu},
                                                    {"relu", Function::relu},
                                                    {"silu", Function::silu},
                                                    {"tanh", Function::tanh}}};

struct Number {
  std::string_view text;
  double value;
};
constexpr std::array<Number, 5> eps_values = {
    {{"1e-12", 1e-12}, {"1e-8", 1e-8}, {"1e-6", 1e-6}, {"1e-5", 1e-5}, {"1e-3", 1e-3}}};
constexpr std::array<Number, 4> rotary_shares = {
    {{"0", 0.0}, {"0.25", 0.25}, {"0.5", 0.5}, {"1", 1.0}}};

struct Bias {
  std::string_view name;
  Tensor tensor;
  Weight weight;
};
constexpr std::array<Bias, 4> biases = {
    {{"query_key_value", Tensor::query_key_value, Weight::qkv_bias},
     {"dense", Tensor::dense, Weight::dense_bias},
     {"dense_h_to_4h", Tensor::dense_h_to_4h, Weight::mlp_up_bias},
     {"dense_4h_to_h", Tensor::dense_4h_to_h, Weight::mlp_down_bias}}};

/// What stands in for the config's own gelu_fast.
Function same_function(Function function) {
  return function == Function::gelu_fast ? Function::gelu_tanh : function;
}

}  // namespace

std::vector<Deviation> known_deviations(const engine::Config& config) {
  std::vector<Deviation> all;
  const auto add = [&](std::string name, std::string family, std::function<void(Rules&)> apply) {
    all.push_back({std::move(name), std::move(family), std::move(apply)});
  };
  for (const Activation& activation : activations) {
    if (activation.function == same_function(config.activation)) continue;
    const Function function = activation.function;
    add("activation " + std::string(activation.name), "activation",
        [function](Rules& rules) { rules.activation = function; });
  }
  for (const Number& eps : eps_values) {
    const auto narrow = static_cast<float>(eps.value);
    if (!(narrow < config.layer_norm_eps) && !(narrow > config.layer_norm_eps)) continue;
    add("eps " + std::string(eps.text), "eps",
        [narrow](Rules& rules) { rules.layer_norm_eps = static_cast<double>(narrow); });
  }
  for (const Number& share : rotary_shares) {
    const auto dims = static_cast<std::size_t>(static_cast<double>(config.head_dim) * share.value);
    if (dims == config.rotary_dims || dims % 2 != 0) continue;
    add("rotary_pct " + std::string(share.text), "rotary_pct",
        [dims](Rules& rules) { rules.rotary_dims = dims; });
  }
  if (config.rotary_dims > 0) {
    if (config.rotary_dims > 2) {
      add("rotary pairs interleaved", "rotary pairs",
          [](Rules& rules) { rules.interleaved = true; });
    }
    add("positions from 1", "positions",
        [](Rules& rules) { rules.query_shift = rules.key_shift = 1; });
    add("queries one position ahead", "positions", [](Rules& rules) { rules.query_shift = 1; });
    add("queries one position behind", "positions", [](Rules& rules) { rules.query_shift = -1; });
  }
  if (config.heads > 1) {
    add("qkv read as [3][heads]", "qkv order",
        [](Rules& rules) { rules.qkv_order = QkvOrder::kinds_first; });
  }
  add("qkv read as [heads][head_dim][3]", "qkv order",
      [](Rules& rules) { rules.qkv_order = QkvOrder::dims_before_kinds; });
  const bool parallel = config.parallel_residual;
  add(parallel ? "sequential residual" : "parallel residual", "residual",
      [parallel](Rules& rules) { rules.parallel_residual = !parallel; });
  add("no final norm", "final norm", [](Rules& rules) { rules.final_norm = false; });
  for (const Bias& bias : biases) {
    const bool of_attention = bias.weight == Weight::qkv_bias || bias.weight == Weight::dense_bias;
    if (of_attention && !config.attention_bias) continue;
    const Tensor tensor = bias.tensor;
    const std::string name = "no bias in " + std::string(bias.name);
    add(name, name, [tensor](Rules& rules) { rules.without_bias.insert(tensor); });
  }
  add("sees one token ahead", "mask", [](Rules& rules) { rules.sees = Sees::one_ahead; });
  add("misses its own token", "mask", [](Rules& rules) { rules.sees = Sees::only_before; });
  add("no attention scale", "scale", [](Rules& rules) { rules.scaled = false; });
  add("flush to zero", "flush to zero", [](Rules& rules) { rules.flushed = true; });
  add("logits in float16", "logits", [](Rules& rules) { rules.logits = Format::f16; });
  add("logits in bfloat16", "logits", [](Rules& rules) { rules.logits = Format::bf16; });
  add("first token missing", "positions", [](Rules& rules) {
    rules.first_token = false;
    rules.query_shift = rules.key_shift = -1;
  });
  return all;
}

}  // namespace neoxref::eval
