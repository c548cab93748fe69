// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "engine/config.hpp"
#include "engine/weights.hpp"

namespace neoxref::eval {

/// The work of one piece of inference, by the model of docs/performance.md ("What a row is measured
/// against"). A multiplication with its addition is two operations; only matrix products and the two
/// products of attention count.
struct Cost {
  double matrix_flops = 0.0;     ///< weights times activations, logits included
  double weight_bytes = 0.0;     ///< packed matrices, read once
  double attention_flops = 0.0;  ///< scores and weighted values
  double cache_bytes = 0.0;      ///< keys and values read

  double flops() const { return matrix_flops + attention_flops; }
  double bytes() const { return weight_bytes + cache_bytes; }
  /// Seconds below which no machine of these limits does it: what is computed and what is read of
  /// the weights overlap perfectly, likewise of the cache, and one comes after the other.
  double least_seconds(double flops_per_second, double bytes_per_second) const;
  /// Of these, the seconds of what computing bounds, not reading.
  double computing_seconds(double flops_per_second, double bytes_per_second) const;
};

/// A prompt of `tokens` tokens of each of `batch` sequences, logits of the last position of each.
Cost prefill_cost(const engine::Config& config, const engine::Weights& weights, std::size_t tokens,
                  std::size_t batch);

/// One new token of each of `batch` sequences that sees `slots` slots, its own included, on the mean
/// over layers and heads; logits of each.
Cost decode_cost(const engine::Config& config, const engine::Weights& weights, double slots,
                 std::size_t batch);

/// Bytes of keys and values of one slot in all layers and heads.
double slot_bytes(const engine::Config& config);

}  // namespace neoxref::eval
