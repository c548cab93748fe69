// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/sequence.hpp"
#include "eval/sweep.hpp"

namespace neoxref::eval {

/// Errors: Error for a token of these windows that is outside the vocabulary.
void check_tokens(const Text& text, const std::vector<Window>& windows, const Layout& layout,
                  std::size_t vocab);

/// Slots over time, from the log of cuts of a window.
struct Slots {
  std::size_t sum = 0;   ///< over layers and scored tokens: slots that their logits saw
  std::size_t peak = 0;  ///< most over all layers at one time
};
Slots count_slots(const WindowScore& window, std::size_t layers);

/// cuts and since_cut of the window's tokens, from its log.
void date_scores(const WindowScore& window, TokenScore* scores);

/// Whether some scored token of the window came after a cut of this layer.
bool felt_cut(const WindowScore& window, std::size_t layer);

/// Sums of a text over its scored tokens, window by window, in their order.
/// first  1 where every window begins with a token that is not of the text, else 0.
void sum_scores(TextScore& score, const Text& text, std::size_t first);

/// Whether in some layer that is not skipped no score came after a cut; true where all are skipped.
bool was_never_cut(const TextScore& score, const engine::Press& press, std::size_t layers);

/// Holds arms of one schedule to the same slots at every step of the last window of their last text.
/// Errors: Error for two that differ.
void check_schedules(std::span<const Row> rows);

/// Bytes of the arena's pages that are in memory, by mincore(2).
std::size_t resident_bytes(const engine::KvCache& cache);

/// Makes room for windows of this many tokens.
void widen(Survival& survival, const engine::CacheShape& shape, std::size_t positions);

/// Adds the ages of what the cuts dropped.
void count_drops(const engine::Sequence& sequence, Survival& survival);

/// What the logits that score the last token of a window see. A cut right behind the last token that
/// enters has been made when the pass is over, so the slots before it are noted down.
class LastLook {
public:
  /// Before the last token enters.
  void before(const engine::Sequence& sequence);
  /// After it has entered. last: its index in the window; the survival is wide enough.
  void after(const engine::Sequence& sequence, std::size_t last, Survival& survival) const;

private:
  std::vector<std::vector<std::int32_t>> positions_;  ///< [layers * heads]
};

}  // namespace neoxref::eval
