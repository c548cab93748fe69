// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "eval/parallel_items.hpp"
#include "eval/unit_steps.hpp"

namespace neoxref::eval {
namespace {

using engine::Tensor;

constexpr std::size_t lanes = simd::lanes;
constexpr std::size_t query_rows = 64;
constexpr double infinity = std::numeric_limits<double>::infinity();
/// exp may take what is below this for zero.
constexpr double far_tail = 0x1p-118;

}  // namespace

/// One head's numbers with what their rounding as operands adds.
struct UnitSteps::Head {
  const double* value;
  const double* bound;  ///< null: nothing inherited
  std::size_t stride;
  Format stored;

  double error(const BoundRules& rules, std::size_t row, std::size_t d) const {
    const std::size_t at = row * stride + d;
    const double inherited = bound == nullptr ? 0.0 : bound[at];
    return inherited + rules.operand(value[at], inherited, stored);
  }
};

void UnitSteps::softmax(const double* score, const double* error, std::size_t slots, double* p,
                        double* p_error) const {
  const Profile& profile = rules_.profile();
  const double u = format_limits(profile.internal).unit;
  double max = score[0], most_error = 0.0;
  for (std::size_t j = 0; j < slots; ++j) {
    max = std::max(max, score[j]);
    most_error = std::max(most_error, error[j]);
  }
  const double function = -std::log1p(-2.0 * profile.functions.exp * u);
  const double scalings =
      profile.online_softmax ? static_cast<double>(slots / profile.softmax_block + 1) : 0.0;
  const double fixed = function + scalings * (function + 2.0 * u);
  double z = 0.0, most_z = 0.0;
  for (std::size_t j = 0; j < slots; ++j) {
    const double argument = score[j] - max;
    const double off = error[j] + 4.0 * u * (std::abs(argument) + error[j] + most_error) +
                       2.0 * u * (std::abs(score[j]) + error[j]) + fixed;
    p[j] = std::exp(argument);
    p_error[j] = std::exp(off);
    z += p[j];
    most_z += p[j] * p_error[j] + far_tail;
  }
  const double sums = growth(static_cast<double>(slots + 1), u);
  const double common =
      sums < 0.5 ? most_z / z * (1.0 + u) * (1.0 + u) * (1.0 + u) / (1.0 - sums) : infinity;
  const bool narrow = !fits(Format::f32, profile.probabilities);
  for (std::size_t j = 0; j < slots; ++j) {
    p[j] /= z;
    double off =
        p[j] * (p_error[j] * common - 1.0) + far_tail * common + own_rounding(slots) * p[j];
    if (narrow) {
      off += format_limits(profile.probabilities).unit * (p[j] + off) +
             rules_.underflow(profile.probabilities);
    }
    off += rules_.operand(p[j], off, profile.probabilities);
    p_error[j] = off < infinity ? off : infinity;
  }
}

void UnitSteps::attend(const Carried& qkv, const Carried& q, const Carried& k, std::size_t head,
                       std::size_t first, std::size_t rows, std::size_t participant, Carried& out) {
  const std::size_t head_dim = config_.head_dim;
  const Profile& profile = rules_.profile();
  const auto head_of = [&](const Carried& from, std::size_t column) {
    return Head{from.value.data() + column,
                from.bound.empty() ? nullptr : from.bound.data() + column, from.columns,
                from.stored};
  };
  const Head query = head_of(q, head * head_dim);
  const Head key = head_of(k, head * head_dim);
  const Head value = head_of(qkv, (head * 3 + 2) * head_dim);
  const std::size_t slots = first + rows;
  const std::size_t padded = simd::round_up(slots, lanes);
  const std::size_t depth = 2 * std::max(head_dim, padded);
  // Left factors, one panel of right factors and of their sizes, then scores and probabilities.
  double* left = scratch(participant, rows * (2 * depth + 2 * padded) + 3 * depth * lanes);
  double* left_sizes = left + rows * depth;
  double* score = left_sizes + rows * depth;
  double* error = score + rows * padded;
  double* panel = error + rows * padded;
  double* sizes = panel + depth * lanes;

  const SumRule over_dims = rules_.sum_of_carried(head_dim);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      const double x = query.value[(first + r) * query.stride + d];
      left[r * head_dim + d] = x;
      left_sizes[r * 2 * head_dim + d] = std::abs(x);
      left_sizes[r * 2 * head_dim + head_dim + d] =
          over_dims.errors * query.error(rules_, first + r, d);
    }
  }
  for (std::size_t j = 0; j < slots; j += lanes) {
    const std::size_t columns = std::min(lanes, slots - j);
    std::fill(panel, panel + head_dim * lanes, 0.0);
    std::fill(sizes, sizes + 2 * head_dim * lanes, 0.0);
    for (std::size_t c = 0; c < columns; ++c) {
      for (std::size_t d = 0; d < head_dim; ++d) {
        const double y = key.value[(j + c) * key.stride + d];
        const double off = key.error(rules_, j + c, d);
        panel[d * lanes + c] = y;
        sizes[d * lanes + c] = over_dims.terms * std::abs(y) + over_dims.errors * off;
        sizes[(head_dim + d) * lanes + c] = std::abs(y) + off;
      }
    }
    measuring_.product64({rows, head_dim, columns, left, head_dim, panel, score + j, padded});
    measuring_.product64(
        {rows, 2 * head_dim, columns, left_sizes, 2 * head_dim, sizes, error + j, padded});
  }
  const auto scale =
      static_cast<double>(static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim))));
  const double u = format_limits(profile.internal).unit;
  const double scaling = (1.0 + u) * (1.0 + u) * (1.0 + u) - 1.0;
  for (std::size_t r = 0; r < rows; ++r) {
    double* s = score + r * padded;
    double* e = error + r * padded;
    const std::size_t seen = first + r + 1;
    for (std::size_t j = 0; j < seen; ++j) {
      double off = e[j] + over_dims.total * std::abs(s[j]) + over_dims.least;
      // Stored twice: before and after the scaling.
      off = rules_.store(profile.accumulator, profile.scores, s[j], off) * scale;
      s[j] *= scale;
      off += scaling * (std::abs(s[j]) + off);
      e[j] = outward(rules_.store(Format::f32, profile.scores, s[j], off));
    }
    softmax(s, e, seen, s, e);
    std::fill(s + seen, s + padded, 0.0);
    std::fill(e + seen, e + padded, 0.0);
  }

  const SumRule over_slots = rules_.sum_of_carried(slots);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t j = 0; j < slots; ++j) {
      const double p = score[r * padded + j];
      const double off = error[r * padded + j];
      left_sizes[r * 2 * slots + j] = over_slots.terms * p + over_slots.errors * off;
      left_sizes[r * 2 * slots + slots + j] = over_slots.errors * (p + off);
    }
  }
  for (std::size_t d = 0; d < head_dim; d += lanes) {
    const std::size_t columns = std::min(lanes, head_dim - d);
    std::fill(panel, panel + slots * lanes, 0.0);
    std::fill(sizes, sizes + 2 * slots * lanes, 0.0);
    for (std::size_t j = 0; j < slots; ++j) {
      for (std::size_t c = 0; c < columns; ++c) {
        const double y = value.value[j * value.stride + d + c];
        panel[j * lanes + c] = y;
        sizes[j * lanes + c] = std::abs(y);
        sizes[(slots + j) * lanes + c] = value.error(rules_, j, d + c);
      }
    }
    double* to = out.value.data() + first * out.columns + head * head_dim + d;
    double* to_bound = out.bound.data() + first * out.columns + head * head_dim + d;
    measuring_.product64({rows, slots, columns, score, padded, panel, to, out.columns});
    measuring_.product64(
        {rows, 2 * slots, columns, left_sizes, 2 * slots, sizes, to_bound, out.columns});
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t c = 0; c < columns; ++c) {
        const double y = to[r * out.columns + c];
        double& e = to_bound[r * out.columns + c];
        e += over_slots.total * std::abs(y) + over_slots.least;
        e += ((1.0 + u) * (1.0 + u) - 1.0) * (std::abs(y) + e);
        e = outward(rules_.store(profile.accumulator, out.stored, y, e));
      }
    }
  }
}

Carried UnitSteps::context(const Carried& qkv, const Carried& q, const Carried& k) {
  Carried result;
  result.rows = qkv.rows;
  result.columns = config_.hidden;
  result.stored = rules_.profile().stored(Tensor::context);
  result.value.resize(result.rows * result.columns);
  result.bound.resize(result.rows * result.columns);
  const std::size_t blocks = (qkv.rows + query_rows - 1) / query_rows;
  parallel_items(team_, blocks * config_.heads, [&](std::size_t item, std::size_t participant) {
    // The last queries see the most slots: first.
    const std::size_t first = (blocks - 1 - item / config_.heads) * query_rows;
    attend(qkv, q, k, item % config_.heads, first, std::min(query_rows, qkv.rows - first),
           participant, result);
  });
  return result;
}

}  // namespace neoxref::eval
