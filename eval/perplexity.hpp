// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/model.hpp"

namespace neoxref::eval {

struct Text {
  std::string name;
  std::vector<std::int32_t> tokens;
};

/// The two-phase protocol: of L = min(tokens, max_tokens) tokens the first P enter untouched, then
/// ids[P .. L-1] are scored while the press cuts whenever it is due. nll(ids[t]) comes from the
/// logits after ids[t-1]; ids[L-1] never enters.
struct TwoPhase {
  std::size_t max_tokens = 1024;
  std::size_t prune_after = 256;
  std::vector<std::size_t> skip_layers = {0};
};

/// Texts shorter than this are reported, not scored.
inline constexpr std::size_t least_tokens = 34;

/// P = max(32, min(prune_after, max(length - 50, floor(length / 2)))).
std::size_t effective_prune_after(std::size_t prune_after, std::size_t length);

/// One text under one keep_ratio.
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
  bool never_cut = false;      ///< compressed, and some layer that is not skipped was never cut
};

/// One keep_ratio over all texts.
struct Row {
  std::string keep_ratio;
  bool compressed = false;
  std::vector<TextScore> texts;
  std::size_t scored = 0;
  double nll = 0.0;      ///< document sums, added in order
  std::string digest;    ///< of the logits that scored tokens, in order
  double seconds = 0.0;  ///< phase 2, forward passes and cuts

  double perplexity() const;
  /// Mean over documents of their perplexities.
  double document_perplexity() const;
};

/// A sweep: the uncompressed row first, then one per entry of `ratios` that compresses (an entry of
/// 1 is the uncompressed row). Every text is prefilled once and forked. progress  called with the
/// share done, from 0 to 1; may be empty. Errors: Error for tokens or settings that the model
/// refuses, for values that are not finite, and for a run whose cuts are not those that plan()
/// predicts.
std::vector<Row> two_phase(engine::Model& model, std::span<const Text> texts,
                           std::span<const std::string> ratios, const TwoPhase& settings,
                           const std::function<void(double)>& progress);

/// nll of one token: log(Z) + (M - l_t), docs/contract.md.
float nll(const simd::Kernels& kernels, std::span<const float> logits, std::int32_t token);

}  // namespace neoxref::eval
