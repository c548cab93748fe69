// SPDX-License-Identifier: Apache-2.0
#include "eval/simulated_steps.hpp"

#include <algorithm>
#include <array>

#include "eval/parallel_items.hpp"
#include "eval/unit_steps.hpp"
#include "simd/kernels.hpp"

namespace neoxref::eval {
namespace {

using engine::TensorId;
using engine::Weight;

constexpr std::size_t lanes = simd::lanes;

/// A function's result off by up to half of what the profile allows, then rounded.
float function_result(double value, double ulp, Format internal, Draw& draw) {
  const double off = draw.symmetric() * ulp * format_limits(internal).unit;
  return draw.round(internal, value * (1.0 + off));
}

}  // namespace

std::vector<simd::Stretch> stretches(std::size_t length, Draw& draw) {
  std::vector<std::size_t> blocks;
  for (std::size_t block = 16; block < length; block *= 2) blocks.push_back(block);
  blocks.push_back(std::max<std::size_t>(length, 1));
  const std::size_t block = blocks[draw.below(blocks.size())];
  std::vector<simd::Stretch> result;
  for (std::size_t begin = 0; begin < length; begin += block) {
    result.push_back({static_cast<std::uint32_t>(begin),
                      static_cast<std::uint32_t>(std::min(length, begin + block))});
  }
  for (std::size_t i = result.size(); i > 1; --i) std::swap(result[i - 1], result[draw.below(i)]);
  return result;
}

float Draw::round(Format format, double x) {
  const FormatLimits& limits = format_limits(format);
  if (!(std::abs(x) >= limits.least_normal)) {
    if (x == 0.0 || std::isnan(x)) return static_cast<float>(x);
    const double share = static_cast<double>(next() >> 11) * 0x1p-53;
    return static_cast<float>(std::floor(x / limits.least + share) * limits.least);
  }
  if (!(std::abs(x) <= limits.largest)) {
    return std::copysign(std::numeric_limits<float>::infinity(), static_cast<float>(x));
  }
  // The bits of a binary64 number below the last of the format.
  const int dropped = 52 + std::ilogb(limits.unit) + 1;
  const std::uint64_t mask = (std::uint64_t{1} << dropped) - 1;
  const auto bits = std::bit_cast<std::uint64_t>(x) + (next() & mask);
  return static_cast<float>(std::bit_cast<double>(bits & ~mask));
}

SimulatedSteps::SimulatedSteps(const engine::Checkpoint& checkpoint, engine::Team& team,
                               const Profile& profile, simd::Isa isa, std::size_t runs,
                               std::uint64_t seed)
    : checkpoint_(checkpoint),
      team_(team),
      profile_(profile),
      config_(checkpoint.config()),
      kernels_(simd::kernels(isa)),
      measuring_(simd::measuring(isa)),
      runs_(runs),
      seed_(seed),
      scratch_(team.threads()) {}

float* SimulatedSteps::scratch(std::size_t participant, std::size_t values) {
  std::vector<float>& own = scratch_[participant];
  if (own.size() < values) own.resize(values);
  return own.data();
}

SimulatedSteps::Runs SimulatedSteps::shaped(std::size_t rows, std::size_t columns) const {
  return Runs(runs_, Matrix{rows, columns, std::vector<float>(rows * columns)});
}

std::vector<float> SimulatedSteps::parameters(Weight weight, std::size_t layer) const {
  const engine::TensorView& tensor = checkpoint_.tensor(weight, layer);
  std::vector<float> values(tensor.elements());
  widen_weights(tensor, engine::weight_dtype(tensor), 0, values.size(), values.data());
  return values;
}

template <class F>
void SimulatedSteps::each_row(const TensorId& id, std::size_t rows, F&& f) {
  parallel_items(team_, runs_ * rows, [&](std::size_t item, std::size_t) {
    const std::size_t run = item / rows;
    const std::size_t row = item % rows;
    Draw draw(seed_, run, id, row);
    f(run, row, draw);
  });
}

SimulatedSteps::Runs SimulatedSteps::embed(const std::vector<double>& truth, std::size_t tokens) {
  const TensorId id{engine::Tensor::embed_in};
  Runs result = shaped(tokens, config_.hidden);
  each_row(id, tokens, [&](std::size_t run, std::size_t row, Draw&) {
    for (std::size_t i = 0; i < config_.hidden; ++i) {
      result[run].row(row)[i] =
          static_cast<float>(round_to(stored(id), truth[row * config_.hidden + i]));
    }
  });
  return result;
}

SimulatedSteps::Runs SimulatedSteps::layer_norm(Weight gain, Weight shift, std::size_t layer,
                                                const Runs& x, const TensorId& id) {
  const std::vector<float> gamma = parameters(gain, layer);
  const std::vector<float> beta = parameters(shift, layer);
  const std::size_t n = config_.hidden;
  Runs result = shaped(x[0].rows, n);
  each_row(id, x[0].rows, [&](std::size_t run, std::size_t row, Draw& draw) {
    const float* from = x[run].row(row);
    float* to = result[run].row(row);
    const auto order = stretches(n, draw);
    const auto count = static_cast<float>(n);
    const float mean = stretched_sum(order, [&](std::size_t i) { return from[i]; }) / count;
    float variance = 0.0f;
    if (profile_.layer_norm == LayerNormForm::one_pass && run % 2 == 1) {
      variance = stretched_sum(order, [&](std::size_t i) { return from[i] * from[i]; }) / count -
                 mean * mean;
    } else {
      variance =
          stretched_sum(order, [&](std::size_t i) { return (from[i] - mean) * (from[i] - mean); }) /
          count;
    }
    const double spread =
        std::max(static_cast<double>(variance), 0.0) + static_cast<double>(config_.layer_norm_eps);
    const float r =
        function_result(1.0 / std::sqrt(spread), profile_.functions.rsqrt, profile_.internal, draw);
    for (std::size_t i = 0; i < n; ++i) {
      const float normal = draw.round(profile_.internal, static_cast<double>((from[i] - mean) * r));
      to[i] = draw.round(stored(id), static_cast<double>(normal * gamma[i] + beta[i]));
    }
  });
  return result;
}

SimulatedSteps::Runs SimulatedSteps::operands(const Runs& x, Format held, const TensorId& id) {
  Runs result = x;
  if (fits(held, profile_.operands)) return result;
  each_row(id, x[0].rows, [&](std::size_t run, std::size_t row, Draw& draw) {
    float* values = result[run].row(row);
    for (std::size_t i = 0; i < x[run].columns; ++i) {
      values[i] = draw.round(profile_.operands, static_cast<double>(values[i]));
    }
  });
  return result;
}

SimulatedSteps::Runs SimulatedSteps::linear(Weight weight, const std::vector<float>& bias,
                                            const Runs& x, const TensorId& id, std::size_t first,
                                            std::size_t columns) {
  const engine::TensorView& tensor = checkpoint_.tensor(weight, id.layer);
  const simd::Dtype dtype = engine::weight_dtype(tensor);
  const std::size_t inputs = tensor.shape[1];
  const std::size_t rows = x[0].rows;
  Runs result = shaped(rows, columns);
  std::vector<std::vector<simd::Stretch>> order;
  std::vector<bool> fused;
  for (std::size_t run = 0; run < runs_; ++run) {
    Draw draw(seed_, run, id, ~std::uint64_t{0});
    order.push_back(stretches(inputs, draw));
    fused.push_back(draw.below(2) == 1);
  }
  const bool exact_sums = fits(Format::f32, stored(id)) || stored(id) == Format::kld16;
  parallel_items(team_, (columns + lanes - 1) / lanes, [&](std::size_t item, std::size_t who) {
    const std::size_t n = item * lanes;
    const std::size_t width = std::min(lanes, columns - n);
    float* panel = scratch(who, inputs * (lanes + 1));
    float* row = panel + inputs * lanes;
    if (width < lanes) std::fill(panel, panel + inputs * lanes, 0.0f);
    for (std::size_t c = 0; c < width; ++c) {
      widen_weights(tensor, dtype, (first + n + c) * inputs, inputs, row);
      for (std::size_t k = 0; k < inputs; ++k) {
        const float w =
            profile_.operands == Format::f32
                ? row[k]
                : static_cast<float>(round_to(profile_.operands, static_cast<double>(row[k])));
        panel[k * lanes + c] = w;
      }
    }
    for (std::size_t run = 0; run < runs_; ++run) {
      Matrix& to = result[run];
      measuring_.stretched_product({rows, width, x[run].values.data(), inputs, panel,
                                    order[run].data(), order[run].size(), fused[run],
                                    to.values.data() + n, columns});
      if (bias.empty() && exact_sums) continue;
      Draw draw(seed_, run, id, first + n);
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = 0; c < width; ++c) {
          float& y = to.row(r)[n + c];
          if (!bias.empty()) y += bias[first + n + c];
          if (!exact_sums) y = draw.round(stored(id), static_cast<double>(y));
        }
      }
    }
  });
  return result;
}

SimulatedSteps::Runs SimulatedSteps::activation(const Runs& x, const TensorId& id) {
  Runs result = shaped(x[0].rows, x[0].columns);
  const double ulp = config_.activation == simd::Function::tanh   ? profile_.functions.tanh
                     : config_.activation == simd::Function::silu ? profile_.functions.silu
                     : config_.activation == simd::Function::relu ? 0.0
                                                                  : profile_.functions.gelu;
  const bool inside =
      config_.activation != simd::Function::tanh && config_.activation != simd::Function::relu;
  each_row(id, x[0].rows, [&](std::size_t run, std::size_t row, Draw& draw) {
    float* to = result[run].row(row);
    const std::size_t n = x[run].columns;
    kernels_.map(config_.activation, x[run].row(row), to, n);
    const float* from = x[run].row(row);
    const double off = 0.5 * ulp * format_limits(profile_.internal).unit;
    for (std::size_t i = 0; i < n; ++i) {
      // erf and tanh inside a GELU are off by an amount, not by a share of the result.
      const double y = static_cast<double>(to[i]) +
                       off * draw.symmetric() *
                           static_cast<double>(inside ? std::abs(from[i]) : 2.0f * std::abs(to[i]));
      to[i] = draw.round(stored(id), static_cast<double>(draw.round(profile_.internal, y)));
    }
  });
  return result;
}

SimulatedSteps::Runs SimulatedSteps::rotate(const Runs& qkv, std::size_t which,
                                            const TensorId& id) {
  const std::size_t head_dim = config_.head_dim;
  const std::size_t half = config_.rotary_dims / 2;
  Runs result = shaped(qkv[0].rows, config_.hidden);
  each_row(id, qkv[0].rows, [&](std::size_t run, std::size_t row, Draw& draw) {
    std::vector<float> cos(half), sin(half);
    // A table is off by the same amount for q and k of all layers.
    Draw table(seed_, run, {engine::Tensor::rotary_q}, row);
    for (std::size_t i = 0; i < half; ++i) {
      const double exponent =
          2.0 * static_cast<double>(i) / static_cast<double>(config_.rotary_dims);
      const double angle = static_cast<double>(row) *
                           std::pow(static_cast<double>(config_.rotary_base), -exponent) *
                           (1.0 + 1.5 * table.symmetric() * 0x1p-24);
      cos[i] = table.round(profile_.rotary_table, std::cos(angle));
      sin[i] = table.round(profile_.rotary_table, std::sin(angle));
    }
    const Format step = profile_.pointwise;
    const auto multiply = [&](float a, float b) {
      return draw.round(step, static_cast<double>(a) * static_cast<double>(b));
    };
    for (std::size_t head = 0; head < config_.heads; ++head) {
      const float* from = qkv[run].row(row) + (head * 3 + which) * head_dim;
      float* to = result[run].row(row) + head * head_dim;
      for (std::size_t d = 2 * half; d < head_dim; ++d) {
        to[d] = draw.round(stored(id), static_cast<double>(from[d]));
      }
      for (std::size_t i = 0; i < half; ++i) {
        const float x1 = from[i], x2 = from[i + half];
        const float a = multiply(x1, cos[i]), b = multiply(x2, sin[i]);
        const float c = multiply(x2, cos[i]), d = multiply(x1, sin[i]);
        const double low = static_cast<double>(a) - static_cast<double>(b);
        const double high = static_cast<double>(c) + static_cast<double>(d);
        to[i] = draw.round(stored(id), static_cast<double>(draw.round(step, low)));
        to[i + half] = draw.round(stored(id), static_cast<double>(draw.round(step, high)));
      }
    }
  });
  return result;
}

SimulatedSteps::Runs SimulatedSteps::residual(const Runs& a, const Runs& b, const Runs* c,
                                              const TensorId& id) {
  const std::size_t n = a[0].columns;
  Runs result = shaped(a[0].rows, n);
  each_row(id, a[0].rows, [&](std::size_t run, std::size_t row, Draw& draw) {
    std::array<const float*, 3> terms = {a[run].row(row), b[run].row(row),
                                         c == nullptr ? nullptr : (*c)[run].row(row)};
    if (c != nullptr) std::swap(terms[2], terms[run % 3]);
    float* to = result[run].row(row);
    for (std::size_t i = 0; i < n; ++i) {
      double sum_of = static_cast<double>(terms[0][i]) + static_cast<double>(terms[1][i]);
      if (c != nullptr) {
        sum_of = static_cast<double>(draw.round(profile_.pointwise, sum_of)) +
                 static_cast<double>(terms[2][i]);
      }
      const float y = draw.round(profile_.pointwise, sum_of);
      to[i] = draw.round(stored(id), static_cast<double>(y));
    }
  });
  return result;
}

}  // namespace neoxref::eval
