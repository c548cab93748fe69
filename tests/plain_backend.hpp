// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/tensors.hpp"
#include "eval/bound_rules.hpp"
#include "eval/profiles.hpp"
#include "eval/unit_steps.hpp"
#include "tests/checkpoints.hpp"
#include "tests/engine_tensors.hpp"

namespace neoxref::tests {

/// Somebody's backend of a profile, in plain loops: every sum in an order of its own, fused or not,
/// every number rounded to nearest where the profile rounds (or cut off, where it may), LayerNorm and
/// softmax in one of several forms. Nothing of eval's rules is in here.
class PlainBackend {
public:
  PlainBackend(const engine::Checkpoint& checkpoint, const eval::Profile& profile,
               std::uint64_t seed)
      : checkpoint_(checkpoint), config_(checkpoint.config()), profile_(profile), draw_(seed) {}

  /// Every tensor of a forward pass.
  HeldTensors run(const std::vector<std::int32_t>& tokens);

private:
  using Row = std::vector<float>;
  using Rows = std::vector<Row>;

  static float to(eval::Format format, double x) {
    return static_cast<float>(eval::round_to(format, x));
  }
  float stored(engine::Tensor tensor, double x) const { return to(profile_.stored(tensor), x); }
  float accumulated(double x) {
    const float nearest = to(profile_.accumulator, x);
    const bool cut = profile_.accumulator_rounding == eval::Rounding::truncate && chop_ &&
                     profile_.accumulator == eval::Format::f32;
    if (!cut || std::abs(static_cast<double>(nearest)) <= std::abs(x)) return nearest;
    return std::nextafter(nearest, 0.0f);
  }
  float operand(float x) const { return to(profile_.operands, static_cast<double>(x)); }
  float internal(double x) const { return to(profile_.internal, x); }
  float pointwise(double x) const { return to(profile_.pointwise, x); }

  /// Any order: shuffled, or largest first, or as it stands; then a tree or a chain.
  float sum(std::vector<double> terms, bool exact_terms);
  float dot(const Row& a, const Row& b, float addend);
  Row parameters(engine::Weight weight, std::size_t layer, eval::Format format) const;
  Rows linear(engine::Weight weight, engine::Weight bias, bool has_bias, std::size_t layer,
              const Rows& x, engine::Tensor result);
  Rows norm(engine::Weight gain, engine::Weight shift, std::size_t layer, const Rows& x,
            engine::Tensor result);
  Rows rotate(const Rows& qkv, std::size_t which, engine::Tensor result);
  Rows attention(const Rows& qkv, const Rows& q, const Rows& k);
  void keep(HeldTensors& held, const engine::TensorId& id, const Rows& rows) const;

  const engine::Checkpoint& checkpoint_;
  const engine::Config& config_;
  const eval::Profile& profile_;
  Numbers draw_;
  bool chop_ = true;
};

inline float PlainBackend::sum(std::vector<double> terms, bool exact_terms) {
  const std::size_t way = draw_.below(4);
  if (way == 1) {
    std::sort(terms.begin(), terms.end(), [](double a, double b) { return a > b; });
  } else if (way == 2) {
    for (std::size_t i = terms.size(); i > 1; --i) std::swap(terms[i - 1], terms[draw_.below(i)]);
  }
  if (!exact_terms) {
    for (double& term : terms) term = static_cast<double>(accumulated(term));
  }
  if (way == 3) {  // a tree of pairs
    for (std::size_t n = terms.size(); n > 1; n = (n + 1) / 2) {
      for (std::size_t i = 0; i < n / 2; ++i) {
        terms[i] = static_cast<double>(accumulated(terms[2 * i] + terms[2 * i + 1]));
      }
      if (n % 2 == 1) terms[n / 2] = terms[n - 1];
    }
    return terms.empty() ? 0.0f : accumulated(terms[0]);
  }
  float total = 0.0f;
  for (const double term : terms) total = accumulated(static_cast<double>(total) + term);
  return total;
}

inline float PlainBackend::dot(const Row& a, const Row& b, float addend) {
  std::vector<double> terms;
  for (std::size_t i = 0; i < a.size(); ++i) {
    terms.push_back(static_cast<double>(operand(a[i])) * static_cast<double>(operand(b[i])));
  }
  const bool fused = draw_.below(2) == 1;
  if (draw_.below(2) == 1) {
    terms.push_back(static_cast<double>(addend));
    return sum(std::move(terms), fused);
  }
  return accumulated(static_cast<double>(sum(std::move(terms), fused)) +
                     static_cast<double>(addend));
}

inline PlainBackend::Row PlainBackend::parameters(engine::Weight weight, std::size_t layer,
                                                  eval::Format format) const {
  const engine::TensorView& tensor = checkpoint_.tensor(weight, layer);
  Row values(tensor.elements());
  eval::widen_weights(tensor, engine::weight_dtype(tensor), 0, values.size(), values.data());
  for (float& value : values) value = to(format, static_cast<double>(value));
  return values;
}

inline PlainBackend::Rows PlainBackend::linear(engine::Weight weight, engine::Weight bias,
                                               bool has_bias, std::size_t layer, const Rows& x,
                                               engine::Tensor result) {
  const Row w = parameters(weight, layer, eval::Format::f32);
  const Row b = has_bias ? parameters(bias, layer, profile_.stored(result)) : Row{};
  const std::size_t inputs = x[0].size();
  Rows y;
  for (const Row& row : x) {
    Row out;
    for (std::size_t n = 0; n < w.size() / inputs; ++n) {
      const Row weights(w.begin() + static_cast<std::ptrdiff_t>(n * inputs),
                        w.begin() + static_cast<std::ptrdiff_t>((n + 1) * inputs));
      chop_ = draw_.below(2) == 1;
      out.push_back(stored(result, static_cast<double>(dot(row, weights, has_bias ? b[n] : 0.0f))));
    }
    y.push_back(std::move(out));
  }
  return y;
}

inline PlainBackend::Rows PlainBackend::norm(engine::Weight gain, engine::Weight shift,
                                             std::size_t layer, const Rows& x,
                                             engine::Tensor result) {
  const Row gamma = parameters(gain, layer, profile_.stored(result));
  const Row beta = parameters(shift, layer, profile_.stored(result));
  Rows y;
  for (const Row& row : x) {
    const auto count = static_cast<float>(row.size());
    const std::size_t forms = profile_.layer_norm == eval::LayerNormForm::one_pass ? 3 : 1;
    const std::size_t form = draw_.below(forms);
    float mean = 0.0f, variance = 0.0f;
    for (const float v : row) mean += v;
    mean /= count;
    if (form == 0) {
      for (const float v : row) variance += (v - mean) * (v - mean);
      variance /= count;
    } else if (form == 1) {
      for (const float v : row) variance += v * v;
      variance = variance / count - mean * mean;
    } else {  // Welford
      float so_far = 0.0f, squares = 0.0f;
      for (std::size_t i = 0; i < row.size(); ++i) {
        const float d = row[i] - so_far;
        so_far += d / static_cast<float>(i + 1);
        squares += d * (row[i] - so_far);
      }
      mean = so_far;
      variance = squares / count;
    }
    const float r = 1.0f / std::sqrt(variance + config_.layer_norm_eps);
    Row out;
    const bool scaled = draw_.below(2) == 1;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const float normal = scaled ? row[i] * r + -mean * r : (row[i] - mean) * r;
      out.push_back(stored(result, static_cast<double>(normal * gamma[i] + beta[i])));
    }
    y.push_back(std::move(out));
  }
  return y;
}

inline PlainBackend::Rows PlainBackend::rotate(const Rows& qkv, std::size_t which,
                                               engine::Tensor result) {
  const std::size_t half = config_.rotary_dims / 2, head_dim = config_.head_dim;
  Rows y;
  for (std::size_t t = 0; t < qkv.size(); ++t) {
    Row out(config_.hidden);
    for (std::size_t head = 0; head < config_.heads; ++head) {
      const float* from = qkv[t].data() + (head * 3 + which) * head_dim;
      float* into = out.data() + head * head_dim;
      for (std::size_t d = 0; d < head_dim; ++d) {
        into[d] = stored(result, static_cast<double>(from[d]));
      }
      for (std::size_t i = 0; i < half; ++i) {
        const double exponent =
            static_cast<double>(2 * i) / static_cast<double>(config_.rotary_dims);
        const float frequency =
            1.0f / static_cast<float>(std::pow(static_cast<double>(config_.rotary_base), exponent));
        const double angle = static_cast<double>(static_cast<float>(t) * frequency);
        const double c = static_cast<double>(to(profile_.rotary_table, std::cos(angle)));
        const double s = static_cast<double>(to(profile_.rotary_table, std::sin(angle)));
        const auto a = static_cast<double>(from[i]), b = static_cast<double>(from[i + half]);
        const auto rounded = [&](double x) { return static_cast<double>(pointwise(x)); };
        into[i] = stored(result, rounded(rounded(a * c) - rounded(b * s)));
        into[i + half] = stored(result, rounded(rounded(b * c) + rounded(a * s)));
      }
    }
    y.push_back(std::move(out));
  }
  return y;
}

inline PlainBackend::Rows PlainBackend::attention(const Rows& qkv, const Rows& q, const Rows& k) {
  const std::size_t head_dim = config_.head_dim;
  const auto scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const auto part = [&](const Row& row, std::size_t from) {
    return Row(row.begin() + static_cast<std::ptrdiff_t>(from),
               row.begin() + static_cast<std::ptrdiff_t>(from + head_dim));
  };
  Rows y;
  for (std::size_t t = 0; t < q.size(); ++t) {
    Row out(config_.hidden);
    for (std::size_t head = 0; head < config_.heads; ++head) {
      Row scores;
      for (std::size_t j = 0; j <= t; ++j) {
        const float raw =
            to(profile_.scores, static_cast<double>(dot(part(q[t], head * head_dim),
                                                        part(k[j], head * head_dim), 0.0f)));
        scores.push_back(to(profile_.scores, static_cast<double>(raw * scale)));
      }
      // In blocks with a running maximum, or all at once.
      const std::size_t block = profile_.online_softmax ? profile_.softmax_block : scores.size();
      float max = -1e30f, z = 0.0f;
      Row e(scores.size(), 0.0f);
      for (std::size_t begin = 0; begin < scores.size(); begin += block) {
        const std::size_t end = std::min(scores.size(), begin + block);
        const float larger =
            std::max(max, *std::max_element(scores.begin() + static_cast<std::ptrdiff_t>(begin),
                                            scores.begin() + static_cast<std::ptrdiff_t>(end)));
        const float again = std::exp(max - larger);
        z *= again;
        for (std::size_t j = 0; j < begin; ++j) e[j] *= again;
        for (std::size_t j = begin; j < end; ++j) {
          e[j] = std::exp(scores[j] - larger);
          z += e[j];
        }
        max = larger;
      }
      for (float& p : e) {
        if (!profile_.online_softmax) p /= z;
        p = to(profile_.probabilities, static_cast<double>(p));
      }
      for (std::size_t d = 0; d < head_dim; ++d) {
        Row column;
        for (std::size_t j = 0; j <= t; ++j) {
          column.push_back(qkv[j][(head * 3 + 2) * head_dim + d]);
        }
        const float total = dot(e, column, 0.0f);
        out[head * head_dim + d] =
            stored(engine::Tensor::context,
                   static_cast<double>(profile_.online_softmax ? total / z : total));
      }
    }
    y.push_back(std::move(out));
  }
  return y;
}

inline void PlainBackend::keep(HeldTensors& held, const engine::TensorId& id,
                               const Rows& rows) const {
  eval::Matrix matrix{rows.size(), rows[0].size(), {}};
  for (const Row& row : rows) {
    for (const float value : row) {
      matrix.values.push_back(to(profile_.dump, static_cast<double>(value)));
    }
  }
  held.all[id] = std::move(matrix);
}

inline HeldTensors PlainBackend::run(const std::vector<std::int32_t>& tokens) {
  using engine::Tensor;
  using engine::Weight;
  HeldTensors held(tokens);
  const bool with = config_.attention_bias;
  const Row embedding = parameters(Weight::embed_in, 0, profile_.stored(Tensor::embed_in));
  Rows x;
  for (const std::int32_t token : tokens) {
    const auto at = embedding.begin() + token * static_cast<std::ptrdiff_t>(config_.hidden);
    x.emplace_back(at, at + static_cast<std::ptrdiff_t>(config_.hidden));
  }
  keep(held, {Tensor::embed_in}, x);
  const auto add = [&](const Rows& a, const Rows& b) {
    Rows y = a;
    for (std::size_t t = 0; t < y.size(); ++t) {
      for (std::size_t i = 0; i < y[t].size(); ++i) {
        y[t][i] = stored(Tensor::layer_output,
                         static_cast<double>(pointwise(static_cast<double>(a[t][i]) +
                                                       static_cast<double>(b[t][i]))));
      }
    }
    return y;
  };
  for (std::size_t l = 0; l < config_.layers; ++l) {
    const auto kept = [&](Tensor tensor, Rows rows) {
      keep(held, {tensor, l}, rows);
      return rows;
    };
    const Rows first = kept(
        Tensor::input_layernorm,
        norm(Weight::input_norm_weight, Weight::input_norm_bias, l, x, Tensor::input_layernorm));
    const Rows qkv = kept(Tensor::query_key_value, linear(Weight::qkv_weight, Weight::qkv_bias,
                                                          with, l, first, Tensor::query_key_value));
    const Rows q = kept(Tensor::rotary_q, rotate(qkv, 0, Tensor::rotary_q));
    const Rows k = kept(Tensor::rotary_k, rotate(qkv, 1, Tensor::rotary_k));
    const Rows context = kept(Tensor::context, attention(qkv, q, k));
    const Rows attn = kept(Tensor::dense, linear(Weight::dense_weight, Weight::dense_bias, with, l,
                                                 context, Tensor::dense));
    const Rows h = config_.parallel_residual ? x : add(attn, x);
    const Rows second = kept(Tensor::post_attention_layernorm,
                             norm(Weight::post_norm_weight, Weight::post_norm_bias, l, h,
                                  Tensor::post_attention_layernorm));
    Rows up = kept(Tensor::dense_h_to_4h, linear(Weight::mlp_up_weight, Weight::mlp_up_bias, true,
                                                 l, second, Tensor::dense_h_to_4h));
    for (Row& row : up) {
      for (float& v : row) {
        const float f = config_.activation == simd::Function::gelu
                            ? v * 0.5f * (1.0f + std::erf(v * 0.70710678f))
                            : simd::evaluate(config_.activation, v);
        v = stored(Tensor::act, static_cast<double>(f));
      }
    }
    const Rows act = kept(Tensor::act, up);
    const Rows mlp =
        kept(Tensor::dense_4h_to_h, linear(Weight::mlp_down_weight, Weight::mlp_down_bias, true, l,
                                           act, Tensor::dense_4h_to_h));
    x = kept(Tensor::layer_output,
             config_.parallel_residual ? add(add(mlp, attn), x) : add(mlp, h));
  }
  const Rows last =
      norm(Weight::final_norm_weight, Weight::final_norm_bias, 0, x, Tensor::final_layer_norm);
  keep(held, {Tensor::final_layer_norm}, last);
  keep(held, {Tensor::embed_out},
       linear(Weight::embed_out, Weight::embed_out, false, 0, last, Tensor::embed_out));
  return held;
}

}  // namespace neoxref::tests
