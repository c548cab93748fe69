// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace neoxref::eval {

/// Least squares of errors on signatures, errors = sum of beta * signature + noise, with standard errors
/// that hold where the noise of one cluster is correlated in any way.
struct FilterFit {
  std::vector<double> beta;            ///< [signatures]
  std::vector<double> standard_error;  ///< [signatures]; infinite with fewer than two clusters
  double errors = 0.0;                 ///< weighted sum of squares of the errors
  double residual = 0.0;               ///< of what the fit leaves
  std::size_t clusters = 0;            ///< in which some signature is not 0
};

/// Inner products of errors and signatures, cluster by cluster. Memory: clusters * signatures^2.
class MatchedFilter {
public:
  MatchedFilter(std::size_t signatures, std::size_t clusters);

  /// A row of values of one cluster. A row in which something is not finite is left out.
  /// signatures  one pointer each, to as many values as there are errors.
  /// weights     1 / variance of each value.
  void add(std::size_t cluster, std::span<const double> errors,
           std::span<const double* const> signatures, std::span<const double> weights);
  /// The sums of another filter of the same shape.
  void add(const MatchedFilter& other);

  /// With G clusters the variance is (S'WS)^-1 (sum over clusters of u u') (S'WS)^-1 * G / (G - 1),
  /// u the cluster's S'W(errors - fit). A signature that is nothing beside the others, or that they
  /// make up (less than 1e-12 of it is its own), gets beta 0 and an infinite standard error.
  FilterFit fit() const;

  /// Weighted sum of squares of errors minus all signatures, less that of the errors: below 0 where the
  /// signatures, taken as they are, explain more than they spoil.
  double change_when_taken() const;

private:
  std::size_t signatures_;
  std::size_t clusters_;
  std::vector<double> errors_;       ///< [clusters]
  std::vector<double> projections_;  ///< [clusters, signatures]
  std::vector<double> products_;     ///< [clusters, signatures, signatures]
};

}  // namespace neoxref::eval
