// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "eval/matrices.hpp"

namespace neoxref::eval {

/// Classes of a distance in units in the last place of binary32: equal, 1, 2 to 3, 4 to 7, ...,
/// 2^31 and more. +0 and -0 are equal; numbers of other signs are as far apart as the steps between them.
inline constexpr std::size_t ulp_classes = 33;
std::uint32_t ulp_distance(float a, float b);
std::size_t ulp_class(std::uint32_t distance);

/// One tensor against its reference. All sums are binary64, in the order of the elements; elements that are
/// not finite on either side are counted and left out of them.
struct ErrorFigures {
  std::size_t rows = 0, columns = 0;
  std::size_t elements = 0;    ///< that are finite on both sides
  std::size_t not_finite = 0;  ///< NaN or infinite in OTHER and not in the reference
  std::optional<std::pair<std::size_t, std::size_t>> first_not_finite;  ///< token, channel
  std::size_t equal = 0;                                                ///< same number
  double max_abs = 0.0;       ///< largest |other - reference|,
  std::size_t max_token = 0;  ///< the first place that has it
  std::size_t max_channel = 0;
  float reference_at_max = 0.0f;
  float other_at_max = 0.0f;
  double rms = 0.0;  ///< of other - reference
  double reference_rms = 0.0;
  double cosine = 1.0;  ///< 1 where both are zero
  std::array<std::uint64_t, ulp_classes> ulps{};
  std::vector<double> rms_of_tokens;            ///< [rows]
  std::vector<double> reference_rms_of_tokens;  ///< [rows]

  /// rms / reference_rms; infinite where only the reference is zero.
  double relative_rms() const;
  /// A class such that at least this share of the elements is in it or below. share from 0 to 1.
  std::size_t ulp_quantile(double share) const;
};

/// Row i of `other` against row first_token + i of `reference`, of equal widths.
ErrorFigures error_figures(const Matrix& other, const Matrix& reference, std::size_t first_token);

/// The arg-max changed.
struct Flip {
  std::size_t token = 0;  ///< after which
  std::int32_t reference_id = 0;
  std::int32_t other_id = 0;
  double margin = 0.0;  ///< logit of reference_id - that of other_id, in binary64 where `exact`
  bool exact = false;   ///< else of the reference's float logits
  std::optional<bool> explained;  ///< the profile's rounding can do that; nothing: not known
};

/// What logits say, row by row.
struct LogitFigures {
  std::size_t first_token = 0, tokens = 0;
  double kl_mean = 0.0, kl_max = 0.0;  ///< KL(reference || other) in nats
  std::size_t kl_max_token = 0;
  std::array<double, 4> kl_quantiles{};  ///< of logit_quantiles
  double top1 = 0.0;                     ///< share of tokens with the same arg-max (ties: lower id)
  double top5 = 0.0;  ///< share of the reference's five best ids that are among OTHER's five best
  std::vector<double> kl_of_tokens;
  std::vector<Flip> flips;
};
inline constexpr std::array<double, 4> logit_quantiles = {0.5, 0.9, 0.99, 0.999};

/// Rows as error_figures. other may be log-probabilities. Rows that hold NaN or infinity count as
/// flipped, with KL infinite.
LogitFigures logit_figures(const Matrix& other, const Matrix& reference, std::size_t first_token);

/// The smallest value that at least this share of `values` does not exceed. Not empty.
double quantile(std::vector<double> values, double share);

}  // namespace neoxref::eval
