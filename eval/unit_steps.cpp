// SPDX-License-Identifier: Apache-2.0
#include "eval/unit_steps.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "eval/parallel_items.hpp"
#include "simd/kernels.hpp"
#include "simd/scalar/ieee.hpp"

namespace neoxref::eval {
namespace {

using engine::Tensor;
using engine::Weight;

constexpr std::size_t lanes = simd::lanes;
constexpr double infinity = std::numeric_limits<double>::infinity();

Carried shaped(std::size_t rows, std::size_t columns, Format stored) {
  Carried result;
  result.rows = rows;
  result.columns = columns;
  result.stored = stored;
  result.value.resize(rows * columns);
  result.bound.resize(rows * columns);
  return result;
}

}  // namespace

void widen_weights(const engine::TensorView& tensor, simd::Dtype dtype, std::size_t first,
                   std::size_t n, float* out) {
  if (dtype == simd::Dtype::f32) {
    std::memcpy(out, tensor.bytes.data() + 4 * first, 4 * n);
    return;
  }
  for (std::size_t i = 0; i < n; ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, tensor.bytes.data() + 2 * (first + i), 2);
    out[i] =
        dtype == simd::Dtype::f16 ? simd::scalar::widen_f16(half) : simd::scalar::widen_bf16(half);
  }
}

UnitSteps::UnitSteps(const engine::Checkpoint& checkpoint, engine::Team& team,
                     const BoundRules& rules, const simd::Measuring& measuring)
    : checkpoint_(checkpoint),
      team_(team),
      rules_(rules),
      config_(checkpoint.config()),
      measuring_(measuring),
      scratch_(team.threads()) {}

double* UnitSteps::scratch(std::size_t participant, std::size_t values) {
  std::vector<double>& own = scratch_[participant];
  if (own.size() < values) own.resize(values);
  return own.data();
}

std::vector<float> UnitSteps::parameters(Weight weight, std::size_t layer) const {
  const engine::TensorView& tensor = checkpoint_.tensor(weight, layer);
  std::vector<float> values(tensor.elements());
  widen_weights(tensor, engine::weight_dtype(tensor), 0, values.size(), values.data());
  return values;
}

Carried UnitSteps::embed(std::span<const std::int32_t> tokens) const {
  const Format format = rules_.profile().stored(Tensor::embed_in);
  Carried result = shaped(tokens.size(), config_.hidden, format);
  const engine::TensorView& tensor = checkpoint_.tensor(Weight::embed_in);
  const simd::Dtype dtype = engine::weight_dtype(tensor);
  std::vector<float> row(config_.hidden);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    widen_weights(tensor, dtype, static_cast<std::size_t>(tokens[t]) * row.size(), row.size(),
                  row.data());
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::size_t at = t * row.size() + i;
      result.value[at] = static_cast<double>(row[i]);
      result.bound[at] = BoundRules::parameter(format, result.value[at]);
    }
  }
  return result;
}

Carried UnitSteps::layer_norm(Weight gain, Weight shift, std::size_t layer, const Carried& x,
                              Tensor result_tensor) {
  const std::vector<float> gamma = parameters(gain, layer);
  const std::vector<float> beta = parameters(shift, layer);
  const Format format = rules_.profile().stored(result_tensor);
  Carried result = shaped(x.rows, x.columns, format);
  if (rules_.profile().folded_weights) result.magnitude.resize(result.value.size());
  const std::vector<double> none(x.bound.empty() ? x.columns : 0, 0.0);
  parallel_items(team_, x.rows, [&](std::size_t row, std::size_t) {
    const std::size_t at = row * x.columns;
    rules_.layer_norm(x.value.data() + at, x.bound.empty() ? none.data() : x.bound.data() + at,
                      x.columns, gamma.data(), beta.data(), format, result.value.data() + at,
                      result.bound.data() + at,
                      result.magnitude.empty() ? nullptr : result.magnitude.data() + at);
  });
  return result;
}

bool UnitSteps::weights_round(Weight weight, std::size_t layer) {
  const Format operands = rules_.profile().operands;
  const engine::TensorView& tensor = checkpoint_.tensor(weight, layer);
  const simd::Dtype dtype = engine::weight_dtype(tensor);
  if (operands == Format::f32 || (dtype == simd::Dtype::f16 && fits(Format::f16, operands)) ||
      (dtype == simd::Dtype::bf16 && fits(Format::bf16, operands))) {
    return false;
  }
  const auto [known, fresh] = rounded_weights_.try_emplace(engine::weight_name(weight, layer));
  if (!fresh) return known->second;
  constexpr std::size_t piece = 4096;
  const std::size_t total = tensor.elements();
  std::vector<char> rounds((total + piece - 1) / piece);
  parallel_items(team_, rounds.size(), [&](std::size_t item, std::size_t) {
    std::array<float, piece> values;
    const std::size_t count = std::min(piece, total - item * piece);
    widen_weights(tensor, dtype, item * piece, count, values.data());
    for (std::size_t i = 0; i < count && rounds[item] == 0; ++i) {
      const auto wide = static_cast<double>(values[i]);
      if (std::abs(round_to(operands, wide) - wide) > 0.0) rounds[item] = 1;
    }
  });
  known->second = std::find(rounds.begin(), rounds.end(), 1) != rounds.end();
  return known->second;
}

UnitSteps::Linear UnitSteps::prepare(Weight weight, Weight bias, bool has_bias, std::size_t layer,
                                     const Carried& x, Tensor result, bool bounds) {
  Linear linear;
  linear.weight = &checkpoint_.tensor(weight, layer);
  linear.dtype = engine::weight_dtype(*linear.weight);
  linear.outputs = linear.weight->shape[0];
  linear.inputs = linear.weight->shape[1];
  linear.format = rules_.profile().stored(result);
  linear.rule = rules_.sum(linear.inputs, weights_round(weight, layer));
  linear.input = &x;
  if (has_bias) {
    for (const float value : parameters(bias, layer)) {
      const auto wide = static_cast<double>(value);
      linear.bias.push_back(wide);
      linear.shown.push_back(
          linear.format == Format::kld16 ? 0.0 : BoundRules::parameter(linear.format, wide));
    }
  }
  if (!bounds) return linear;
  linear.spread.resize(x.rows * x.columns);
  parallel_items(team_, x.rows, [&](std::size_t row, std::size_t) {
    for (std::size_t i = row * x.columns; i < (row + 1) * x.columns; ++i) {
      const double inherited = x.bound_at(i);
      const double moved = inherited + rules_.operand(x.value[i], inherited, x.stored);
      const double size = x.magnitude.empty() ? std::abs(x.value[i]) : x.magnitude[i];
      linear.spread[i] = linear.rule.terms * size + linear.rule.errors * moved;
    }
  });
  return linear;
}

void UnitSteps::linear(const Linear& linear, std::size_t first, std::size_t rows, double* value,
                       double* bound) {
  linear_columns(linear, first, rows, 0, linear.outputs, value, bound);
}

void UnitSteps::linear_columns(const Linear& linear, std::size_t first, std::size_t rows,
                               std::size_t first_column, std::size_t all_columns, double* value,
                               double* bound) {
  const std::size_t panels = (all_columns + lanes - 1) / lanes;
  const double accumulator_largest = format_limits(rules_.profile().accumulator).largest;
  const bool narrow_sums = rules_.profile().accumulator == Format::f16;
  parallel_items(team_, panels, [&](std::size_t item, std::size_t participant) {
    const std::size_t n = item * lanes;
    const std::size_t columns = std::min(lanes, all_columns - n);
    const std::size_t inputs = linear.inputs;
    double* panel = scratch(participant, 2 * inputs * lanes + inputs);
    double* sizes = panel + inputs * lanes;
    auto* row = reinterpret_cast<float*>(sizes + inputs * lanes);
    if (columns < lanes) std::fill(panel, panel + 2 * inputs * lanes, 0.0);
    for (std::size_t c = 0; c < columns; ++c) {
      widen_weights(*linear.weight, linear.dtype, (first_column + n + c) * inputs, inputs, row);
      for (std::size_t k = 0; k < inputs; ++k) {
        const auto w = static_cast<double>(row[k]);
        panel[k * lanes + c] = w;
        sizes[k * lanes + c] = std::abs(w);
      }
    }
    const std::size_t at = first * inputs;
    measuring_.product64({rows, inputs, columns, linear.input->value.data() + at, inputs, panel,
                          value + n, all_columns});
    const double* bias = linear.bias.empty() ? nullptr : linear.bias.data() + first_column + n;
    for (std::size_t r = 0; r < rows && bias != nullptr; ++r) {
      for (std::size_t c = 0; c < columns; ++c) value[r * all_columns + n + c] += bias[c];
    }
    if (bound == nullptr) return;
    measuring_.product64(
        {rows, inputs, columns, linear.spread.data() + at, inputs, sizes, bound + n, all_columns});
    const SumRule& rule = linear.rule;
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t c = 0; c < columns; ++c) {
        const double y = value[r * all_columns + n + c];
        double& e = bound[r * all_columns + n + c];
        const double sum_spread = e;
        const double size = std::abs(y) + (bias == nullptr ? 0.0 : std::abs(bias[c]));
        e += rule.least + rule.total * size + 0x1p-50 * size;
        if (bias != nullptr) e += linear.shown[first_column + n + c];
        // terms * A <= sum_spread, so no partial sum is above this.
        if (narrow_sums && sum_spread / rule.terms + size > accumulator_largest) e = infinity;
        if (linear.format != Format::kld16) {
          e = rules_.store(rules_.profile().accumulator, linear.format, y, e);
        }
        e = outward(e);
      }
    }
  });
}

Carried UnitSteps::activation(const Carried& x) {
  Carried result = shaped(x.rows, x.columns, rules_.profile().stored(Tensor::act));
  parallel_items(team_, x.rows, [&](std::size_t row, std::size_t) {
    for (std::size_t i = row * x.columns; i < (row + 1) * x.columns; ++i) {
      rules_.activation(x.value[i], x.bound_at(i), result.value[i], result.bound[i]);
    }
  });
  return result;
}

Carried UnitSteps::rotate(const Carried& qkv, std::size_t which, Tensor result_tensor) {
  const std::size_t half = config_.rotary_dims / 2;
  const std::size_t known = half == 0 ? qkv.rows : turns_.size() / half;
  if (known < qkv.rows) {
    turns_.resize(qkv.rows * half);
    parallel_items(team_, qkv.rows - known, [&](std::size_t item, std::size_t) {
      const std::size_t position = known + item;
      for (std::size_t i = 0; i < half; ++i) {
        turns_[position * half + i] = rules_.turn(position, i);
      }
    });
  }
  const Format format = rules_.profile().stored(result_tensor);
  Carried result = shaped(qkv.rows, config_.hidden, format);
  const std::size_t head_dim = config_.head_dim;
  parallel_items(team_, qkv.rows, [&](std::size_t row, std::size_t) {
    for (std::size_t head = 0; head < config_.heads; ++head) {
      const std::size_t from = row * qkv.columns + (head * 3 + which) * head_dim;
      const std::size_t to = row * result.columns + head * head_dim;
      for (std::size_t d = 0; d < head_dim; ++d) {
        result.value[to + d] = qkv.value[from + d];
        result.bound[to + d] = qkv.bound_at(from + d);
      }
      rules_.rotate(result.value.data() + to, result.bound.data() + to, turns_.data() + row * half,
                    qkv.stored, format);
    }
  });
  return result;
}

Carried UnitSteps::residual(std::span<const Carried* const> terms, Format format) {
  const Carried& shape = *terms.front();
  Carried result = shaped(shape.rows, shape.columns, format);
  const std::vector<double> none(shape.columns, 0.0);
  parallel_items(team_, shape.rows, [&](std::size_t row, std::size_t) {
    std::array<const double*, 3> value{};
    std::array<const double*, 3> bound{};
    const std::size_t at = row * shape.columns;
    for (std::size_t t = 0; t < terms.size(); ++t) {
      value[t] = terms[t]->value.data() + at;
      bound[t] = terms[t]->bound.empty() ? none.data() : terms[t]->bound.data() + at;
    }
    rules_.residual(value.data(), bound.data(), terms.size(), shape.columns, format,
                    result.value.data() + at, result.bound.data() + at);
  });
  return result;
}

void UnitSteps::to_log_base(std::size_t rows, double* value, double* bound) {
  constexpr double u = 0x1p-24;
  constexpr double reach = 16.0;
  const std::size_t vocab = config_.vocab;
  parallel_items(team_, rows, [&](std::size_t r, std::size_t) {
    double* row = value + r * vocab;
    double* error = bound + r * vocab;
    const double max = *std::max_element(row, row + vocab);
    const double most = *std::max_element(error, error + vocab);
    double sum = 0.0;
    for (std::size_t i = 0; i < vocab; ++i) sum += std::exp(row[i] - max);
    const double log_sum = std::log(sum);
    // A clipped logit is off by no more than the largest of the row, and so is the logarithm of the
    // sum; then half a step of the grid and roundings of binary32.
    for (std::size_t i = 0; i < vocab; ++i) {
      const double size = std::abs(row[i]) + std::abs(max) + std::abs(log_sum) + reach;
      row[i] = std::max(row[i], max - reach) - max - log_sum;
      error[i] = outward(2.0 * most + 0.5 * (reach + 2.0 * most) / 65535.0 +
                         2.0 * rules_.profile().functions.exp * u + 8.0 * u * size);
    }
  });
}

}  // namespace neoxref::eval
