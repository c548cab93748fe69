// SPDX-License-Identifier: Apache-2.0
#include "eval/ruled_units.hpp"

#include <algorithm>
#include <cmath>

#include "engine/error.hpp"
#include "eval/ruled_operations.hpp"
#include "simd/scalar/ieee.hpp"

namespace neoxref::eval {
using engine::Tensor;
using engine::TensorId;
using engine::Weight;

Rules::Rules(const engine::Config& config)
    : activation(config.activation),
      layer_norm_eps(static_cast<double>(config.layer_norm_eps)),
      rotary_dims(config.rotary_dims),
      parallel_residual(config.parallel_residual) {}

bool Rules::differs_at(Tensor tensor, const Rules& other) const {
  const bool rotary = rotary_dims != other.rotary_dims || interleaved != other.interleaved ||
                      qkv_order != other.qkv_order;
  const bool eps = layer_norm_eps < other.layer_norm_eps || layer_norm_eps > other.layer_norm_eps;
  if (flushed != other.flushed && tensor != Tensor::act) return true;
  switch (tensor) {
    case Tensor::embed_in:
    case Tensor::layer_output:
      return false;
    case Tensor::input_layernorm:
      return eps;
    case Tensor::post_attention_layernorm:
      return eps || parallel_residual != other.parallel_residual;
    case Tensor::final_layer_norm:
      return eps || final_norm != other.final_norm;
    case Tensor::rotary_q:
      return rotary || query_shift != other.query_shift;
    case Tensor::rotary_k:
      return rotary || key_shift != other.key_shift;
    case Tensor::context:
      return qkv_order != other.qkv_order || sees != other.sees ||
             first_token != other.first_token || scaled != other.scaled;
    case Tensor::act:
      return activation != other.activation;
    case Tensor::embed_out:
      return logits != other.logits;
    case Tensor::query_key_value:
    case Tensor::dense:
    case Tensor::dense_h_to_4h:
    case Tensor::dense_4h_to_h:
      break;
  }
  return without_bias.contains(tensor) != other.without_bias.contains(tensor);
}

RuledUnits::RuledUnits(const engine::Checkpoint& checkpoint, engine::Team& team,
                       const TensorSource& source, Options options)
    : checkpoint_(checkpoint),
      config_(checkpoint.config()),
      team_(team),
      source_(source),
      options_(std::move(options)) {
  options_.logit_columns = std::clamp<std::size_t>(options_.logit_columns, 1, config_.vocab);
}

void RuledUnits::begin(std::size_t layer, const Rules& rules) {
  const auto before = [layer](const auto& entry) {
    const TensorId& id = entry.first;
    return id.tensor == Tensor::embed_in ? layer > 0
                                         : exists_per_layer(id.tensor) && id.layer + 1 < layer;
  };
  std::erase_if(from_source_, before);
  std::erase_if(kept_, before);
  if (kept_rules_ != rules) kept_.clear();
  kept_rules_ = rules;
}

std::vector<std::size_t> RuledUnits::logit_columns() const {
  std::vector<std::size_t> columns(options_.logit_columns);
  for (std::size_t i = 0; i < columns.size(); ++i) columns[i] = i * config_.vocab / columns.size();
  return columns;
}

const Matrix64& RuledUnits::of_source(const TensorId& id) {
  Held& held = from_source_[id];
  if (held) return *held;
  const std::optional<Matrix> matrix = source_.get(id);
  const std::string name = tensor_name(id);
  if (!matrix) throw engine::Error(name, "is not there");
  const std::size_t width = tensor_width(id.tensor, config_);
  if (matrix->columns != width || matrix->rows < options_.tokens) {
    throw engine::Error(
        name, "has another shape",
        "[" + std::to_string(options_.tokens) + " or more, " + std::to_string(width) + "]",
        "[" + std::to_string(matrix->rows) + ", " + std::to_string(matrix->columns) + "]");
  }
  auto wide = std::make_shared<Matrix64>();
  wide->rows = options_.tokens;
  if (id.tensor == Tensor::embed_out) {
    const std::vector<std::size_t> columns = logit_columns();
    wide->columns = columns.size();
    for (std::size_t t = 0; t < wide->rows; ++t) {
      for (const std::size_t column : columns) {
        wide->values.push_back(static_cast<double>(matrix->row(t)[column]));
      }
    }
  } else {
    wide->columns = width;
    wide->values.assign(matrix->values.begin(),
                        matrix->values.begin() + static_cast<std::ptrdiff_t>(wide->rows * width));
  }
  held = std::move(wide);
  return *held;
}

std::vector<TensorId> RuledUnits::parents(const TensorId& id) const {
  const std::size_t layer = id.layer;
  const TensorId before =
      layer == 0 ? TensorId{Tensor::embed_in} : TensorId{Tensor::layer_output, layer - 1};
  switch (id.tensor) {
    case Tensor::embed_in:
      return {};
    case Tensor::input_layernorm:
      return {before};
    case Tensor::query_key_value:
      return {{Tensor::input_layernorm, layer}};
    case Tensor::rotary_q:
    case Tensor::rotary_k:
      return {{Tensor::query_key_value, layer}};
    case Tensor::context:
      return {
          {Tensor::query_key_value, layer}, {Tensor::rotary_q, layer}, {Tensor::rotary_k, layer}};
    case Tensor::dense:
      return {{Tensor::context, layer}};
    case Tensor::post_attention_layernorm:
      return {before, {Tensor::dense, layer}};
    case Tensor::dense_h_to_4h:
      return {{Tensor::post_attention_layernorm, layer}};
    case Tensor::act:
      return {{Tensor::dense_h_to_4h, layer}};
    case Tensor::dense_4h_to_h:
      return {{Tensor::act, layer}};
    case Tensor::layer_output:
      return {before, {Tensor::dense, layer}, {Tensor::dense_4h_to_h, layer}};
    case Tensor::final_layer_norm:
      return {{Tensor::layer_output, config_.layers - 1}};
    case Tensor::embed_out:
      break;
  }
  return {{Tensor::final_layer_norm}};
}

bool RuledUnits::differs(const TensorId& target, const Rules& a, const Rules& b) const {
  std::map<TensorId, bool> known;
  return differs(target, a, b, known);
}

bool RuledUnits::differs(const TensorId& target, const Rules& a, const Rules& b,
                         std::map<TensorId, bool>& known) const {
  const auto found = known.find(target);
  if (found != known.end()) return found->second;
  bool result = a.differs_at(target.tensor, b);
  for (const TensorId& parent : parents(target)) {
    if (result) break;
    // In a parallel residual the second norm does not read what attention gave.
    if (target.tensor == Tensor::post_attention_layernorm && parent.tensor == Tensor::dense &&
        a.parallel_residual && b.parallel_residual) {
      continue;
    }
    result = !source_.has(parent) && differs(parent, a, b, known);
  }
  return known[target] = result;
}

std::shared_ptr<const Matrix64> RuledUnits::evaluate(const TensorId& target, const Rules& rules) {
  call_.clear();
  Held result = compute(target, rules);
  call_.clear();
  return result;
}

RuledUnits::Held RuledUnits::value(const TensorId& id, const Rules& rules) {
  if (!source_.has(id)) return compute(id, rules);
  of_source(id);
  return from_source_[id];
}

RuledUnits::Held RuledUnits::compute(const TensorId& id, const Rules& rules) {
  auto& held = differs(id, rules, kept_rules_) ? call_ : kept_;
  const auto found = held.find(id);
  if (found != held.end()) return found->second;
  Held result = operate(id, rules);
  return held[id] = std::move(result);
}

RuledUnits::Held RuledUnits::operate(const TensorId& id, const Rules& rules) {
  const std::size_t layer = id.layer;
  const TensorId before =
      layer == 0 ? TensorId{Tensor::embed_in} : TensorId{Tensor::layer_output, layer - 1};
  const auto bias = [&](Weight weight) {
    const bool there = checkpoint_.has(weight) && !rules.without_bias.contains(id.tensor);
    return there ? std::optional(weight) : std::nullopt;
  };
  const auto linear = [&](Tensor input, Weight weight, Weight its_bias) {
    return linear_layer(team_, checkpoint_, *value({input, layer}, rules), weight, bias(its_bias),
                        layer);
  };
  const auto norm = [&](const Matrix64& x, Weight gamma, Weight beta) {
    return layer_norm(checkpoint_, x, gamma, beta, layer, rules.layer_norm_eps);
  };
  Matrix64 result;
  switch (id.tensor) {
    case Tensor::embed_in:
      result = embedding(checkpoint_, source_.tokens().first(options_.tokens));
      break;
    case Tensor::input_layernorm:
      result = norm(*value(before, rules), Weight::input_norm_weight, Weight::input_norm_bias);
      break;
    case Tensor::query_key_value:
      result = linear(Tensor::input_layernorm, Weight::qkv_weight, Weight::qkv_bias);
      break;
    case Tensor::rotary_q:
    case Tensor::rotary_k:
      result = rotary(id, rules);
      break;
    case Tensor::context:
      result = context(id, rules);
      break;
    case Tensor::dense:
      result = linear(Tensor::context, Weight::dense_weight, Weight::dense_bias);
      break;
    case Tensor::post_attention_layernorm:
      result =
          rules.parallel_residual
              ? norm(*value(before, rules), Weight::post_norm_weight, Weight::post_norm_bias)
              : norm(sum({value(before, rules).get(), value({Tensor::dense, layer}, rules).get()}),
                     Weight::post_norm_weight, Weight::post_norm_bias);
      break;
    case Tensor::dense_h_to_4h:
      result = linear(Tensor::post_attention_layernorm, Weight::mlp_up_weight, Weight::mlp_up_bias);
      break;
    case Tensor::act:
      result = *value({Tensor::dense_h_to_4h, layer}, rules);
      for (double& x : result.values) x = activate(rules.activation, x);
      break;
    case Tensor::dense_4h_to_h:
      result = linear(Tensor::act, Weight::mlp_down_weight, Weight::mlp_down_bias);
      break;
    case Tensor::layer_output:
      result =
          sum({value({Tensor::dense, layer}, rules).get(),
               value({Tensor::dense_4h_to_h, layer}, rules).get(), value(before, rules).get()});
      break;
    case Tensor::final_layer_norm: {
      const Held x = value({Tensor::layer_output, config_.layers - 1}, rules);
      result = rules.final_norm ? norm(*x, Weight::final_norm_weight, Weight::final_norm_bias) : *x;
      break;
    }
    case Tensor::embed_out:
      result =
          logits_of(team_, checkpoint_, *value({Tensor::final_layer_norm}, rules), logit_columns());
      break;
  }
  finish(result, id, rules);
  return std::make_shared<const Matrix64>(std::move(result));
}

Matrix64 RuledUnits::part(const Matrix64& qkv, std::size_t which, QkvOrder order) const {
  const std::size_t heads = config_.heads;
  const std::size_t head_dim = config_.head_dim;
  Matrix64 result{qkv.rows, heads * head_dim, std::vector<double>(qkv.rows * heads * head_dim)};
  for (std::size_t t = 0; t < qkv.rows; ++t) {
    for (std::size_t head = 0; head < heads; ++head) {
      for (std::size_t d = 0; d < head_dim; ++d) {
        std::size_t column = (head * 3 + which) * head_dim + d;
        if (order == QkvOrder::kinds_first) column = (which * heads + head) * head_dim + d;
        if (order == QkvOrder::dims_before_kinds) column = (head * head_dim + d) * 3 + which;
        result.row(t)[head * head_dim + d] = qkv.row(t)[column];
      }
    }
  }
  return result;
}

Matrix64 RuledUnits::rotary(const TensorId& id, const Rules& rules) {
  const bool query = id.tensor == Tensor::rotary_q;
  const Held qkv = value({Tensor::query_key_value, id.layer}, rules);
  Matrix64 x = part(*qkv, query ? 0 : 1, rules.qkv_order);
  rotate(x, config_, rules.rotary_dims, rules.interleaved,
         query ? rules.query_shift : rules.key_shift);
  return x;
}

Matrix64 RuledUnits::context(const TensorId& id, const Rules& rules) {
  const TensorId qkv_id{Tensor::query_key_value, id.layer};
  const TensorId key_id{Tensor::rotary_k, id.layer};
  const Held q = value({Tensor::rotary_q, id.layer}, rules);
  Matrix64 k = *value(key_id, rules);
  Matrix64 v = part(*value(qkv_id, rules), 2, rules.qkv_order);
  if (options_.stand_in != nullptr) stand_in_rows(k, v, id.layer, rules);
  AttentionRules attention;
  attention.first_slot = rules.first_token ? 0 : 1;
  attention.ahead = rules.sees == Sees::one_ahead ? 1 : rules.sees == Sees::only_before ? -1 : 0;
  attention.more_tokens = source_.tokens().size() > options_.tokens;
  attention.scale = rules.scaled ? static_cast<double>(static_cast<float>(
                                       1.0 / std::sqrt(static_cast<double>(config_.head_dim))))
                                 : 1.0;
  return attend(team_, *q, k, v, config_.heads, attention);
}

void RuledUnits::stand_in_rows(Matrix64& k, Matrix64& v, std::size_t layer,
                               const Rules& rules) const {
  for (std::size_t t = 0; t < k.rows; ++t) {
    if (!std::isnan(k.row(t)[0]) && !std::isnan(v.row(t)[0])) continue;
    const auto qkv = options_.stand_in->get({Tensor::query_key_value, layer});
    if (!qkv || qkv->rows <= t) return;
    Matrix64 wide{k.rows, qkv->columns, {}};
    wide.values.assign(qkv->values.begin(),
                       qkv->values.begin() + static_cast<std::ptrdiff_t>(k.rows * qkv->columns));
    Matrix64 keys = part(wide, 1, rules.qkv_order);
    rotate(keys, config_, rules.rotary_dims, rules.interleaved, rules.key_shift);
    const Matrix64 values = part(wide, 2, rules.qkv_order);
    for (std::size_t row = t; row < k.rows; ++row) {
      if (!std::isnan(k.row(row)[0]) && !std::isnan(v.row(row)[0])) continue;
      std::copy_n(keys.row(row), k.columns, k.row(row));
      std::copy_n(values.row(row), v.columns, v.row(row));
    }
    return;
  }
}

void RuledUnits::finish(Matrix64& matrix, const TensorId& id, const Rules& rules) const {
  if (id.tensor == Tensor::embed_out && rules.logits) {
    for (double& x : matrix.values) x = round_to(*rules.logits, x);
  }
  if (!rules.flushed || id.tensor == Tensor::act) return;
  const Format format = options_.profile.stored(id.tensor);
  if (format == Format::kld16) return;
  const double least = format_limits(format).least_normal;
  for (double& x : matrix.values) {
    if (std::abs(x) < least) x = 0.0;
  }
}

}  // namespace neoxref::eval
