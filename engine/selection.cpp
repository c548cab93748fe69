// SPDX-License-Identifier: Apache-2.0
#include "engine/selection.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/sampler.hpp"
#include "simd/scalar/ieee.hpp"

namespace neoxref::engine {
namespace {

/// Maps floats to integers that order as they do, -0 below +0, and every NaN to the lowest.
std::uint32_t ordered(float x) {
  if (x != x) return 0;
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// The contract's norm, sqrt(dot(x, x)), of the components [first, last).
template <class Component>
float norm(std::size_t first, std::size_t last, Component component) {
  const auto x = [&](std::size_t i) { return component(first + i); };
  return simd::scalar::square_root(simd::scalar::dot(last - first, x, x));
}

float drawn(const Press& press, const Scored& head, std::int32_t position, std::uint32_t cut) {
  const auto low = [](std::size_t x) { return static_cast<std::uint32_t>(x); };
  const std::uint32_t word =
      philox({static_cast<std::uint32_t>(position), low(head.layer), low(head.head), cut},
             {low(press.seed), low(press.seed >> 32)})[0];
  // 24 bits: every value is a binary32 number.
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

/// Above every weight: slots that the last queries brought along are worth more than any other.
constexpr float above_all = 2.0f;

void score_attention(const Press& press, const Scored& head, double* work, float* scores) {
  const Attended& attended = *head.attended;
  const std::int32_t* positions = head.cache->positions(head.layer, head.head);
  const auto age = [&](std::size_t slot) {
    return head.position - static_cast<std::size_t>(positions[slot]);
  };
  if (press.score == Score::observed || press.score == Score::observed_sum) {
    const double* sums = attended.sums(head.layer, head.head);
    for (std::size_t slot = 0; slot < head.slots; ++slot) {
      const double queries = press.score == Score::observed ? static_cast<double>(age(slot)) : 1.0;
      scores[slot] = static_cast<float>(sums[slot] / queries);
    }
    return;
  }
  const bool whole_layer = press.score == Score::tova;
  const std::size_t window = whole_layer ? std::size_t{1} : std::min(press.window, head.position);
  const std::size_t first_head = whole_layer ? 0 : head.head;
  const std::size_t heads = whole_layer ? head.cache->shape().heads : 1;
  std::fill(work, work + head.slots, 0.0);
  for (std::size_t h = first_head; h < first_head + heads; ++h) {
    for (std::size_t t = head.position - window; t < head.position; ++t) {
      const float* row = attended.row(head.layer, h, t);
      for (std::size_t slot = 0; slot < head.slots; ++slot) {
        work[slot] += static_cast<double>(row[slot]);
      }
    }
  }
  std::size_t others = head.slots;
  while (others > 0 && age(others - 1) <= window) --others;
  const std::size_t pool = whole_layer ? 1 : press.pool;
  const double count = static_cast<double>(heads * window * pool);
  for (std::size_t slot = 0; slot < others; ++slot) {
    double sum = 0.0;
    const std::size_t first = slot - std::min(slot, pool / 2);
    const std::size_t last = std::min(others - 1, slot + pool / 2);
    for (std::size_t i = first; i <= last; ++i) sum += work[i];
    scores[slot] = static_cast<float>(sum / count);
  }
  std::fill(scores + others, scores + head.slots, above_all);
}

}  // namespace

void score_layer(const OwnScore& own, const KvCache& cache, std::size_t layer, std::size_t slots,
                 float* scores) {
  const std::size_t heads = cache.shape().heads;
  const std::size_t head_dim = cache.shape().head_dim;
  std::vector<float> keys(heads * slots * head_dim);
  std::vector<float> values(keys.size());
  std::vector<float> norms(heads * slots);
  std::vector<std::int32_t> positions(heads * slots);
  for (std::size_t head = 0; head < heads; ++head) {
    const float* panels = cache.keys(layer, head);
    for (std::size_t slot = 0; slot < slots; ++slot) {
      const std::size_t to = (head * slots + slot) * head_dim;
      for (std::size_t d = 0; d < head_dim; ++d) {
        keys[to + d] =
            panels[(slot / simd::lanes * head_dim + d) * simd::lanes + slot % simd::lanes];
      }
      std::copy_n(cache.values(layer, head) + slot * cache.value_stride(), head_dim,
                  values.begin() + static_cast<std::ptrdiff_t>(to));
    }
    const auto to = static_cast<std::ptrdiff_t>(head * slots);
    std::copy_n(cache.norms(layer, head), slots, norms.begin() + to);
    std::copy_n(cache.positions(layer, head), slots, positions.begin() + to);
  }
  own.score({layer, heads, slots, head_dim, keys, values, norms, positions},
            {scores, heads * slots});
  for (std::size_t i = 0; i < heads * slots; ++i) {
    if (scores[i] != scores[i]) {
      throw Error("score " + own.name(), "a score is NaN", "numbers",
                  "NaN in layer " + std::to_string(layer) + ", head " + std::to_string(i / slots) +
                      ", slot " + std::to_string(i % slots));
    }
    scores[i] = scores[i] + 0.0f;
  }
}

void score_slots(const Press& press, const Scored& head, double* work, float* scores) {
  if (head.attended != nullptr) return score_attention(press, head, work, scores);
  const KvCache& cache = *head.cache;
  const std::size_t head_dim = cache.shape().head_dim;
  const float* norms = cache.norms(head.layer, head.head);
  const float* panels = cache.keys(head.layer, head.head);
  const float* values = cache.values(head.layer, head.head);
  const std::int32_t* positions = cache.positions(head.layer, head.head);
  const auto key = [&](std::size_t slot, std::size_t d) {
    return panels[(slot / simd::lanes * head_dim + d) * simd::lanes + slot % simd::lanes];
  };
  if (press.score == Score::keydiff) {
    // The anchor is the mean direction up to a positive factor, which ranks alike.
    std::fill(work, work + head_dim, 0.0);
    for (std::size_t slot = 0; slot < head.slots; ++slot) {
      if (norms[slot] == 0.0f) continue;
      for (std::size_t d = 0; d < head_dim; ++d) {
        work[d] += static_cast<double>(key(slot, d)) / static_cast<double>(norms[slot]);
      }
    }
  }
  for (std::size_t slot = 0; slot < head.slots; ++slot) {
    const auto whole = [&](std::size_t d) { return key(slot, d); };
    const auto value = [&](std::size_t d) { return values[slot * cache.value_stride() + d]; };
    float score = 0.0f;
    switch (press.score) {
      case Score::knorm:
        score = -norms[slot];
        break;
      case Score::knorm_high:
        score = norms[slot];
        break;
      case Score::knorm_rot:
        score = -norm(0, head.rotary_dims, whole);
        break;
      case Score::knorm_pass:
        score = -norm(head.rotary_dims, head_dim, whole);
        break;
      case Score::knorm_centered:
        score = -norm(0, head_dim, [&](std::size_t d) {
          const bool shifted = head.key_bias != nullptr && d >= head.rotary_dims;
          return shifted ? key(slot, d) - head.key_bias[d] : key(slot, d);
        });
        break;
      case Score::vnorm:
        score = norm(0, head_dim, value);
        break;
      case Score::vk_ratio: {
        const float length = norm(0, head_dim, value);
        score = length == 0.0f ? 0.0f : length / norms[slot];
        break;
      }
      case Score::recent:
        score = static_cast<float>(slot);
        break;
      case Score::keydiff: {
        double product = 0.0;
        for (std::size_t d = 0; d < head_dim; ++d) {
          product += static_cast<double>(key(slot, d)) * work[d];
        }
        const auto length = static_cast<double>(norms[slot]);
        score = length == 0.0 ? 0.0f : static_cast<float>(-(product / length));
        break;
      }
      case Score::random:
        score = drawn(press, head, positions[slot], 0);
        break;
      case Score::random_fresh:
        score = drawn(press, head, positions[slot], static_cast<std::uint32_t>(head.cuts) + 1);
        break;
      case Score::observed:
      case Score::observed_sum:
      case Score::tova:
      case Score::snapkv:
      case Score::own:
        break;
    }
    // A sum with +0 turns -0 into +0, so that the two tie.
    scores[slot] = score + 0.0f;
  }
}

void select_highest(const float* scores, std::size_t slots, std::size_t keep, std::size_t sinks,
                    std::size_t recent, std::uint64_t* ranking, std::uint32_t* kept) {
  if (sinks + recent >= slots || keep >= slots) {
    sinks = slots;
    recent = 0;
  }
  const std::size_t last = slots - recent;
  std::size_t count = 0;
  for (std::size_t slot = 0; slot < std::min(sinks, keep); ++slot) {
    kept[count++] = static_cast<std::uint32_t>(slot);
  }
  const std::size_t wanted = keep - count - std::min(recent, keep - count);
  if (wanted > 0) {
    // Lower is better here: the score upside down, and below it the slot, which breaks ties.
    const auto place = [&](std::size_t slot) {
      return (static_cast<std::uint64_t>(~ordered(scores[slot])) << 32) |
             static_cast<std::uint64_t>(slot);
    };
    std::uint64_t* end = ranking;
    for (std::size_t slot = sinks; slot < last; ++slot) *end++ = place(slot);
    std::nth_element(ranking, ranking + wanted - 1, end);
    // No two places are equal, so this one parts the kept from the others; a pass over the slots has
    // them in time order without a sort.
    const std::uint64_t worst = ranking[wanted - 1];
    for (std::size_t slot = sinks; slot < last; ++slot) {
      kept[count] = static_cast<std::uint32_t>(slot);
      count += static_cast<std::size_t>(place(slot) <= worst);
    }
  }
  for (std::size_t slot = last; slot < slots && count < keep; ++slot) {
    kept[count++] = static_cast<std::uint32_t>(slot);
  }
}

void rank_kept(const float* scores, const std::uint32_t* kept, std::size_t count,
               std::uint64_t* order) {
  for (std::size_t i = 0; i < count; ++i) {
    order[i] = (static_cast<std::uint64_t>(~ordered(scores[kept[i]])) << 32) | i;
  }
  std::sort(order, order + count);
  for (std::size_t i = 0; i < count; ++i) order[i] &= 0xffffffffu;
}

}  // namespace neoxref::engine
