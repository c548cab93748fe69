// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "eval/compare.hpp"

/// Measurements that eval/units does not make by itself: of thirds and of single tokens of a tensor, of
/// the rotary table, and what may be the cause of a failure.
namespace neoxref::eval {

/// As UnitOracle::measure, of the columns and rows that `mapped` has. Without a reference.
UnitSummary measure_part(UnitOracle& oracle, const TensorSource& inputs,
                         const engine::TensorId& target, QkvPart part, const Mapped& mapped,
                         std::size_t heads);

/// Log-probabilities of rows of logits as a logit base holds them: none more than 16 below the row's
/// largest.
Matrix log_base(const Matrix& logits);

/// rms_other and rms over the tokens that the report has; the error is against the reference.
void measure_against(EnvelopeOfTensor& envelope, const TensorReport& report);

struct CauseSearch {
  std::optional<DeviationReport> found;
  std::string why_not;  ///< of nothing found, one clause
};
/// Known deviations in OTHER, unless options.causes forbids the work that it takes. options.progress runs
/// from 0 to 1. Errors: as find_deviations.
CauseSearch find_causes(const ForeignSource& other, const TensorSource& reference,
                        const engine::Checkpoint& checkpoint, engine::Team& team,
                        const UnitOracle& oracle, const CompareOptions& options);

/// Figures and verdict of rotary.cos or rotary.sin, [positions, rotary_dims / 2] or both halves alike.
void measure_rotary(const UnitOracle& oracle, const ForeignSource& other, std::size_t array,
                    const engine::Config& config, bool sine, TensorReport& report);

}  // namespace neoxref::eval
