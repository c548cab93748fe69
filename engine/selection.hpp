// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/attended.hpp"
#include "engine/kv_cache.hpp"
#include "engine/press.hpp"

namespace neoxref::engine {

/// What a score may look at: one head at a cut.
struct Scored {
  const KvCache* cache;
  const Attended* attended;  ///< for scores that rank by attention
  std::size_t layer;
  std::size_t head;
  std::size_t slots;
  std::size_t rotary_dims;
  const float* key_bias;  ///< [head_dim]; null where the model has none
  std::size_t cuts;       ///< that this layer has had
  std::size_t position;   ///< tokens that have entered
};

/// scores [slots]: higher is kept. knorm reads the stored norms; nothing else is cached.
/// work   max(head_dim, slots) doubles. Not for the score `own`.
void score_slots(const Press& press, const Scored& head, double* work, float* scores);

/// The score `own` of a layer whose heads have as many slots each: scores [heads, slots].
/// Errors: Error for NaN; what the score throws.
void score_layer(const OwnScore& own, const KvCache& cache, std::size_t layer, std::size_t slots,
                 float* scores);

/// The slots to keep, ascending: the first `sinks` and the last `recent`, then those of the highest
/// score among the others, ties to the lower slot, `keep` in all.
/// scores [slots], NaN below all others; ranking, kept: room for `slots`. sinks + recent <= keep <= slots,
/// or keep = slots.
void select_highest(const float* scores, std::size_t slots, std::size_t keep, std::size_t sinks,
                    std::size_t recent, std::uint64_t* ranking, std::uint32_t* kept);

/// The numbers 0 .. count - 1 of the kept slots, the best of them first, ties to the lower slot.
/// order [count]; may not be `kept`.
void rank_kept(const float* scores, const std::uint32_t* kept, std::size_t count,
               std::uint64_t* order);

}  // namespace neoxref::engine
