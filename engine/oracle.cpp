// SPDX-License-Identifier: Apache-2.0
#include "engine/oracle.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <numeric>

#include "engine/binary64_functions.hpp"
#include "engine/error.hpp"
#include "simd/scalar/ieee.hpp"

namespace neoxref::engine {
using simd::Function;

double function_in_binary64(Function function, double x) {
  const auto gelu_by_tanh = [x](double c) {
    return 0.5 * x * (1.0 + std::tanh(c * (x + 0.044715 * x * x * x)));
  };
  switch (function) {
    case Function::exp:
      return std::exp(x);
    case Function::log:
      return std::log(x);
    case Function::tanh:
      return std::tanh(x);
    case Function::silu:
      return x / (1.0 + std::exp(-x));
    case Function::gelu:
      return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
    case Function::gelu_tanh:
      return gelu_by_tanh(std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
    case Function::gelu_fast:
      return gelu_by_tanh(0.7978845608);
    case Function::quick_gelu:
      return x / (1.0 + std::exp(-1.702 * x));
    case Function::relu:
      return x > 0.0 ? x : 0.0;
    case Function::sin:
      return std::sin(x);
    case Function::cos:
      break;
  }
  return std::cos(x);
}

namespace {

float apply(Function function, float x) {
  return simd::evaluate(function, x);
}

double apply(Function function, double x) {
  return function_in_binary64(function, x);
}

template <class Real>
Real dot(const Real* a, const Real* b, std::size_t length) {
  return simd::scalar::dot(
      length, [a](std::size_t i) { return a[i]; }, [b](std::size_t i) { return b[i]; });
}

template <class Real>
std::vector<Real> read(const TensorView& tensor) {
  check_finite(tensor);
  const simd::Dtype dtype = weight_dtype(tensor);
  std::vector<Real> values(tensor.elements());
  for (std::size_t i = 0; i < values.size(); ++i) {
    float wide = 0.0f;
    if (dtype == simd::Dtype::f32) {
      std::memcpy(&wide, tensor.bytes.data() + 4 * i, 4);
    } else {
      std::uint16_t half = 0;
      std::memcpy(&half, tensor.bytes.data() + 2 * i, 2);
      wide = dtype == simd::Dtype::f16 ? simd::scalar::widen_f16(half)
                                       : simd::scalar::widen_bf16(half);
    }
    values[i] = static_cast<Real>(wide);
  }
  return values;
}

template <class Real>
void keep(typename Oracle<Real>::Record* record, const std::string& name,
          const std::vector<Real>& row) {
  if (record == nullptr) return;
  auto& rows = (*record)[name];
  rows.insert(rows.end(), row.begin(), row.end());
}

}  // namespace

template <class Real>
Oracle<Real>::Oracle(const Checkpoint& checkpoint) : config_(checkpoint.config()) {
  const auto linear = [&](Weight weight, std::optional<Weight> bias, std::size_t layer) {
    const TensorView& tensor = checkpoint.tensor(weight, layer);
    Linear result{tensor.shape[1], read<Real>(tensor), {}};
    if (bias && checkpoint.has(*bias)) result.bias = read<Real>(checkpoint.tensor(*bias, layer));
    return result;
  };
  const auto norm = [&](Weight gamma, Weight beta, std::size_t layer) {
    return Norm{read<Real>(checkpoint.tensor(gamma, layer)),
                read<Real>(checkpoint.tensor(beta, layer))};
  };
  embed_in_ = read<Real>(checkpoint.tensor(Weight::embed_in));
  for (std::size_t i = 0; i < config_.layers; ++i) {
    layers_.push_back({norm(Weight::input_norm_weight, Weight::input_norm_bias, i),
                       norm(Weight::post_norm_weight, Weight::post_norm_bias, i),
                       linear(Weight::qkv_weight, Weight::qkv_bias, i),
                       linear(Weight::dense_weight, Weight::dense_bias, i),
                       linear(Weight::mlp_up_weight, Weight::mlp_up_bias, i),
                       linear(Weight::mlp_down_weight, Weight::mlp_down_bias, i)});
  }
  final_layer_norm_ = norm(Weight::final_norm_weight, Weight::final_norm_bias, 0);
  embed_out_ = linear(Weight::embed_out, std::nullopt, 0);
  caches_.assign(config_.layers, std::vector<PlainHead<Real>>(config_.heads));
  exists_.assign(config_.layers, std::vector<std::vector<bool>>(config_.heads));
  cuts_.assign(config_.layers, 0);
  seen_.assign(config_.layers, 0);
}

template <class Real>
std::vector<Real> Oracle<Real>::norm(const Norm& norm, const std::vector<Real>& x) const {
  const auto n = static_cast<double>(x.size());
  const auto mean =
      static_cast<Real>(simd::scalar::lane_sum(x.size(), [&](std::size_t i) { return x[i]; }) / n);
  const double squares = simd::scalar::lane_sum(x.size(), [&](std::size_t i) {
    const auto d = static_cast<double>(x[i] - mean);
    return d * d;
  });
  const auto variance = static_cast<Real>(squares / n);
  const Real r = Real{1} / std::sqrt(variance + static_cast<Real>(config_.layer_norm_eps));
  std::vector<Real> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    y[i] = simd::scalar::fma((x[i] - mean) * r, norm.gamma[i], norm.beta[i]);
  }
  return y;
}

template <class Real>
std::vector<Real> Oracle<Real>::linear(const Linear& linear, const std::vector<Real>& x) const {
  std::vector<Real> y(linear.weight.size() / linear.inputs);
  for (std::size_t n = 0; n < y.size(); ++n) {
    y[n] = dot(x.data(), linear.weight.data() + n * linear.inputs, linear.inputs);
    if (!linear.bias.empty()) y[n] = y[n] + linear.bias[n];
  }
  return y;
}

template <class Real>
void Oracle<Real>::rotate(Real* x, std::size_t position) const {
  const std::size_t half = config_.rotary_dims / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config_.rotary_dims);
    const float inverse_frequency = 1.0f / simd::pow(config_.rotary_base, exponent);
    const float angle = static_cast<float>(position) * inverse_frequency;
    const auto c = static_cast<Real>(simd::evaluate(Function::cos, angle));
    const auto s = static_cast<Real>(simd::evaluate(Function::sin, angle));
    const Real x1 = x[i];
    const Real x2 = x[i + half];
    x[i] = simd::scalar::fma(x1, c, -(x2 * s));
    x[i + half] = simd::scalar::fma(x2, c, x1 * s);
  }
}

template <class Real>
std::vector<std::size_t> Oracle<Real>::existing_slots(std::size_t layer, std::size_t head) const {
  const std::vector<bool>& exists = exists_[layer][head];
  std::vector<std::size_t> slots;
  for (std::size_t slot = 0; slot < exists.size(); ++slot) {
    if (exists[slot]) slots.push_back(slot);
  }
  return slots;
}

template <class Real>
std::vector<Real> Oracle<Real>::attention(std::size_t layer, const std::vector<Real>& qkv,
                                          const std::string& name, Record* record) {
  const std::size_t head_dim = config_.head_dim;
  const auto scale =
      static_cast<Real>(static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim))));
  std::vector<Real> context;
  for (std::size_t head = 0; head < config_.heads; ++head) {
    const auto part = [&](std::size_t which) {
      const auto from = qkv.begin() + static_cast<std::ptrdiff_t>((head * 3 + which) * head_dim);
      return std::vector<Real>(from, from + static_cast<std::ptrdiff_t>(head_dim));
    };
    std::vector<Real> q = part(0);
    std::vector<Real> k = part(1);
    PlainHead<Real>& cache = caches_[layer][head];
    std::vector<bool>& exists = exists_[layer][head];
    std::vector<std::size_t> slots = existing_slots(layer, head);
    cache.raw.emplace_back(k.begin(), k.begin() + static_cast<std::ptrdiff_t>(config_.rotary_dims));
    rotate(q.data(), rotary_position(slots.size()));
    rotate(k.data(), rotary_position(slots.size()));
    keep<Real>(record, name + ".rotary_q", q);
    keep<Real>(record, name + ".rotary_k", k);
    slots.push_back(exists.size());
    exists.push_back(true);
    cache.norms.push_back(std::sqrt(dot(k.data(), k.data(), head_dim)));
    cache.keys.push_back(std::move(k));
    cache.values.push_back(part(2));
    cache.positions.push_back(position_);

    seen_[layer] = slots.size();
    std::vector<Real> e(slots.size());
    for (std::size_t j = 0; j < e.size(); ++j) {
      e[j] = dot(q.data(), cache.keys[slots[j]].data(), head_dim) * scale;
    }
    Real max = e[0];
    for (const Real score : e) {
      if (score > max || std::isnan(score)) max = score;
    }
    for (Real& score : e) score = apply(Function::exp, score - max);
    const auto z =
        static_cast<Real>(simd::scalar::lane_sum(e.size(), [&](std::size_t j) { return e[j]; }));
    std::vector<Real> column(e.size());
    for (std::size_t d = 0; d < head_dim; ++d) {
      for (std::size_t j = 0; j < e.size(); ++j) column[j] = cache.values[slots[j]][d];
      context.push_back(dot(e.data(), column.data(), e.size()) / z);
    }
    std::vector<Real>& given = cache.attention.emplace_back(exists.size());
    for (std::size_t j = 0; j < e.size(); ++j) given[slots[j]] = e[j] / z;
  }
  return context;
}

template <class Real>
std::size_t Oracle<Real>::rotary_position(std::size_t slot) const {
  if (press_ && press_->positions == Positions::rerotate) return slot;
  return frame_position_;
}

template <class Real>
void Oracle<Real>::set_press(const Press& press) {
  press.check(config_.layers, config_.head_dim, config_.rotary_dims);
  press_ = press;
  press_->resolve(config_.heads * config_.head_dim * 2 * sizeof(float));
  since_press_ = 0;
}

template <class Real>
void Oracle<Real>::cut(std::size_t layer) {
  std::vector<PlainHead<Real>>& heads = caches_[layer];
  PlainPlace<Real> place{layer, config_.rotary_dims, {}, cuts_[layer]};
  const std::vector<Real>& bias = layers_[layer].query_key_value.bias;
  for (std::size_t head = 0; head < config_.heads && !bias.empty(); ++head) {
    const auto first =
        bias.begin() + static_cast<std::ptrdiff_t>((head * 3 + 1) * config_.head_dim);
    place.key_bias.emplace_back(first, first + static_cast<std::ptrdiff_t>(config_.head_dim));
  }
  std::vector<PlainHead<Real>> existing;
  for (std::size_t head = 0; head < config_.heads; ++head) {
    existing.push_back(heads[head].only(existing_slots(layer, head)));
  }
  const auto kept_of_heads = kept_slots(*press_, existing, place);
  if (kept_of_heads[0].size() < length(layer)) ++cuts_[layer];
  for (std::size_t head = 0; head < config_.heads; ++head) {
    PlainHead<Real>& cache = heads[head];
    std::vector<bool>& exists = exists_[layer][head];
    const std::vector<std::size_t> stored = existing_slots(layer, head);
    exists.assign(exists.size(), false);
    std::vector<std::size_t> left;
    for (const std::size_t slot : kept_of_heads[head]) {
      const std::size_t at = stored[slot];
      exists[at] = true;
      if (press_->positions == Positions::rerotate) {
        std::copy(cache.raw[at].begin(), cache.raw[at].end(), cache.keys[at].begin());
        rotate(cache.keys[at].data(), left.size());
      }
      left.push_back(at);
    }
    if (mask_) continue;
    cache = cache.only(left);
    exists.assign(left.size(), true);
  }
}

template <class Real>
std::vector<Real> Oracle<Real>::forward(std::int32_t token, Record* record) {
  if (token < 0 || static_cast<std::size_t>(token) >= config_.vocab) {
    throw Error("tokens", "outside the vocabulary", "0 to " + std::to_string(config_.vocab - 1),
                std::to_string(token));
  }
  const auto for_each_layer = [&](auto due) {
    for (std::size_t i = 0; press_ && i < config_.layers; ++i) {
      if (!press_->skips(i) && due(length(i))) cut(i);
    }
  };
  for_each_layer([&](std::size_t slots) {
    return (press_->trigger == Trigger::reaches && slots >= press_->prune_after) ||
           (press_->trigger == Trigger::after_prompt && prompt_ended_);
  });
  prompt_ended_ = false;
  frame_position_ = static_cast<std::size_t>(position_);
  if (press_ && press_->positions == Positions::cache_length) {
    for (std::size_t i = config_.layers; i-- > 0;) {
      if (!press_->skips(i)) frame_position_ = length(i);
    }
  }
  const bool renumbered = press_ && press_->positions == Positions::rerotate;
  const std::size_t furthest = renumbered ? length(0) : frame_position_;
  if (furthest >= config_.max_positions) {
    throw Error("tokens", "longer than the context of the model",
                "at most " + std::to_string(config_.max_positions), std::to_string(furthest + 1));
  }
  const auto row = embed_in_.begin() + token * static_cast<std::ptrdiff_t>(config_.hidden);
  std::vector<Real> x(row, row + static_cast<std::ptrdiff_t>(config_.hidden));
  keep<Real>(record, "gpt_neox.embed_in", x);
  for (std::size_t i = 0; i < config_.layers; ++i) {
    const Layer& layer = layers_[i];
    const std::string name = "gpt_neox.layers." + std::to_string(i);
    const auto kept = [&](const char* what, std::vector<Real> values) {
      keep<Real>(record, name + what, values);
      return values;
    };
    const auto qkv = kept(
        ".attention.query_key_value",
        linear(layer.query_key_value, kept(".input_layernorm", norm(layer.input_layernorm, x))));
    const auto context = kept(".attention.context", attention(i, qkv, name + ".attention", record));
    const auto attn = kept(".attention.dense", linear(layer.dense, context));
    std::vector<Real> h = x;
    if (!config_.parallel_residual) {
      for (std::size_t d = 0; d < h.size(); ++d) h[d] = attn[d] + x[d];
    }
    auto act = kept(".mlp.dense_h_to_4h",
                    linear(layer.dense_h_to_4h, kept(".post_attention_layernorm",
                                                     norm(layer.post_attention_layernorm, h))));
    for (Real& value : act) value = apply(config_.activation, value);
    const auto mlp = kept(".mlp.dense_4h_to_h", linear(layer.dense_4h_to_h, kept(".mlp.act", act)));
    for (std::size_t d = 0; d < x.size(); ++d) {
      x[d] = config_.parallel_residual ? (attn[d] + mlp[d]) + x[d] : mlp[d] + h[d];
    }
    keep<Real>(record, name, x);
  }
  const auto normed = norm(final_layer_norm_, x);
  keep<Real>(record, "gpt_neox.final_layer_norm", normed);
  auto logits = linear(embed_out_, normed);
  keep<Real>(record, "embed_out", logits);
  ++position_;
  ++since_press_;
  for_each_layer([&](std::size_t slots) {
    return (press_->trigger == Trigger::exceeds && slots > press_->prune_after) ||
           (press_->trigger == Trigger::every && since_press_ % press_->interval == 0);
  });
  return logits;
}

template class Oracle<float>;
template class Oracle<double>;

}  // namespace neoxref::engine
