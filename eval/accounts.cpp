// SPDX-License-Identifier: Apache-2.0
#include "eval/accounts.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/error.hpp"

namespace neoxref::eval {

void check_tokens(const Text& text, const std::vector<Window>& windows, const Layout& layout,
                  std::size_t vocab) {
  if (windows.empty()) return;
  // Also the first token scored, met before it enters, and the last, which never does.
  const std::size_t end = windows.back().begin + windows.back().tokens - (layout.bos ? 1 : 0);
  for (std::size_t i = windows.front().begin; i < end; ++i) {
    const std::int32_t token = text.tokens[i];
    if (token >= 0 && static_cast<std::size_t>(token) < vocab) continue;
    throw engine::Error(text.name, "token " + std::to_string(i) + " is outside the vocabulary",
                        "0 to " + std::to_string(vocab - 1), std::to_string(token));
  }
}

Slots count_slots(const WindowScore& window, std::size_t layers) {
  Slots slots;
  std::size_t now = 0;
  auto cut = window.log.begin();
  for (std::size_t token = 0; token + 1 < window.window.tokens; ++token) {
    now += layers;
    slots.peak = std::max(slots.peak, now);
    if (token + 1 >= window.course.first_scored) slots.sum += now;
    for (; cut != window.log.end() && cut->position == token; ++cut)
      now -= cut->before - cut->after;
  }
  return slots;
}

void date_scores(const WindowScore& window, TokenScore* scores) {
  auto cut = window.log.begin();
  std::uint32_t moments = 0;
  std::size_t last = 0;
  for (std::size_t i = 0; i < window.scored; ++i) {
    TokenScore& score = scores[i];
    const std::size_t entered = score.position - 1;  // the token that its logits come from
    for (; cut != window.log.end() && cut->position < entered; ++cut) {
      if (moments == 0 || cut->position != last) ++moments;
      last = cut->position;
    }
    score.cuts = moments;
    score.since_cut = moments == 0 ? 0 : static_cast<std::uint32_t>(entered - last);
  }
}

bool felt_cut(const WindowScore& window, std::size_t layer) {
  return window.scored > 0 &&
         std::any_of(window.log.begin(), window.log.end(), [&](const engine::Cut& cut) {
           return cut.layer == layer && cut.position + 2 < window.window.tokens;
         });
}

void sum_scores(TextScore& score, const Text& text, std::size_t first) {
  for (const WindowScore& window : score.windows) {
    for (std::size_t i = 0; i < window.scored; ++i) {
      const TokenScore& token = score.scores[window.first_token + i];
      score.nll += static_cast<double>(token.nll);
      score.full_nll += static_cast<double>(token.full_nll);
      score.kl += token.kl;
      score.correct += token.correct ? 1 : 0;
      score.agreed += token.agrees ? 1 : 0;
      score.after_cut += token.cuts > 0 ? 1 : 0;
      const std::size_t place = window.window.begin + token.position - first;
      if (!text.bytes.empty()) score.bytes += text.bytes[place];
      if (!text.word_starts.empty()) score.words += text.word_starts[place];
    }
  }
}

bool was_never_cut(const TextScore& score, const engine::Press& press, std::size_t layers) {
  bool all_skipped = true;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    if (press.skips(layer)) continue;
    all_skipped = false;
    const bool felt =
        std::any_of(score.windows.begin(), score.windows.end(),
                    [&](const WindowScore& window) { return felt_cut(window, layer); });
    if (!felt) return true;
  }
  return all_skipped;
}

void check_schedules(std::span<const Row> rows) {
  const auto same = [](const engine::Cut& a, const engine::Cut& b) {
    return a.layer == b.layer && a.position == b.position && a.before == b.before &&
           a.after == b.after;
  };
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::size_t schedule = rows[i].arm.schedule;
    const TextScore& text = rows[i].texts.back();
    if (schedule == 0 || text.windows.empty()) continue;
    // Each is held to the one before it.
    const auto other =
        std::find_if(rows.rbegin() + static_cast<std::ptrdiff_t>(rows.size() - i), rows.rend(),
                     [&](const Row& row) {
                       return row.arm.schedule == schedule && !row.texts.back().windows.empty();
                     });
    if (other == rows.rend()) continue;
    const auto& mine = text.windows.back().log;
    const auto& others = other->texts.back().windows.back().log;
    if (std::equal(mine.begin(), mine.end(), others.begin(), others.end(), same)) continue;
    throw engine::Error(text.name, "an arm and its control had other slots",
                        std::to_string(others.size()) + " cuts alike", std::to_string(mine.size()));
  }
}

std::size_t resident_bytes(const engine::KvCache& cache) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((cache.physical_bytes() + page - 1) / page);
  // mincore only looks; the arena begins at the first head's keys and at a page.
  void* const arena = const_cast<float*>(cache.keys(0, 0));
  if (mincore(arena, cache.physical_bytes(), pages.data()) != 0) {
    throw engine::Error("cache", "its resident pages cannot be counted", "", std::strerror(errno));
  }
  return page * static_cast<std::size_t>(std::count_if(
                    pages.begin(), pages.end(), [](unsigned char in) { return (in & 1) != 0; }));
}

void widen(Survival& survival, const engine::CacheShape& shape, std::size_t positions) {
  survival.layers = shape.layers;
  survival.heads = shape.heads;
  survival.drops.resize(shape.layers * shape.heads);
  if (positions <= survival.positions) return;
  const auto wider = [&](std::vector<std::uint64_t>& table) {
    std::vector<std::uint64_t> copy(shape.layers * positions);
    for (std::size_t i = 0; i < table.size(); ++i) {
      copy[i / survival.positions * positions + i % survival.positions] = table[i];
    }
    table = std::move(copy);
  };
  wider(survival.held);
  wider(survival.held_by_age);
  wider(survival.dropped_by_age);
  survival.entered.resize(positions);
  survival.positions = positions;
}

void count_drops(const engine::Sequence& sequence, Survival& survival) {
  for (const engine::Cut& cut : sequence.cuts) {
    const std::size_t per_head = cut.before - cut.after;
    for (std::size_t i = 0; i < cut.dropped.size(); ++i) {
      const std::size_t age = cut.position - static_cast<std::size_t>(cut.dropped[i]);
      ++survival.dropped_by_age[cut.layer * survival.positions + age];
      DropAges& ages = survival.drops[cut.layer * survival.heads + i / per_head];
      ages.youngest = ages.dropped == 0 ? age : std::min<std::uint64_t>(ages.youngest, age);
      ages.oldest = std::max<std::uint64_t>(ages.oldest, age);
      ages.sum += age;
      ++ages.dropped;
    }
  }
}

void LastLook::before(const engine::Sequence& sequence) {
  const engine::KvCache& cache = sequence.cache;
  const std::size_t heads = cache.shape().heads;
  positions_.resize(cache.shape().layers * heads);
  for (std::size_t i = 0; i < positions_.size(); ++i) {
    const std::int32_t* first = cache.positions(i / heads, i % heads);
    positions_[i].assign(first, first + cache.length(i / heads, i % heads));
  }
}

void LastLook::after(const engine::Sequence& sequence, std::size_t last, Survival& survival) const {
  const engine::KvCache& cache = sequence.cache;
  const std::size_t layers = cache.shape().layers;
  const std::size_t heads = cache.shape().heads;
  for (std::size_t p = 0; p <= last; ++p) survival.entered[p] += heads;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::uint64_t* const held = survival.held.data() + layer * survival.positions;
    std::uint64_t* const by_age = survival.held_by_age.data() + layer * survival.positions;
    const auto count = [&](std::int32_t position) {
      ++held[position];
      ++by_age[last - static_cast<std::size_t>(position)];
    };
    const bool cut_behind = std::any_of(
        sequence.cuts.rbegin(), sequence.cuts.rend(),
        [&](const engine::Cut& cut) { return cut.layer == layer && cut.position == last; });
    for (std::size_t head = 0; head < heads; ++head) {
      if (cut_behind) {
        for (const std::int32_t position : positions_[layer * heads + head]) count(position);
        count(static_cast<std::int32_t>(last));
      } else {
        const std::int32_t* const positions = cache.positions(layer, head);
        std::for_each(positions, positions + cache.length(layer, head), count);
      }
    }
  }
}

}  // namespace neoxref::eval
