// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/parallel.hpp"
#include "eval/matrices.hpp"
#include "eval/profiles.hpp"
#include "eval/ruled_units.hpp"

namespace neoxref::eval {

/// A known way of getting a rule wrong (docs/deviations.md has the list).
struct Deviation {
  std::string name;    ///< "eps 1e-6"
  std::string family;  ///< "eps": of a family at most one holds
  std::function<void(Rules&)> apply;
};
/// Those that are something else than this model's own rules.
std::vector<Deviation> known_deviations(const engine::Config& config);

/// A deviation holds when beta is 1 and does not when it is 0: both within their errors.
struct DeviationFinding {
  std::string name;
  double beta = 0.0;
  double standard_error = 0.0;  ///< clustered by token
  double null = 0.0;            ///< RMS of beta over runs that are honest under the profile
  /// Standard errors (with the null) that honest runs of the profile leave between beta 0 and 1.
  double power = 0.0;
  bool can_be_told = false;  ///< power is at least DeviationOptions::least_power
  bool flagged = false;
  std::vector<std::size_t> layers{};  ///< where it is flagged; number of layers: behind the last
  /// Of a flagged one: others of its family that the errors do not tell from it.
  std::vector<std::string> alternatives{};
};

/// A tensor whose own error honest runs do not have, and no known deviation accounts for.
struct UnexplainedError {
  engine::TensorId tensor;
  double ratio = 0.0;  ///< RMS of own error over that of honest runs, channels weighted alike
};

struct DeviationReport {
  std::size_t tokens = 0;                    ///< that were looked at: the first of the sequence
  std::size_t runs = 0;                      ///< honest ones that gave the null
  std::size_t layers = 0;                    ///< of the model
  std::vector<DeviationFinding> findings{};  ///< flagged ones first, the strongest first
  std::vector<UnexplainedError> unexplained{};
  bool none_explains() const { return !unexplained.empty(); }
};

struct DeviationOptions {
  std::size_t most_tokens = 128;
  std::size_t logit_columns = 2048;  ///< an even sample of the vocabulary
  double flag_at = 6.0;              ///< standard errors that beta must be from 0
  double least_power = 8.0;
  double significant = 3.0;                ///< RMS of own error over that of honest runs
  std::function<void(double)> progress{};  ///< share from 0 to 1
};

/// Looks for known deviations in what another backend computed. Only tensors that `other` has are
/// looked at, each against the nearest ones that it has before it (docs/deviations.md).
/// profile     what `honest` are runs of.
/// reference   stands in for tokens whose rows `other` does not have (NaN); may be null.
/// honest      runs of the same tokens, with at least the tensors of `other`; at least one.
/// Errors: Error for shapes that do not fit and tokens outside the vocabulary.
DeviationReport find_deviations(const engine::Checkpoint& checkpoint, engine::Team& team,
                                const Profile& profile, const TensorSource& other,
                                const TensorSource* reference,
                                std::span<const TensorSource* const> honest,
                                const DeviationOptions& options = {});

/// What find_deviations could tell from a dump with the tensors of honest[0]: findings with beta and
/// null of honest runs. Errors: as find_deviations.
DeviationReport deviation_power(const engine::Checkpoint& checkpoint, engine::Team& team,
                                const Profile& profile, std::span<const TensorSource* const> honest,
                                const DeviationOptions& options = {});

/// Seeded runs of the profile (eval/envelope.hpp) over the first tokens of a sequence.
/// like   only tensors that it has are held; null: all.
std::vector<std::unique_ptr<TensorSource>> honest_runs(const engine::Checkpoint& checkpoint,
                                                       engine::Team& team, const Profile& profile,
                                                       std::span<const std::int32_t> tokens,
                                                       const TensorSource* like, std::size_t runs,
                                                       std::uint64_t seed = 1);

}  // namespace neoxref::eval
