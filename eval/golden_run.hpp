// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "engine/model.hpp"
#include "eval/golden.hpp"
#include "eval/golden_tensors.hpp"

namespace neoxref::eval {

/// What a run of a recipe shall leave behind.
struct RunRequest {
  /// Asked once for each tensor of the forward pass and each of `extras` before the run, and for each
  /// tensor of the cache behind it: where its values [shape] go, or null. May be empty.
  std::function<void*(const NamedTensor&)> keep{};
  std::vector<std::string> extras{};  ///< of extra_tensor; each must be kept
  bool digests = true;
  bool all_leaves = false;                 ///< else those of layer outputs
  std::function<void(double)> progress{};  ///< share from 0 to 1
};

/// Runs tokens from the first on and digests every tensor where it comes to be: by the threads that
/// compute, row by row. A golden's digests in its order; empty where none are asked for.
/// Only tokens, press and prompt_tokens of the recipe are looked at.
/// Errors: Error for tokens or a press that the model cannot take, and for a value that is not finite.
std::vector<TensorDigest> run_recipe(engine::Model& model, const GoldenRecipe& recipe,
                                     const RunRequest& request);

/// Errors: Error for no tokens, one outside the vocabulary, or more than the model's context.
void check_tokens(std::span<const std::int32_t> tokens, const engine::Config& config);

}  // namespace neoxref::eval
