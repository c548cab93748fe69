// SPDX-License-Identifier: Apache-2.0
// The work of each phase but the last, which is in pass_logits.cpp; pass_plan.cpp decides how it is
// divided into items, pass_cut.cpp what happens between two passes, pass_show.cpp who is told.
#include "engine/pass.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace neoxref::engine {

std::span<const Model::Pass::Wanted> Model::Pass::asked(std::size_t first_row,
                                                        std::size_t rows) const {
  const auto from = [&](std::size_t row) {
    return std::lower_bound(wanted_.begin(), wanted_.end(), row,
                            [](const Wanted& wanted, std::size_t at) { return wanted.row < at; });
  };
  return {from(first_row), from(first_row + rows)};
}

/// Of a row that nothing asked for depends on, it would be chance whether it is found.
void Model::Pass::fail(std::size_t row, std::size_t layer, Operation operation) {
  const bool behind_values = layer + 1 >= config_.layers && operation > Operation::key_norm;
  if (behind_values && asked(row, 1).empty()) return;
  const Row& place = rows_[row];
  const std::uint64_t code = (static_cast<std::uint64_t>(place.offset) << 32) |
                             (static_cast<std::uint64_t>(layer) << 8) |
                             static_cast<std::uint64_t>(operation);
  std::atomic<std::uint64_t>& first = *segments_[place.segment].first_failure;
  std::uint64_t seen = first.load(std::memory_order_relaxed);
  while (code < seen && !first.compare_exchange_weak(seen, code, std::memory_order_relaxed)) {
  }
}

Model::Pass::BlockedRows Model::Pass::normed(Scratch& scratch, std::uint32_t phase,
                                             std::size_t slot, const Norm& norm,
                                             const Extent& extent, std::size_t first,
                                             std::size_t count, std::size_t layer,
                                             Operation operation) {
  const std::size_t hidden = config_.hidden;
  const BlockedRows to{scratch.normed.data() + slot * scratch.normed.size() / 2, count};
  if (std::exchange(scratch.norm_of[slot], tag(phase, first)) == tag(phase, first)) return to;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t row = row_of(extent, first + i);
    if (!kernels_.layer_norm(x_.data() + row * hidden, hidden, norm.gamma.data(), norm.beta.data(),
                             config_.layer_norm_eps, to.at(i, 0), to.block())) {
      fail(row, layer, operation);
    }
  }
  return to;
}

void Model::Pass::multiply(Scratch& scratch, const Linear& linear, std::size_t first_output,
                           std::size_t outputs, std::size_t rows, const Side<const float>& input,
                           const Side<float>& output, std::size_t unused) {
  kernels_.product({.rows = rows,
                    .depth = linear.inputs,
                    .outputs = outputs,
                    .input = input.data,
                    .input_stride = input.stride,
                    .weights = linear.panels(first_output),
                    .bias = linear.bias_from(first_output),
                    .output = output.data,
                    .output_stride = output.stride,
                    .scratch = scratch.product.data(),
                    .unused = unused,
                    .period = linear.group_stride(),
                    .input_block = input.block,
                    .output_block = output.block});
}

void Model::Pass::attention_in(Scratch& scratch, std::uint32_t phase, std::size_t layer,
                               std::size_t item) {
  const LayerWeights& weights = weights_.layers[layer];
  const Linear& qkv = weights.query_key_value;
  const std::size_t first_row = item / qkv_grid_.groups * all_.block_rows;
  const std::size_t rows = std::min(all_.block_rows, rows_.size() - first_row);
  const std::size_t first_output = item % qkv_grid_.groups * qkv_grid_.width;
  const std::size_t outputs = std::min(qkv_grid_.width, qkv.outputs() - first_output);
  const BlockedRows norms = normed(scratch, phase, 0, weights.input_layernorm, all_, first_row,
                                   rows, layer, Operation::input_layernorm);
  const std::size_t first_head = first_output / qkv.group_stride();
  const std::size_t heads = outputs / qkv.group_stride();
  const std::span<const Wanted> asked_rows = asked(first_row, rows);
  // A row alone reads the weights again: few of them are cheaper than the whole block.
  const bool all_queries = &extent(layer) == &all_ || 8 * asked_rows.size() > rows;
  float* const output = qkv_.data() + first_row * qkv.outputs() + first_output;
  multiply(scratch, qkv, first_output, outputs, rows, norms.input(), {output, qkv.outputs()},
           all_queries ? 0 : config_.head_dim);
  for (const Wanted& wanted : all_queries ? std::span<const Wanted>() : asked_rows) {
    const std::size_t row = wanted.row - first_row;
    for (std::size_t group = 0; group < outputs; group += qkv.group_stride()) {
      multiply(scratch, qkv, first_output + group, config_.head_dim, 1, norms.input(row),
               {output + row * qkv.outputs() + group, qkv.outputs()});
    }
  }
  if (shown_) {
    if (first_output == 0) {
      show({Tensor::input_layernorm, layer}, first_row, 0, config_.hidden, norms);
    }
    show_heads(Tensor::query_key_value, layer, first_row, rows, first_head, heads);
  }
  append(layer, first_row, rows, first_head, heads, all_queries);
  if (shown_) {
    show_heads(Tensor::rotary_q, layer, first_row, rows, first_head, heads);
    show_heads(Tensor::rotary_k, layer, first_row, rows, first_head, heads);
  }
}

void Model::Pass::append(std::size_t layer, std::size_t first_row, std::size_t rows,
                         std::size_t first_head, std::size_t heads, bool all_queries) {
  const Linear& qkv = weights_.layers[layer].query_key_value;
  const std::size_t head_dim = config_.head_dim;
  const std::size_t stride = qkv.outputs();
  for (std::size_t row = first_row; row < first_row + rows;) {
    const Row& place = rows_[row];
    const Segment& segment = segments_[place.segment];
    const std::size_t run = std::min(first_row + rows - row, segment.count - place.offset);
    Sequence& sequence = *segment.step->sequence;
    for (std::size_t head = first_head; head < first_head + heads; ++head) {
      float* query = qkv_.data() + row * stride + head * qkv.group_stride();
      float* key = query + head_dim;
      const float* value = key + head_dim;
      KvCache& cache = sequence.cache;
      const std::size_t slot = cache.length(layer, head) + place.offset;
      for (std::size_t i = 0; i < run; ++i) {
        const std::size_t raw_dims = cache.raw_dims();
        std::memcpy(cache.raw(layer, head) + (slot + i) * raw_dims, key + i * stride,
                    raw_dims * sizeof(float));
        std::memcpy(cache.values(layer, head) + (slot + i) * cache.value_stride(),
                    value + i * stride, head_dim * sizeof(float));
        cache.positions(layer, head)[slot + i] =
            static_cast<std::int32_t>(sequence.position + place.offset + i);
        if (rotary_.half == 0) continue;
        const std::size_t turn =
            sequence.rotary_position(slot + i, place.offset + i) * rotary_.half;
        const auto rotate = [&](float* vector) {
          kernels_.rotate(vector, rotary_.cos.data() + turn, rotary_.sin.data() + turn,
                          2 * rotary_.half);
        };
        if (all_queries || !asked(row + i, 1).empty()) rotate(query + i * stride);
        rotate(key + i * stride);
      }
      kernels_.store_keys(key, stride, run, head_dim, cache.keys(layer, head), slot);
      cache.clear_padding(layer, head, slot, run);
      // Another thread may be at the rows that follow in the same panel, unless there are none.
      if (place.offset + run == segment.count) cache.clear_lanes(layer, head, slot + run);
    }
    row += run;
  }
}

void Model::Pass::mlp_in(Scratch& scratch, std::uint32_t phase, std::size_t layer,
                         std::size_t item) {
  const LayerWeights& weights = weights_.layers[layer];
  const Linear& up = weights.dense_h_to_4h;
  const Extent& here = extent(layer);
  const std::size_t first_row = item / here.up.groups * here.block_rows;
  const std::size_t rows = std::min(here.block_rows, here.rows - first_row);
  const std::size_t first_output = item % here.up.groups * here.up.width;
  const std::size_t outputs = std::min(here.up.width, up.group_outputs - first_output);
  const BlockedRows norms = normed(scratch, phase, 1, weights.post_attention_layernorm, here,
                                   first_row, rows, layer, Operation::post_attention_layernorm);
  const BlockedRows act = blocked(act_, here, first_row, config_.intermediate);
  multiply(scratch, up, first_output, outputs, rows, norms.input(), act.output(first_output));
  if (shown_) {
    if (first_output == 0) {
      show({Tensor::post_attention_layernorm, layer}, first_row, 0, config_.hidden, norms);
    }
    show({Tensor::dense_h_to_4h, layer}, first_row, first_output, outputs, act);
  }
  const auto activate = [&](float* values, std::size_t n) {
    kernels_.map(config_.activation, values, values, n);
  };
  // Whole blocks are one piece of memory.
  const std::size_t rest = outputs % simd::dot_block;
  const std::size_t whole = outputs - rest;
  activate(act.at(0, first_output), whole * rows);
  for (std::size_t row = 0; rest > 0 && row < rows; ++row) {
    activate(act.at(row, first_output + whole), rest);
  }
  if (shown_) show({Tensor::act, layer}, first_row, first_output, outputs, act);
}

void Model::Pass::attend(Scratch& scratch, std::size_t layer, std::size_t item) {
  const Queries& queries = extent(layer).queries[item / config_.heads];
  const std::size_t head = item % config_.heads;
  const Segment& segment = segments_[queries.segment];
  KvCache& cache = segment.step->sequence->cache;
  const std::size_t slots = cache.length(layer, head);
  // All keys of this head are in place now, so the first item of a segment takes their norms.
  if (queries.first == 0 && !kernels_.key_norms(cache.keys(layer, head), config_.head_dim, slots,
                                                segment.count, cache.norms(layer, head))) {
    for (std::size_t i = 0; i < segment.count; ++i) {
      const float norm = cache.norms(layer, head)[slots + i];
      if (!(norm - norm == 0.0f)) fail(segment.first_row + i, layer, Operation::key_norm);
    }
  }
  const Linear& qkv = weights_.layers[layer].query_key_value;
  Sequence& sequence = *segment.step->sequence;
  const bool watched = sequence.watched();
  for (std::size_t done = 0; done < queries.count; done += query_block) {
    const std::size_t first = queries.first + done;
    const std::size_t count = std::min(query_block, queries.count - done);
    const std::size_t row = segment.first_row + first;
    float* const context = scratch.context.data();
    kernels_.attention({.queries = count,
                        .first_slots = slots + first + 1,
                        .head_dim = config_.head_dim,
                        .query = qkv_.data() + row * qkv.outputs() + head * qkv.group_stride(),
                        .query_stride = qkv.outputs(),
                        .keys = cache.keys(layer, head),
                        .values = cache.values(layer, head),
                        .value_stride = cache.value_stride(),
                        .scale = scale_,
                        .output = context,
                        .output_stride = config_.head_dim,
                        .scratch = scratch.attention.data(),
                        .weights = watched ? scratch.weights.data() : nullptr,
                        .weights_stride = cache.capacity()});
    put_context(extent(layer), queries.to + done, count, head, context);
    if (shown_) {
      show({Tensor::context, layer}, row, count, head * config_.head_dim, config_.head_dim, context,
           config_.head_dim);
    }
    const auto tell = [&](AttentionWatcher& watcher) {
      watcher.see(layer, head, sequence.position + first, count, slots + first + 1,
                  scratch.weights.data(), cache.capacity());
    };
    if (sequence.attended) tell(*sequence.attended);
    if (sequence.watcher != nullptr) tell(*sequence.watcher);
  }
}

/// The blocks of rows of the phase that follows, where a head may begin inside a block of columns.
void Model::Pass::put_context(const Extent& extent, std::size_t first_row, std::size_t rows,
                              std::size_t head, const float* values) {
  const std::size_t head_dim = config_.head_dim;
  for (std::size_t i = 0; i < rows; ++i) {
    const std::size_t row = (first_row + i) % extent.block_rows;
    const BlockedRows to = blocked(context_, extent, first_row + i - row, config_.hidden);
    for (std::size_t done = 0; done < head_dim;) {
      const std::size_t column = head * head_dim + done;
      const std::size_t width =
          std::min(head_dim - done, simd::dot_block - column % simd::dot_block);
      std::memcpy(to.at(row, column), values + i * head_dim + done, width * sizeof(float));
      done += width;
    }
  }
}

void Model::Pass::out(Scratch& scratch, Kind kind, std::size_t layer, std::size_t item) {
  const LayerWeights& weights = weights_.layers[layer];
  const std::size_t hidden = config_.hidden;
  const Extent& here = extent(layer);
  const std::size_t first_row = item / here.out.groups * here.block_rows;
  const std::size_t rows = std::min(here.block_rows, here.rows - first_row);
  const std::size_t first = item % here.out.groups * here.out.width;
  const std::size_t width = std::min(here.out.width, hidden - first);
  float* attn = scratch.output.data();
  float* mlp = attn + (kind == Kind::both_out ? rows * width : 0);
  if (kind != Kind::mlp_out) {
    const BlockedRows context = blocked(context_, here, first_row, hidden);
    multiply(scratch, weights.dense, first, width, rows, context.input(), {attn, width});
  }
  if (kind != Kind::attention_out) {
    const BlockedRows act = blocked(act_, here, first_row, config_.intermediate);
    multiply(scratch, weights.dense_4h_to_h, first, width, rows, act.input(), {mlp, width});
  }
  if (shown_ && kind != Kind::mlp_out) {
    show({Tensor::dense, layer}, first_row, rows, first, width, attn, width);
  }
  if (shown_ && kind != Kind::attention_out) {
    show({Tensor::dense_4h_to_h, layer}, first_row, rows, first, width, mlp, width);
  }
  for (std::size_t row = 0; row < rows; ++row) {
    float* x = x_.data() + row_of(here, first_row + row) * hidden + first;
    if (kind == Kind::both_out) {
      kernels_.add3(attn + row * width, mlp + row * width, x, x, width);
    } else {
      kernels_.add(attn + row * width, x, x, width);
    }
  }
  if (shown_ && kind != Kind::attention_out) {
    show({Tensor::layer_output, layer}, first_row, rows, first, width,
         x_.data() + first_row * hidden + first, hidden);
  }
}

void Model::Pass::work(void* context, std::uint32_t phase, std::uint32_t item,
                       std::size_t participant) noexcept {
  auto& pass = *static_cast<Pass*>(context);
  Scratch& scratch = pass.scratch_[participant];
  const PhaseInfo& info = pass.infos_[phase];
  switch (info.kind) {
    case Kind::attention_in:
      pass.attention_in(scratch, phase, info.layer, item);
      break;
    case Kind::mlp_in:
      pass.mlp_in(scratch, phase, info.layer, item);
      break;
    case Kind::both_in:
      // Row blocks stay together, so that one participant normalizes them once.
      {
        const Extent& extent = pass.extent(info.layer);
        const std::size_t blocks = &extent == &pass.all_ ? extent.up.row_blocks : 1;
        const std::size_t qkv = pass.qkv_grid_.items() / blocks;
        const std::size_t up = extent.up.items() / blocks;
        const std::size_t block = item / (qkv + up);
        const std::size_t group = item % (qkv + up);
        if (group < qkv) {
          pass.attention_in(scratch, phase, info.layer, block * qkv + group);
        } else {
          pass.mlp_in(scratch, phase, info.layer, block * up + group - qkv);
        }
      }
      break;
    case Kind::attention:
      pass.attend(scratch, info.layer, item);
      break;
    case Kind::attention_out:
    case Kind::mlp_out:
    case Kind::both_out:
      pass.out(scratch, info.kind, info.layer, item);
      break;
    case Kind::logits:
      pass.logits(scratch, item);
      break;
  }
}

void Model::Pass::run(bool more) {
  ++passes_;
  shown_ = std::any_of(segments_.begin(), segments_.end(), [](const Segment& segment) {
    return segment.step->sequence->tensors != nullptr;
  });
  const bool watched = std::any_of(segments_.begin(), segments_.end(), [](const Segment& segment) {
    return segment.step->sequence->watched();
  });
  short_ = !shown_ && !watched && wanted_.size() < rows_.size();
  plan();
  for (std::size_t row = 0; row < rows_.size(); ++row) {
    const Row& place = rows_[row];
    const Segment& segment = segments_[place.segment];
    const auto token = segment.step->tokens[segment.offset + place.offset];
    weights_.embed(kernels_, static_cast<std::size_t>(token), x_.data() + row * config_.hidden);
  }
  if (shown_) {
    show({Tensor::embed_in}, 0, rows_.size(), 0, config_.hidden, x_.data(), config_.hidden);
  }
  // The logits are the last phase.
  const bool later = more && !shown_ && !wanted_.empty() && wanted_.size() < most_block_rows;
  if (later) phases_.back().items = 0;
  team_.run(phases_, this);
  if (later) defer();
}

std::optional<Model::Pass::Failure> Model::Pass::failure(const Segment& segment) const {
  const std::uint64_t code = segment.first_failure->load();
  if (code == ~std::uint64_t{0}) return std::nullopt;
  return Failure{static_cast<std::size_t>(code >> 32),
                 static_cast<std::size_t>(code >> 8) & 0xffffff,
                 static_cast<Operation>(code & 0xff)};
}

}  // namespace neoxref::engine
