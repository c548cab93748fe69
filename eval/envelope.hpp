// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/parallel.hpp"
#include "engine/tensors.hpp"
#include "eval/matrices.hpp"
#include "eval/profiles.hpp"

namespace neoxref::eval {

struct EnvelopeOptions {
  std::size_t runs = 8;
  std::uint64_t seed = 1;
  std::string isa{};
};

/// What the runs of an envelope, and another's tensors, are off the binary64 truth from the ids.
struct EnvelopeOfTensor {
  double rms_truth = 0.0;
  std::vector<double> rms_of_runs;      ///< [runs] RMS error over the whole tensor
  std::vector<double> rms_of_tokens;    ///< [tokens] over all runs and channels
  double rms = 0.0;                     ///< over all runs
  double rms_other = 0.0;               ///< of the other source; NaN where it has no such tensor
  std::vector<double> other_of_tokens;  ///< [tokens], empty where it has no such tensor
};

/// How far apart honest backends of a profile come to be over a whole model. Statistical: never a bound.
/// What is simulated and what is not: docs/bounds.md.
struct Envelope {
  std::string profile;
  std::map<engine::TensorId, EnvelopeOfTensor> tensors;
  double logit_error_999 = 0.0;  ///< 99.9 % quantile of |logit error|, all runs, tokens, channels
  std::vector<double> truth_margin;        ///< [tokens] largest minus second-largest true logit
  std::vector<std::int32_t> truth_argmax;  ///< [tokens]
};

/// Sees each tensor of each run as it comes to be, in the order of execution; rows are tokens. For
/// embed_out columns come in pieces [first_column, first_column + columns). Called from one thread.
using EnvelopeWatcher = std::function<void(
    const engine::TensorId& id, std::size_t run, std::size_t first_column, std::size_t columns,
    const float* values, const double* truth, std::size_t stride)>;

/// `runs` seeded whole-model runs side by side with the truth, tensor by tensor.
/// other   may be null; its tensors are measured against the same truth.
/// Errors: as UnitOracle::visit.
Envelope make_envelope(const engine::Checkpoint& checkpoint, engine::Team& team,
                       const Profile& profile, std::span<const std::int32_t> tokens,
                       const EnvelopeOptions& options, const TensorSource* other = nullptr,
                       const EnvelopeWatcher& watcher = {});

}  // namespace neoxref::eval
