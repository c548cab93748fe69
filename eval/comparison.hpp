// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model.hpp"
#include "eval/digest.hpp"

namespace neoxref::eval {

/// What the logits of one place say of the token that follows.
struct Prediction {
  float nll = 0.0f;      ///< docs/contract.md
  std::size_t best = 0;  ///< the arg-max
  double kl = 0.0;  ///< of the distribution, from the full run's to this one; 0 for the full run
};

/// Two digests and the values that come next in both, all finite: work that shares the threads with
/// a comparison.
struct Chain {
  std::array<Digest*, 2> digests;
  std::span<const float> values;
  void go_on() const;
};

/// Compares the logits of runs with those of the full run over the same places, a chunk at a time.
///   KL = max(0, (sum of e_j * (l_j - l'_j)) / Z + (M' + log Z') - (M + log Z)),
///   e_j = exp(l_j - M) as a binary32 function of a binary32 argument, Z = sum of e_j, M = max of
///   l_j; l the full run's logits, l' the others. Sums are lane_sums (docs/contract.md), the rest is
///   binary64 with the C library's log: not bits of the contract, and within 1e-7 of the exact value.
class Comparison {
public:
  /// threads of `model` share the places. with_kl: whether compare() will be asked.
  Comparison(engine::Model& model, std::size_t most_places, bool with_kl);

  /// logits [places, vocab] and the token that follows each; they must stay until the last compare().
  void set_full(const float* logits, std::span<const std::int32_t> next,
                std::span<Prediction> predictions, std::span<const Chain> chains);
  /// Another run over the same places.
  void compare(const float* logits, std::span<Prediction> predictions,
               std::span<const Chain> chains);

private:
  static void full_item(void* context, std::uint32_t phase, std::uint32_t item,
                        std::size_t participant) noexcept;
  static void compare_item(void* context, std::uint32_t phase, std::uint32_t item,
                           std::size_t participant) noexcept;
  using Work = void (*)(void* context, std::uint32_t phase, std::uint32_t item,
                        std::size_t participant) noexcept;
  void run(Work work, const float* logits, std::span<Prediction> predictions,
           std::span<const Chain> chains);
  /// M + log Z. exponentials  out: [vocab]
  double partition(const float* logits, float max, float* exponentials, double& sum) const;

  struct Partition {
    double log;  ///< M + log Z
    double sum;  ///< Z
  };

  engine::Model& model_;
  std::size_t vocab_;
  bool with_kl_;
  std::vector<float> exponentials_;  ///< [places, vocab] of the full run
  std::vector<Partition> partitions_;
  const float* full_ = nullptr;
  const float* logits_ = nullptr;
  std::span<const std::int32_t> next_;
  std::span<Prediction> predictions_;
  std::span<const Chain> chains_;
};

}  // namespace neoxref::eval
