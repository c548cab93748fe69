// SPDX-License-Identifier: Apache-2.0
#include "eval/compare_figures.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace neoxref::eval {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Binary32 numbers in their order as whole numbers, both zeros being 0.
std::int64_t ordinal(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto magnitude = static_cast<std::int64_t>(bits & 0x7fffffffu);
  return (bits >> 31) != 0 ? -magnitude : magnitude;
}

/// log of the sum of exp over a row, and its largest value.
double log_partition(const float* row, std::size_t n) {
  const double most = static_cast<double>(*std::max_element(row, row + n));
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(row[i]) - most);
  return most + std::log(sum);
}

double divergence(const float* other, const float* reference, std::size_t n) {
  const double reference_log = log_partition(reference, n);
  const double other_log = log_partition(other, n);
  double kl = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    const double log_p = static_cast<double>(reference[i]) - reference_log;
    kl += std::exp(log_p) * (log_p - (static_cast<double>(other[i]) - other_log));
  }
  return std::max(0.0, kl);
}

constexpr std::size_t best_ids = 5;

/// The ids of the largest values, ties to the lower one; fewer where the row is shorter.
std::vector<std::size_t> largest(const float* row, std::size_t n) {
  std::vector<std::size_t> best;
  for (std::size_t i = 0; i < n; ++i) {
    std::size_t place = best.size();
    while (place > 0 && row[i] > row[best[place - 1]]) --place;
    if (place >= best_ids) continue;
    best.insert(best.begin() + static_cast<std::ptrdiff_t>(place), i);
    if (best.size() > best_ids) best.pop_back();
  }
  return best;
}

}  // namespace

std::uint32_t ulp_distance(float a, float b) {
  const std::int64_t distance = ordinal(a) - ordinal(b);
  return static_cast<std::uint32_t>(distance < 0 ? -distance : distance);
}

std::size_t ulp_class(std::uint32_t distance) {
  return static_cast<std::size_t>(std::bit_width(distance));
}

double ErrorFigures::relative_rms() const {
  if (rms == 0.0) return 0.0;
  return reference_rms > 0.0 ? rms / reference_rms : infinity;
}

std::size_t ErrorFigures::ulp_quantile(double share) const {
  const double wanted = share * static_cast<double>(elements);
  double seen = 0.0;
  for (std::size_t i = 0; i < ulp_classes; ++i) {
    seen += static_cast<double>(ulps[i]);
    if (seen >= wanted) return i;
  }
  return ulp_classes - 1;
}

ErrorFigures error_figures(const Matrix& other, const Matrix& reference, std::size_t first_token) {
  ErrorFigures result;
  result.rows = other.rows;
  result.columns = other.columns;
  double errors = 0.0, references = 0.0, others = 0.0, products = 0.0;
  bool any = false;
  for (std::size_t i = 0; i < other.rows; ++i) {
    const float* const y = other.row(i);
    const float* const x = reference.row(first_token + i);
    double row_errors = 0.0, row_references = 0.0;
    std::size_t counted = 0;
    for (std::size_t c = 0; c < other.columns; ++c) {
      if (!std::isfinite(y[c]) || !std::isfinite(x[c])) {
        if (std::isfinite(x[c])) {
          if (!result.first_not_finite) result.first_not_finite = {first_token + i, c};
          ++result.not_finite;
        }
        continue;
      }
      ++counted;
      const double a = static_cast<double>(x[c]), b = static_cast<double>(y[c]);
      const double error = b - a;
      row_errors += error * error;
      row_references += a * a;
      others += b * b;
      products += a * b;
      result.equal += error == 0.0 ? 1u : 0u;
      ++result.ulps[ulp_class(ulp_distance(x[c], y[c]))];
      if (const double size = std::fabs(error); size > result.max_abs || !any) {
        any = true;
        result.max_abs = size;
        result.max_token = first_token + i;
        result.max_channel = c;
        result.reference_at_max = x[c];
        result.other_at_max = y[c];
      }
    }
    result.elements += counted;
    const double n = static_cast<double>(std::max<std::size_t>(counted, 1));
    result.rms_of_tokens.push_back(std::sqrt(row_errors / n));
    result.reference_rms_of_tokens.push_back(std::sqrt(row_references / n));
    errors += row_errors;
    references += row_references;
  }
  const double n = static_cast<double>(std::max<std::size_t>(result.elements, 1));
  result.rms = std::sqrt(errors / n);
  result.reference_rms = std::sqrt(references / n);
  if (references > 0.0 && others > 0.0) {
    result.cosine = products / std::sqrt(references * others);
  } else if (references > 0.0 || others > 0.0) {
    result.cosine = 0.0;
  }
  return result;
}

double quantile(std::vector<double> values, double share) {
  const auto wanted =
      static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size())));
  const std::size_t place = std::clamp<std::size_t>(wanted, 1, values.size()) - 1;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(place),
                   values.end());
  return values[place];
}

LogitFigures logit_figures(const Matrix& other, const Matrix& reference, std::size_t first_token) {
  LogitFigures result;
  result.first_token = first_token;
  result.tokens = other.rows;
  const std::size_t n = other.columns;
  double sum = 0.0;
  std::size_t same = 0, shared = 0, asked = 0;
  for (std::size_t i = 0; i < other.rows; ++i) {
    const float* const y = other.row(i);
    const float* const x = reference.row(first_token + i);
    const bool finite = std::all_of(y, y + n, [](float value) { return std::isfinite(value); });
    const double kl = finite ? divergence(y, x, n) : infinity;
    result.kl_of_tokens.push_back(kl);
    sum += kl;
    if (kl > result.kl_max || i == 0) {
      result.kl_max = kl;
      result.kl_max_token = first_token + i;
    }
    const std::vector<std::size_t> wanted = largest(x, n);
    const std::vector<std::size_t> found = largest(y, n);
    asked += wanted.size();
    if (finite) {
      for (const std::size_t id : wanted) {
        shared += std::find(found.begin(), found.end(), id) != found.end() ? 1u : 0u;
      }
    }
    if (finite && wanted.front() == found.front()) {
      ++same;
      continue;
    }
    Flip flip;
    flip.token = first_token + i;
    flip.reference_id = static_cast<std::int32_t>(wanted.front());
    flip.other_id = finite ? static_cast<std::int32_t>(found.front()) : -1;
    flip.margin =
        finite ? static_cast<double>(x[wanted.front()]) - static_cast<double>(x[found.front()])
               : infinity;
    result.flips.push_back(flip);
  }
  const double rows = static_cast<double>(std::max<std::size_t>(other.rows, 1));
  result.kl_mean = sum / rows;
  result.top1 = static_cast<double>(same) / rows;
  result.top5 = static_cast<double>(shared) / static_cast<double>(std::max<std::size_t>(asked, 1));
  for (std::size_t q = 0; q < logit_quantiles.size() && other.rows > 0; ++q) {
    result.kl_quantiles[q] = quantile(result.kl_of_tokens, logit_quantiles[q]);
  }
  return result;
}

}  // namespace neoxref::eval
