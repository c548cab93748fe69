// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/model.hpp"

namespace neoxref::eval {

struct Text {
  std::string name;
  std::vector<std::int32_t> tokens;
};

/// One row of a sweep. The protocol replaces the press's prune_after by the effective one.
struct RowSpec {
  std::string label;  ///< "0.9", "64 slots"
  std::optional<engine::Press> press;
};

/// Texts shorter than this are reported, not scored.
inline constexpr std::size_t least_tokens = 34;

/// P = max(32, min(prune_after, max(length - 50, floor(length / 2)))).
std::size_t effective_prune_after(std::size_t prune_after, std::size_t length);

/// One text under one press.
struct TextScore {
  std::string name;
  std::size_t tokens = 0;                 ///< L
  std::size_t effective_prune_after = 0;  ///< P
  std::size_t scored = 0;                 ///< 0: the text is too short
  double nll = 0.0;                       ///< sum over the scored tokens, in token order
  std::size_t correct = 0;                ///< scored tokens that were the argmax
  std::vector<std::size_t> cuts;          ///< per layer
  std::vector<std::size_t> lengths;       ///< per layer, slots at the end
  std::vector<engine::Cut> log;
  double mean_slots = 0.0;     ///< over scored tokens, layers: slots that the next logits see
  std::size_t peak_slots = 0;  ///< most slots over all layers at one time
  bool never_cut = false;      ///< compressed, and in some layer that is not skipped no score came
                               ///< after a cut
};

/// One press over all texts.
struct Row {
  std::string label;
  std::optional<engine::Press> press;  ///< none: the uncompressed row
  std::vector<TextScore> texts;
  std::size_t scored = 0;
  double nll = 0.0;      ///< document sums, added in order
  std::string digest;    ///< of the logits that scored tokens, in order
  double seconds = 0.0;  ///< phase 2, forward passes and cuts

  double perplexity() const;
  /// Mean over documents of their perplexities.
  double document_perplexity() const;
};

/// The two-phase protocol: of L = min(tokens, max_tokens) tokens the first P enter untouched, then
/// ids[P .. L-1] are scored (ids[P+1 .. L-1] with the trigger `reaches`, in every row) while the press
/// cuts whenever it is due. nll(ids[t]) comes from the logits after ids[t-1]; ids[L-1] never enters.
/// The uncompressed row comes first, then those of `specs`. Every text is prefilled once and forked.
/// All presses of a sweep have the same trigger and prune_after, so that all rows score the same tokens.
/// progress  called with the share done, from 0 to 1; may be empty.
/// Errors: Error for tokens or settings that the model refuses, for values that are not finite, and
/// for a run whose cuts are not those that plan() predicts.
std::vector<Row> two_phase(engine::Model& model, std::span<const Text> texts,
                           std::span<const RowSpec> specs, std::size_t max_tokens,
                           std::size_t prune_after, engine::Trigger trigger,
                           const std::function<void(double)>& progress);

/// nll of one token: log(Z) + (M - l_t), docs/contract.md.
float nll(const simd::Kernels& kernels, std::span<const float> logits, std::int32_t token);

}  // namespace neoxref::eval
