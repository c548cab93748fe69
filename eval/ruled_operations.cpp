// SPDX-License-Identifier: Apache-2.0
#include "eval/ruled_operations.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "engine/binary64_functions.hpp"
#include "engine/error.hpp"
#include "eval/parallel_items.hpp"
#include "simd/scalar/ieee.hpp"

namespace neoxref::eval {
namespace {

using engine::Weight;
using simd::Function;

/// Tokens that go through a product side by side, and rows of a weight that are one item of work.
constexpr std::size_t side_by_side = 8;
constexpr std::size_t rows_of_item = 32;

void widen_row(const engine::TensorView& tensor, simd::Dtype dtype, std::size_t row,
               std::span<double> out) {
  const std::size_t size = dtype == simd::Dtype::f32 ? 4 : 2;
  const std::byte* bytes = tensor.bytes.data() + row * out.size() * size;
  for (std::size_t i = 0; i < out.size(); ++i) {
    float wide = 0.0f;
    std::uint16_t half = 0;
    if (dtype == simd::Dtype::f32) {
      std::memcpy(&wide, bytes + 4 * i, 4);
    } else {
      std::memcpy(&half, bytes + 2 * i, 2);
      wide = dtype == simd::Dtype::f16 ? simd::scalar::widen_f16(half)
                                       : simd::scalar::widen_bf16(half);
    }
    out[i] = static_cast<double>(wide);
  }
}

std::vector<double> widen_vector(const engine::Checkpoint& checkpoint, Weight weight,
                                 std::size_t layer) {
  const engine::TensorView& tensor = checkpoint.tensor(weight, layer);
  std::vector<double> values(tensor.elements());
  widen_row(tensor, weight_dtype(tensor), 0, values);
  return values;
}

/// Rows `outputs[i]` of the weight (row i where `outputs` is empty) times x.
Matrix64 product(engine::Team& team, const engine::TensorView& weight, const Matrix64& x,
                 std::span<const std::size_t> outputs) {
  const std::size_t inputs = x.columns;
  const std::size_t width = outputs.empty() ? weight.shape[0] : outputs.size();
  const std::size_t blocks = (x.rows + side_by_side - 1) / side_by_side;
  // [blocks][inputs][side_by_side]: a compiler keeps a block's sums in vector registers.
  std::vector<double> panels(blocks * inputs * side_by_side);
  for (std::size_t t = 0; t < x.rows; ++t) {
    double* panel = panels.data() + t / side_by_side * inputs * side_by_side + t % side_by_side;
    for (std::size_t k = 0; k < inputs; ++k) panel[k * side_by_side] = x.row(t)[k];
  }
  Matrix64 y{x.rows, width, std::vector<double>(x.rows * width)};
  std::vector<double> rows(team.threads() * inputs);
  const simd::Dtype dtype = weight_dtype(weight);
  auto item = [&](std::size_t number, std::size_t participant) {
    const std::span<double> row(rows.data() + participant * inputs, inputs);
    const std::size_t end = std::min(width, (number + 1) * rows_of_item);
    for (std::size_t n = number * rows_of_item; n < end; ++n) {
      widen_row(weight, dtype, outputs.empty() ? n : outputs[n], row);
      for (std::size_t block = 0; block < blocks; ++block) {
        const double* panel = panels.data() + block * inputs * side_by_side;
        double sums[side_by_side] = {};
        for (std::size_t k = 0; k < inputs; ++k) {
          for (std::size_t i = 0; i < side_by_side; ++i) {
            sums[i] += row[k] * panel[k * side_by_side + i];
          }
        }
        const std::size_t tokens = std::min(side_by_side, x.rows - block * side_by_side);
        for (std::size_t i = 0; i < tokens; ++i) y.row(block * side_by_side + i)[n] = sums[i];
      }
    }
  };
  parallel_items(team, (width + rows_of_item - 1) / rows_of_item, item);
  return y;
}

}  // namespace

Matrix64 embedding(const engine::Checkpoint& checkpoint, std::span<const std::int32_t> tokens) {
  const engine::TensorView& tensor = checkpoint.tensor(Weight::embed_in);
  const std::size_t hidden = checkpoint.config().hidden;
  Matrix64 x{tokens.size(), hidden, std::vector<double>(tokens.size() * hidden)};
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    if (tokens[t] < 0 || static_cast<std::size_t>(tokens[t]) >= checkpoint.config().vocab) {
      throw engine::Error("tokens", "outside the vocabulary",
                          "0 to " + std::to_string(checkpoint.config().vocab - 1),
                          std::to_string(tokens[t]));
    }
    widen_row(tensor, weight_dtype(tensor), static_cast<std::size_t>(tokens[t]),
              {x.row(t), hidden});
  }
  return x;
}

Matrix64 layer_norm(const engine::Checkpoint& checkpoint, const Matrix64& x, Weight gamma,
                    Weight beta, std::size_t layer, double eps) {
  const std::vector<double> gain = widen_vector(checkpoint, gamma, layer);
  const std::vector<double> bias = widen_vector(checkpoint, beta, layer);
  const auto n = static_cast<double>(x.columns);
  Matrix64 y{x.rows, x.columns, std::vector<double>(x.values.size())};
  for (std::size_t t = 0; t < x.rows; ++t) {
    double mean = 0.0;
    for (std::size_t i = 0; i < x.columns; ++i) mean += x.row(t)[i];
    mean /= n;
    double variance = 0.0;
    for (std::size_t i = 0; i < x.columns; ++i) {
      variance += (x.row(t)[i] - mean) * (x.row(t)[i] - mean);
    }
    const double r = 1.0 / std::sqrt(variance / n + eps);
    for (std::size_t i = 0; i < x.columns; ++i) {
      y.row(t)[i] = (x.row(t)[i] - mean) * r * gain[i] + bias[i];
    }
  }
  return y;
}

Matrix64 linear_layer(engine::Team& team, const engine::Checkpoint& checkpoint, const Matrix64& x,
                      Weight weight, std::optional<Weight> bias, std::size_t layer) {
  Matrix64 y = product(team, checkpoint.tensor(weight, layer), x, {});
  if (!bias) return y;
  const std::vector<double> added = widen_vector(checkpoint, *bias, layer);
  for (std::size_t t = 0; t < y.rows; ++t) {
    for (std::size_t i = 0; i < y.columns; ++i) y.row(t)[i] += added[i];
  }
  return y;
}

Matrix64 logits_of(engine::Team& team, const engine::Checkpoint& checkpoint, const Matrix64& x,
                   std::span<const std::size_t> columns) {
  return product(team, checkpoint.tensor(Weight::embed_out), x, columns);
}

double activate(Function function, double x) {
  return engine::function_in_binary64(function, x);
}

void rotate(Matrix64& x, const engine::Config& config, std::size_t rotary_dims, bool interleaved,
            int shift) {
  const std::size_t half = rotary_dims / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary_dims);
    const float inverse_frequency = 1.0f / simd::pow(config.rotary_base, exponent);
    const std::size_t first = interleaved ? 2 * i : i;
    const std::size_t second = interleaved ? 2 * i + 1 : i + half;
    for (std::size_t t = 0; t < x.rows; ++t) {
      const float angle = static_cast<float>(static_cast<int>(t) + shift) * inverse_frequency;
      const auto c = static_cast<double>(simd::evaluate(Function::cos, angle));
      const auto s = static_cast<double>(simd::evaluate(Function::sin, angle));
      for (std::size_t head = 0; head < config.heads; ++head) {
        double* values = x.row(t) + head * config.head_dim;
        const double x1 = values[first];
        const double x2 = values[second];
        values[first] = x1 * c - x2 * s;
        values[second] = x2 * c + x1 * s;
      }
    }
  }
}

Matrix64 attend(engine::Team& team, const Matrix64& q, const Matrix64& k, const Matrix64& v,
                std::size_t heads, const AttentionRules& rules) {
  const std::size_t tokens = q.rows;
  const std::size_t head_dim = q.columns / heads;
  Matrix64 context{tokens, q.columns, std::vector<double>(q.values.size())};
  std::vector<double> scratch(team.threads() * tokens * (head_dim + 1));
  auto head_item = [&](std::size_t head, std::size_t participant) {
    // [head_dim][tokens]: sums over head_dim run side by side for neighbouring slots.
    double* keys = scratch.data() + participant * tokens * (head_dim + 1);
    double* weights = keys + tokens * head_dim;
    const std::size_t column = head * head_dim;
    for (std::size_t j = 0; j < tokens; ++j) {
      for (std::size_t d = 0; d < head_dim; ++d) keys[d * tokens + j] = k.row(j)[column + d];
    }
    for (std::size_t t = 0; t < tokens; ++t) {
      double* out = context.row(t) + column;
      const auto unlimited = static_cast<std::size_t>(static_cast<int>(t) + 1 + rules.ahead);
      const std::size_t end = std::min(unlimited, tokens);
      if (end <= rules.first_slot || (unlimited > tokens && rules.more_tokens)) {
        std::fill_n(out, head_dim, std::numeric_limits<double>::quiet_NaN());
        continue;
      }
      std::fill(weights, weights + end, 0.0);
      for (std::size_t d = 0; d < head_dim; ++d) {
        const double factor = q.row(t)[column + d] * rules.scale;
        for (std::size_t j = rules.first_slot; j < end; ++j) {
          weights[j] += factor * keys[d * tokens + j];
        }
      }
      const double max = *std::max_element(weights + rules.first_slot, weights + end);
      double total = 0.0;
      for (std::size_t j = rules.first_slot; j < end; ++j) {
        weights[j] = std::exp(weights[j] - max);
        total += weights[j];
      }
      for (std::size_t j = rules.first_slot; j < end; ++j) {
        const double weight = weights[j] / total;
        for (std::size_t d = 0; d < head_dim; ++d) out[d] += weight * v.row(j)[column + d];
      }
    }
  };
  parallel_items(team, heads, head_item);
  return context;
}

Matrix64 sum(std::initializer_list<const Matrix64*> terms) {
  Matrix64 result{(*terms.begin())->rows, (*terms.begin())->columns, {}};
  result.values.resize(result.rows * result.columns);
  for (const Matrix64* term : terms) {
    for (std::size_t i = 0; i < result.values.size(); ++i) result.values[i] += term->values[i];
  }
  return result;
}

}  // namespace neoxref::eval
