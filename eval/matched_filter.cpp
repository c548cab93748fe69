// SPDX-License-Identifier: Apache-2.0
#include "eval/matched_filter.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace neoxref::eval {
namespace {

constexpr double own_share = 1e-12;

/// The inverse of a symmetric matrix on the rows that are independent; zero rows for the rest.
struct Inverse {
  std::vector<double> values;
  std::vector<bool> independent;
};

/// Gauss-Jordan with symmetric pivots: of each row what the rows before leave of it decides.
Inverse invert(std::vector<double> a, std::size_t n) {
  std::vector<double> diagonal(n);
  for (std::size_t i = 0; i < n; ++i) diagonal[i] = a[i * n + i];
  std::vector<bool> done(n);
  for (std::size_t step = 0; step < n; ++step) {
    std::size_t pivot = n;
    double largest = own_share;
    for (std::size_t i = 0; i < n; ++i) {
      if (done[i] || !(diagonal[i] > 0.0)) continue;
      const double share = a[i * n + i] / diagonal[i];
      if (share > largest) {
        largest = share;
        pivot = i;
      }
    }
    if (pivot == n) break;
    done[pivot] = true;
    // The sweep operator: swept rows hold the inverse of their block, negated.
    const double d = a[pivot * n + pivot];
    for (std::size_t i = 0; i < n; ++i) {
      if (i == pivot) continue;
      const double factor = a[i * n + pivot] / d;
      for (std::size_t j = 0; j < n; ++j) {
        if (j != pivot) a[i * n + j] -= factor * a[pivot * n + j];
      }
    }
    for (std::size_t i = 0; i < n; ++i) {
      if (i == pivot) continue;
      a[i * n + pivot] /= d;
      a[pivot * n + i] /= d;
    }
    a[pivot * n + pivot] = -1.0 / d;
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      a[i * n + j] = done[i] && done[j] ? -a[i * n + j] : 0.0;
    }
  }
  return {std::move(a), std::move(done)};
}

}  // namespace

MatchedFilter::MatchedFilter(std::size_t signatures, std::size_t clusters)
    : signatures_(signatures),
      clusters_(clusters),
      errors_(clusters),
      projections_(clusters * signatures),
      products_(clusters * signatures * signatures) {}

void MatchedFilter::add(std::size_t cluster, std::span<const double> errors,
                        std::span<const double* const> signatures,
                        std::span<const double> weights) {
  double square = 0.0;
  std::vector<double> projections(signatures_);
  std::vector<double> products(signatures_ * signatures_);
  for (std::size_t i = 0; i < errors.size(); ++i) square += weights[i] * errors[i] * errors[i];
  double check = square;
  for (std::size_t a = 0; a < signatures_; ++a) {
    double sum = 0.0;
    for (std::size_t i = 0; i < errors.size(); ++i) {
      sum += weights[i] * errors[i] * signatures[a][i];
    }
    projections[a] = sum;
    for (std::size_t b = 0; b <= a; ++b) {
      double product = 0.0;
      for (std::size_t i = 0; i < errors.size(); ++i) {
        product += weights[i] * signatures[a][i] * signatures[b][i];
      }
      products[a * signatures_ + b] = products[b * signatures_ + a] = product;
    }
    check += sum + products[a * signatures_ + a];
  }
  if (!std::isfinite(check)) return;
  errors_[cluster] += square;
  for (std::size_t a = 0; a < projections.size(); ++a) {
    projections_[cluster * signatures_ + a] += projections[a];
  }
  for (std::size_t a = 0; a < products.size(); ++a) {
    products_[cluster * products.size() + a] += products[a];
  }
}

void MatchedFilter::add(const MatchedFilter& other) {
  const auto sum = [](std::vector<double>& into, const std::vector<double>& from) {
    for (std::size_t i = 0; i < into.size(); ++i) into[i] += from[i];
  };
  sum(errors_, other.errors_);
  sum(projections_, other.projections_);
  sum(products_, other.products_);
}

FilterFit MatchedFilter::fit() const {
  const std::size_t n = signatures_;
  std::vector<double> product(n * n);
  std::vector<double> projection(n);
  for (std::size_t c = 0; c < clusters_; ++c) {
    for (std::size_t a = 0; a < n; ++a) projection[a] += projections_[c * n + a];
    for (std::size_t a = 0; a < n * n; ++a) product[a] += products_[c * n * n + a];
  }
  const Inverse inverse = invert(product, n);
  FilterFit fit;
  fit.beta.resize(n);
  fit.standard_error.assign(n, std::numeric_limits<double>::infinity());
  fit.errors = fit.residual = std::accumulate(errors_.begin(), errors_.end(), 0.0);
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = 0; b < n; ++b) {
      fit.beta[a] += inverse.values[a * n + b] * projection[b];
    }
    fit.residual -= fit.beta[a] * projection[a];
  }
  fit.residual = std::max(0.0, fit.residual);

  std::vector<double> meat(n * n);
  std::vector<double> score(n);
  for (std::size_t c = 0; c < clusters_; ++c) {
    bool has_signature = false;
    for (std::size_t a = 0; a < n; ++a) {
      score[a] = projections_[c * n + a];
      for (std::size_t b = 0; b < n; ++b) {
        score[a] -= products_[(c * n + a) * n + b] * fit.beta[b];
      }
      if (!inverse.independent[a]) score[a] = 0.0;
      has_signature = has_signature || products_[(c * n + a) * n + a] > 0.0;
    }
    if (!has_signature) continue;
    ++fit.clusters;
    for (std::size_t a = 0; a < n; ++a) {
      for (std::size_t b = 0; b < n; ++b) meat[a * n + b] += score[a] * score[b];
    }
  }
  if (fit.clusters < 2) return fit;
  const double correction =
      static_cast<double>(fit.clusters) / static_cast<double>(fit.clusters - 1);
  for (std::size_t a = 0; a < n; ++a) {
    if (!inverse.independent[a]) continue;
    double variance = 0.0;
    for (std::size_t b = 0; b < n; ++b) {
      for (std::size_t c = 0; c < n; ++c) {
        variance += inverse.values[a * n + b] * meat[b * n + c] * inverse.values[c * n + a];
      }
    }
    fit.standard_error[a] = std::sqrt(correction * std::max(0.0, variance));
  }
  return fit;
}

double MatchedFilter::change_when_taken() const {
  double change = 0.0;
  for (const double projection : projections_) change -= 2.0 * projection;
  for (const double product : products_) change += product;
  return change;
}

}  // namespace neoxref::eval
