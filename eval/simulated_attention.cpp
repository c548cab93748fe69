// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "eval/parallel_items.hpp"
#include "eval/simulated_steps.hpp"
#include "simd/kernels.hpp"

namespace neoxref::eval {
namespace {

using engine::TensorId;

constexpr std::size_t lanes = simd::lanes;
constexpr std::size_t query_rows = 64;

}  // namespace

void SimulatedSteps::attend(const Runs& qkv, const Runs& q, const Runs& k, const TensorId& id,
                            std::size_t run, std::size_t head, std::size_t first, std::size_t rows,
                            std::size_t participant, Matrix& out) {
  const std::size_t head_dim = config_.head_dim;
  const std::size_t slots = first + rows;
  const std::size_t padded = simd::round_up(slots, lanes);
  float* score =
      scratch(participant, rows * (padded + head_dim) + std::max(head_dim, padded) * lanes);
  float* query = score + rows * padded;
  float* panel = query + rows * head_dim;
  Draw draw(seed_, run, id, head << 32 | first);
  const auto operand = [&](float x, Format held) {
    return fits(held, profile_.operands) ? x
                                         : draw.round(profile_.operands, static_cast<double>(x));
  };
  const bool fused = draw.below(2) == 1;
  const auto over_dims = stretches(head_dim, draw);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      query[r * head_dim + d] = operand(q[run].row(first + r)[head * head_dim + d],
                                        profile_.stored(engine::Tensor::rotary_q));
    }
  }
  for (std::size_t j = 0; j < slots; j += lanes) {
    const std::size_t columns = std::min(lanes, slots - j);
    std::fill(panel, panel + head_dim * lanes, 0.0f);
    for (std::size_t c = 0; c < columns; ++c) {
      for (std::size_t d = 0; d < head_dim; ++d) {
        panel[d * lanes + c] = operand(k[run].row(j + c)[head * head_dim + d],
                                       profile_.stored(engine::Tensor::rotary_k));
      }
    }
    measuring_.stretched_product({rows, columns, query, head_dim, panel, over_dims.data(),
                                  over_dims.size(), fused, score + j, padded});
  }
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  const Format held = profile_.scores;
  std::vector<float> totals(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    float* s = score + r * padded;
    const std::size_t seen = first + r + 1;
    float max = -std::numeric_limits<float>::infinity();
    for (std::size_t j = 0; j < seen; ++j) {
      s[j] *= scale;
      if (held != Format::f32) s[j] = draw.round(held, static_cast<double>(s[j]));
      max = std::max(max, s[j]);
    }
    for (std::size_t j = 0; j < seen; ++j) s[j] -= max;
    kernels_.map(simd::Function::exp, s, s, seen);
    const double off = profile_.functions.exp * format_limits(profile_.internal).unit;
    const auto over_slots = stretches(seen, draw);
    for (std::size_t j = 0; j < seen; ++j) {
      s[j] = static_cast<float>(static_cast<double>(s[j]) * (1.0 + off * draw.symmetric()));
    }
    totals[r] = stretched_sum(over_slots, [&](std::size_t j) { return s[j]; });
    for (std::size_t j = 0; j < seen; ++j) {
      if (!profile_.online_softmax) s[j] /= totals[r];
      if (profile_.probabilities != Format::f32) {
        s[j] = draw.round(profile_.probabilities, static_cast<double>(s[j]));
      }
      s[j] = operand(s[j], profile_.probabilities);
    }
    std::fill(s + seen, s + padded, 0.0f);
  }
  const auto over_slots = stretches(slots, draw);
  float part[query_rows * lanes];
  for (std::size_t d = 0; d < head_dim; d += lanes) {
    const std::size_t columns = std::min(lanes, head_dim - d);
    std::fill(panel, panel + slots * lanes, 0.0f);
    for (std::size_t j = 0; j < slots; ++j) {
      for (std::size_t c = 0; c < columns; ++c) {
        panel[j * lanes + c] = operand(qkv[run].row(j)[(head * 3 + 2) * head_dim + d + c],
                                       profile_.stored(engine::Tensor::query_key_value));
      }
    }
    measuring_.stretched_product({rows, columns, score, padded, panel, over_slots.data(),
                                  over_slots.size(), fused, part, lanes});
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t c = 0; c < columns; ++c) {
        const float sum_of = part[r * lanes + c];
        const float y = profile_.online_softmax ? sum_of / totals[r] : sum_of;
        out.row(first + r)[head * head_dim + d + c] =
            draw.round(profile_.stored(id.tensor), static_cast<double>(y));
      }
    }
  }
}

SimulatedSteps::Runs SimulatedSteps::context(const Runs& qkv, const Runs& q, const Runs& k,
                                             const TensorId& id) {
  const std::size_t rows = qkv[0].rows;
  Runs result = shaped(rows, config_.hidden);
  const std::size_t blocks = (rows + query_rows - 1) / query_rows;
  parallel_items(team_, blocks * config_.heads * runs_, [&](std::size_t item, std::size_t who) {
    const std::size_t run = item % runs_;
    const std::size_t head = item / runs_ % config_.heads;
    const std::size_t first = (blocks - 1 - item / runs_ / config_.heads) * query_rows;
    attend(qkv, q, k, id, run, head, first, std::min(query_rows, rows - first), who, result[run]);
  });
  return result;
}

}  // namespace neoxref::eval
