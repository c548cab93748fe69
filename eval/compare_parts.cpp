// SPDX-License-Identifier: Apache-2.0
#include "eval/compare_parts.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/error.hpp"
#include "engine/safetensors.hpp"

namespace neoxref::eval {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Takes one element after another into a summary.
class Summing {
public:
  explicit Summing(UnitSummary& summary) : summary_(summary) {}

  void add(std::size_t token, std::size_t channel, double other, double value, double bound) {
    const double own = std::isfinite(other) ? std::fabs(other - value) : infinity;
    ++summary_.elements;
    values_ += value * value;
    owns_ += own * own;
    summary_.largest_own = std::max(summary_.largest_own, own);
    bounds_.push_back(bound);
    if (!std::isfinite(bound)) {
      ++summary_.without_bound;
      return;
    }
    const double ratio = own == 0.0 ? 0.0 : own / bound;
    if (!(own <= bound)) {
      ++summary_.over_bound;
      if (!summary_.first_over) summary_.first_over = {token, channel};
    }
    if (ratio > summary_.largest_ratio) {
      summary_.largest_ratio = ratio;
      summary_.worst_token = token;
      summary_.worst_channel = channel;
    }
    token_ratio_ = std::max(token_ratio_, ratio);
  }

  void end_token() {
    summary_.ratio_of_tokens.push_back(token_ratio_);
    token_ratio_ = 0.0;
  }

  void finish() {
    const double n = static_cast<double>(std::max<std::size_t>(summary_.elements, 1));
    summary_.rms_value = std::sqrt(values_ / n);
    summary_.rms_own = std::sqrt(owns_ / n);
    if (!bounds_.empty()) summary_.median_bound = quantile(std::move(bounds_), 0.5);
  }

private:
  UnitSummary& summary_;
  double values_ = 0.0, owns_ = 0.0, token_ratio_ = 0.0;
  std::vector<double> bounds_;
};

}  // namespace

UnitSummary measure_part(UnitOracle& oracle, const TensorSource& inputs,
                         const engine::TensorId& target, QkvPart part, const Mapped& mapped,
                         std::size_t heads) {
  UnitSummary summary;
  Summing summing(summary);
  const Matrix& matrix = mapped.matrix;
  const bool is_part = part != QkvPart::whole;
  const std::size_t width = is_part ? 3 * matrix.columns : matrix.columns;
  const std::size_t head_dim = matrix.columns / heads;
  const auto column = [&](std::size_t c) {
    if (!is_part) return c;
    return (c / head_dim * 3 + static_cast<std::size_t>(part) - 1) * head_dim + c % head_dim;
  };
  summary.unit = oracle.visit(
      inputs, target,
      [&](std::size_t first, std::size_t rows, const double* value, const double* bound) {
        for (std::size_t i = 0; i < rows; ++i) {
          const std::size_t token = first + i;
          if (token < mapped.first_token || token >= mapped.first_token + matrix.rows) continue;
          const float* const other = matrix.row(token - mapped.first_token);
          for (std::size_t c = 0; c < matrix.columns; ++c) {
            const std::size_t from = i * width + column(c);
            summing.add(token, column(c), static_cast<double>(other[c]), value[from], bound[from]);
          }
          summing.end_token();
        }
      });
  summing.finish();
  return summary;
}

Matrix log_base(const Matrix& logits) {
  constexpr double depth = 16.0;
  Matrix result = logits;
  for (std::size_t i = 0; i < logits.rows; ++i) {
    const float* const row = logits.row(i);
    const double most = static_cast<double>(*std::max_element(row, row + logits.columns));
    double sum = 0.0;
    for (std::size_t c = 0; c < logits.columns; ++c) {
      sum += std::exp(static_cast<double>(row[c]) - most);
    }
    for (std::size_t c = 0; c < logits.columns; ++c) {
      const double below = std::max(static_cast<double>(row[c]) - most, -depth);
      result.row(i)[c] = static_cast<float>(below - std::log(sum));
    }
  }
  return result;
}

void measure_against(EnvelopeOfTensor& envelope, const TensorReport& report) {
  double sum = 0.0;
  const std::size_t rows = report.figures.rows;
  for (std::size_t i = 0; i < rows; ++i) {
    const double rms = envelope.rms_of_tokens.at(report.first_token + i);
    sum += rms * rms;
  }
  envelope.rms = std::sqrt(sum / static_cast<double>(std::max<std::size_t>(rows, 1)));
  envelope.rms_other = report.figures.rms;
  envelope.other_of_tokens = report.figures.rms_of_tokens;
}

void measure_rotary(const UnitOracle& oracle, const ForeignSource& other, std::size_t array,
                    const engine::Config& config, bool sine, TensorReport& report) {
  const std::size_t half = config.rotary_dims / 2;
  // Frameworks keep each angle twice, once for each half of the dimensions that turn.
  const bool twice = other.last_extent(array) == config.rotary_dims && half > 0;
  const Matrix found = other.plain(array, twice ? 2 * half : half);
  if (found.rows > config.max_positions) {
    throw engine::Error(report.other_name, "more positions than the model has",
                        std::to_string(config.max_positions), std::to_string(found.rows));
  }
  const UnitResult table = oracle.rotary_table(sine, found.rows);
  Matrix reference{found.rows, found.columns, std::vector<float>(found.values.size())};
  UnitSummary summary;
  Summing summing(summary);
  for (std::size_t i = 0; i < found.rows; ++i) {
    for (std::size_t c = 0; c < found.columns; ++c) {
      const double value = table.value.row(i)[c % half];
      reference.row(i)[c] = static_cast<float>(value);
      summing.add(i, c, static_cast<double>(found.row(i)[c]), value, table.bound.row(i)[c % half]);
    }
    summing.end_token();
  }
  summing.finish();
  report.figures = error_figures(found, reference, 0);
  report.verdict = judge(summary, nullptr);
  report.unit = std::move(summary);
}

}  // namespace neoxref::eval
