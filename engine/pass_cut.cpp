// SPDX-License-Identifier: Apache-2.0
// What happens between two passes: layers that are due are cut.
#include <algorithm>
#include <cstring>

#include "engine/pass.hpp"
#include "engine/selection.hpp"

namespace neoxref::engine {

void Model::Pass::turn_again(Scratch& scratch, KvCache& cache, std::size_t layer,
                             std::size_t head) {
  const std::size_t dims = cache.raw_dims();
  float* turned = scratch.turned.data();
  for (std::size_t slot = 0; slot < cache.length(layer, head); ++slot) {
    std::memcpy(turned, cache.raw(layer, head) + slot * dims, dims * sizeof(float));
    const std::size_t turn = slot * rotary_.half;
    kernels_.rotate(turned, rotary_.cos.data() + turn, rotary_.sin.data() + turn, dims);
    float* lane = cache.keys(layer, head) + slot / simd::lanes * config_.head_dim * simd::lanes +
                  slot % simd::lanes;
    for (std::size_t d = 0; d < dims; ++d) lane[d * simd::lanes] = turned[d];
  }
}

void Model::Pass::cut_item(void* context, std::uint32_t, std::uint32_t item,
                           std::size_t participant) noexcept {
  auto& pass = *static_cast<Pass*>(context);
  Scratch& scratch = pass.scratch_[participant];
  Sequence& sequence = *pass.cutting_;
  const Press& press = *sequence.press();
  KvCache& cache = sequence.cache;
  const std::size_t index = item / pass.config_.heads;
  const auto [layer, before, after] = pass.due_layers_[index];
  const std::size_t head = item % pass.config_.heads;
  const Linear& qkv = pass.weights_.layers[layer].query_key_value;
  const float* bias = qkv.bias_from(head * qkv.group_stride() + pass.config_.head_dim);
  const float* scores = scratch.scores.data();
  if (pass.layer_scores_at_.empty()) {
    score_slots(press,
                {&cache, sequence.attended ? &*sequence.attended : nullptr, layer, head, before,
                 pass.config_.rotary_dims, bias, sequence.cut_counts[layer], sequence.position},
                scratch.sums.data(), scratch.scores.data());
  } else {
    scores = pass.layer_scores_.data() + pass.layer_scores_at_[index] + head * before;
  }
  std::uint32_t* kept = scratch.kept.data();
  select_highest(scores, before, after, press.sinks, press.recent, scratch.ranking.data(), kept);
  std::int32_t* positions = cache.positions(layer, head);
  Cut& cut = sequence.cuts[sequence.cuts.size() - pass.due_layers_.size() + index];
  if (!cut.dropped.empty()) {
    std::int32_t* dropped = cut.dropped.data() + head * (before - after);
    for (std::size_t slot = 0, next = 0; slot < before; ++slot) {
      if (next < after && kept[next] == slot) {
        ++next;
      } else {
        *dropped++ = positions[slot];
      }
    }
  }
  pass.kernels_.compact_keys(cache.keys(layer, head), pass.config_.head_dim, kept, after);
  pass.kernels_.compact_rows(cache.values(layer, head), cache.value_stride(), kept, after);
  float* norms = cache.norms(layer, head);
  for (std::size_t slot = 0; slot < after; ++slot) {
    norms[slot] = norms[kept[slot]];
    positions[slot] = positions[kept[slot]];
  }
  if (cache.raw_dims() > 0) {
    float* raw = cache.raw(layer, head);
    for (std::size_t slot = 0; slot < after; ++slot) {
      std::memmove(raw + slot * cache.raw_dims(), raw + kept[slot] * cache.raw_dims(),
                   cache.raw_dims() * sizeof(float));
    }
  }
  cache.set_length(layer, head, after);
  if (sequence.attended) sequence.attended->compact(layer, head, kept, after, before);
  if (press.order == Order::score) {
    std::uint64_t* order = scratch.ranking.data();
    rank_kept(scores, kept, after, order);
    // Slot `to` gets what stood at order[to]; what stood below has moved to where order sent it from.
    for (std::size_t to = 0; to < after; ++to) {
      std::size_t from = order[to];
      while (from < to) from = order[from];
      if (from == to) continue;
      cache.swap_slots(layer, head, to, from);
      if (sequence.attended) sequence.attended->swap_slots(layer, head, to, from);
    }
  }
  if (press.positions == Positions::rerotate) pass.turn_again(scratch, cache, layer, head);
}

void Model::Pass::score_layers(Sequence& sequence) {
  const Press& press = *sequence.press();
  layer_scores_at_.clear();
  if (press.score != Score::own && press.score != Score::tova) return;
  std::size_t floats = 0;
  for (const DueLayer& due : due_layers_) {
    layer_scores_at_.push_back(floats);
    floats += config_.heads * due.before;
  }
  layer_scores_.resize(floats);
  // Unless all of it goes well.
  sequence.stopped = true;
  for (std::size_t i = 0; i < due_layers_.size(); ++i) {
    const auto [layer, before, after] = due_layers_[i];
    float* scores = layer_scores_.data() + layer_scores_at_[i];
    if (press.score == Score::own) {
      score_layer(*press.own, sequence.cache, layer, before, scores);
      continue;
    }
    score_slots(press,
                {&sequence.cache, &*sequence.attended, layer, 0, before, config_.rotary_dims,
                 nullptr, sequence.cut_counts[layer], sequence.position},
                scratch_[0].sums.data(), scores);
    for (std::size_t head = 1; head < config_.heads; ++head) {
      std::copy_n(scores, before, scores + head * before);
    }
  }
  sequence.stopped = false;
}

void Model::Pass::cut(Sequence& sequence, When when) {
  due_layers_.clear();
  for (std::size_t layer = 0; layer < config_.layers; ++layer) {
    const bool due = when == When::before_token ? sequence.layer_due_before_token(layer)
                                                : sequence.layer_due_after_token(layer);
    if (!due) continue;
    const std::size_t before = sequence.cache.longest(layer);
    const std::size_t after = sequence.press()->keep(layer, before);
    if (after < before) due_layers_.push_back({layer, before, after});
  }
  if (due_layers_.empty()) return;
  const Press& press = *sequence.press();
  score_layers(sequence);
  for (const auto& [layer, before, after] : due_layers_) {
    sequence.cuts.push_back(
        {layer, sequence.position - 1, before, after, press.protection_wins(layer, before), {}});
    if (sequence.log_dropped) {
      sequence.cuts.back().dropped.resize(config_.heads * (before - after));
    }
  }
  cutting_ = &sequence;
  const Phase phase{static_cast<std::uint32_t>(due_layers_.size() * config_.heads), cut_item};
  team_.run({&phase, 1}, this);
  for (const DueLayer& due : due_layers_) ++sequence.cut_counts[due.layer];
}

}  // namespace neoxref::engine
