// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "engine/error.hpp"
#include "eval/parallel_items.hpp"
#include "eval/units.hpp"

namespace neoxref::eval {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
/// Elements whose bounds the median is taken of, at most.
constexpr std::size_t sample_size = 1 << 18;

/// Sums over one token.
struct Row {
  std::size_t without_bound = 0, over_bound = 0;
  double largest_ratio = 0.0, largest_own = 0.0;
  std::size_t worst = 0, first_over = 0;
  double value2 = 0.0, own2 = 0.0, inherited2 = 0.0, difference2 = 0.0;
};

Row sum_up(const double* value, const double* bound, const float* output, const float* reference,
           std::size_t width) {
  Row row;
  for (std::size_t i = 0; i < width; ++i) {
    const auto other = static_cast<double>(output[i]);
    const double own = other - value[i];
    const double size = std::abs(own);
    row.value2 += value[i] * value[i];
    row.own2 += own * own;
    if (reference != nullptr) {
      const double difference = other - static_cast<double>(reference[i]);
      row.difference2 += difference * difference;
      row.inherited2 += (difference - own) * (difference - own);
    }
    if (size > row.largest_own) row.largest_own = size;
    if (!(bound[i] < infinity) || !std::isfinite(value[i])) {
      ++row.without_bound;
      continue;
    }
    // Not a number where the truth is one: above every bound.
    double ratio = size > 0.0 ? size / bound[i] : 0.0;
    if (std::isnan(size)) ratio = infinity;
    if (ratio > row.largest_ratio) {
      row.largest_ratio = ratio;
      row.worst = i;
    }
    if (ratio > 1.0 && row.over_bound++ == 0) row.first_over = i;
  }
  return row;
}

void check_shape(const Matrix& matrix, const engine::TensorId& id, std::size_t rows,
                 std::size_t width) {
  if (matrix.rows == rows && matrix.columns == width) return;
  throw engine::Error(engine::tensor_name(id), "not the tensor of these tokens",
                      std::to_string(rows) + " x " + std::to_string(width),
                      std::to_string(matrix.rows) + " x " + std::to_string(matrix.columns));
}

}  // namespace

UnitSummary UnitOracle::measure(const TensorSource& inputs, const engine::TensorId& target,
                                const Matrix& output, const Matrix* reference) {
  const std::size_t tokens = inputs.tokens().size();
  const std::size_t width = engine::tensor_width(target.tensor, config());
  check_shape(output, target, tokens, width);
  if (reference != nullptr) check_shape(*reference, target, tokens, width);

  UnitSummary summary;
  std::vector<Row> rows(tokens);
  std::vector<double> sample;
  const std::size_t total = tokens * width;
  // Odd, so that a power of two columns does not always give the same ones.
  const std::size_t every = total <= sample_size ? 1 : (total / sample_size) | 1;
  summary.unit =
      visit(inputs, target,
            [&](std::size_t first, std::size_t count, const double* value, const double* bound) {
              parallel_items(team_, count, [&](std::size_t item, std::size_t) {
                const std::size_t token = first + item;
                rows[token] = sum_up(value + item * width, bound + item * width, output.row(token),
                                     reference == nullptr ? nullptr : reference->row(token), width);
              });
              const std::size_t begin = first * width;
              const std::size_t end = begin + count * width;
              for (std::size_t i = (begin + every - 1) / every * every; i < end; i += every) {
                sample.push_back(bound[i - begin]);
              }
            });
  summary.elements = total;
  double value2 = 0.0, own2 = 0.0, inherited2 = 0.0, difference2 = 0.0;
  for (std::size_t token = 0; token < tokens; ++token) {
    const Row& row = rows[token];
    summary.without_bound += row.without_bound;
    summary.over_bound += row.over_bound;
    if (row.largest_ratio > summary.largest_ratio) {
      summary.largest_ratio = row.largest_ratio;
      summary.worst_token = token;
      summary.worst_channel = row.worst;
    }
    if (row.over_bound > 0 && !summary.first_over) summary.first_over = {token, row.first_over};
    summary.largest_own = std::max(summary.largest_own, row.largest_own);
    value2 += row.value2;
    own2 += row.own2;
    inherited2 += row.inherited2;
    difference2 += row.difference2;
    const auto columns = static_cast<double>(width);
    summary.ratio_of_tokens.push_back(row.largest_ratio);
    summary.own_of_tokens.push_back(std::sqrt(row.own2 / columns));
    if (reference != nullptr) {
      summary.inherited_of_tokens.push_back(std::sqrt(row.inherited2 / columns));
    }
  }
  const auto elements = static_cast<double>(std::max<std::size_t>(total, 1));
  summary.rms_value = std::sqrt(value2 / elements);
  summary.rms_own = std::sqrt(own2 / elements);
  summary.rms_inherited = std::sqrt(inherited2 / elements);
  summary.rms_difference = std::sqrt(difference2 / elements);
  if (!sample.empty()) {
    const auto middle = sample.begin() + static_cast<std::ptrdiff_t>(sample.size() / 2);
    std::nth_element(sample.begin(), middle, sample.end());
    summary.median_bound = *middle;
  }
  return summary;
}

}  // namespace neoxref::eval
