// SPDX-License-Identifier: Apache-2.0
// How a pass is cut into items. Nothing here can change a bit; everything here is speed.
#include <algorithm>
#include <cmath>

#include "engine/pass.hpp"

namespace neoxref::engine {
namespace {

/// Items for each thread in a phase: enough that the last ones to finish leave little waiting.
constexpr std::size_t items_per_thread = 6;
/// Narrower items would mostly claim tickets.
constexpr std::size_t least_width_few_rows = 64;
/// A thread norms a block of rows before its first item of them and fetches it into its own cache, so items
/// should be wide; but where there are fewer blocks of rows than threads, narrower ones are all that keeps
/// the others busy.
std::size_t least_width_many_rows(std::size_t row_blocks, std::size_t threads) {
  if (row_blocks >= threads) return 256;
  return 2 * row_blocks >= threads ? 256 : 128;
}
/// Widest piece of logits that is computed beside its place, for batches.
constexpr std::size_t most_logits_width = 4096;

std::size_t blocks(std::size_t n, std::size_t size) {
  return (n + size - 1) / size;
}

}  // namespace

Model::Pass::Pass(const Config& config, const Weights& weights, const simd::Kernels& kernels,
                  Team& team)
    : config_(config),
      weights_(weights),
      kernels_(kernels),
      team_(team),
      rotary_(config, kernels),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)))),
      x_(max_rows * config.hidden),
      qkv_(max_rows * weights.layers.front().query_key_value.outputs()),
      context_(max_rows * simd::round_up(config.hidden, simd::dot_block)),
      act_(max_rows * simd::round_up(config.intermediate, simd::dot_block)),
      deferred_normed_(most_deferred * config.hidden),
      scratch_(team.threads()) {
  const auto phase = [&](Kind kind, std::size_t layer) {
    infos_.push_back({kind, layer});
    phases_.push_back({0, work});
  };
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    phase(config.parallel_residual ? Kind::both_in : Kind::attention_in, layer);
    phase(Kind::attention, layer);
    if (config.parallel_residual) {
      phase(Kind::both_out, layer);
    } else {
      phase(Kind::attention_out, layer);
      phase(Kind::mlp_in, layer);
      phase(Kind::mlp_out, layer);
    }
  }
  phase(Kind::logits, config.layers);
  rows_.reserve(max_rows);
  wanted_.reserve(max_rows);
  deferred_.reserve(most_deferred);
  due_layers_.reserve(config.layers);
  const std::size_t product =
      std::max(simd::product_scratch(most_block_rows, config.hidden),
               simd::product_scratch(most_block_rows, config.intermediate, true));
  for (Scratch& scratch : scratch_) {
    scratch.normed =
        Buffer<float>(2 * most_block_rows * simd::round_up(config.hidden, simd::dot_block));
    scratch.product = Buffer<float>(product);
    scratch.context = Buffer<float>(query_block * config.head_dim);
    scratch.output =
        Buffer<float>(most_block_rows * std::max(2 * config.hidden, most_logits_width));
    scratch.sums = Buffer<double>(config.head_dim);
    scratch.turned = Buffer<float>(config.rotary_dims);
  }
}

void Model::Pass::reserve(std::size_t steps, std::size_t slots, bool watched) {
  segments_.reserve(steps);
  all_.queries.reserve(steps + max_rows / query_block);
  asked_.queries.reserve(2 * steps + max_rows / query_block);
  if (failures_size_ < steps) {
    failures_ = std::make_unique<std::atomic<std::uint64_t>[]>(steps);
    failures_size_ = steps;
  }
  const std::size_t floats = simd::attention_scratch(query_block, slots, config_.head_dim);
  for (Scratch& scratch : scratch_) {
    if (scratch.attention.size() < floats) scratch.attention = Buffer<float>(floats);
    if (scratch.kept.size() < slots) {
      scratch.scores = Buffer<float>(slots);
      scratch.kept = Buffer<std::uint32_t>(slots);
      scratch.ranking = Buffer<std::uint64_t>(slots);
      scratch.sums = Buffer<double>(std::max(config_.head_dim, slots));
    }
    if (watched && scratch.weights.size() < query_block * slots) {
      scratch.weights = Buffer<float>(query_block * slots);
    }
  }
}

void Model::Pass::clear() {
  segments_.clear();
  rows_.clear();
  wanted_.clear();
  all_.queries.clear();
  asked_.queries.clear();
}

void Model::Pass::add(Step& step, std::size_t offset, std::size_t count) {
  std::atomic<std::uint64_t>& failure = failures_[segments_.size()];
  failure.store(~std::uint64_t{0});
  const auto segment = static_cast<std::uint32_t>(segments_.size());
  segments_.push_back({&step, offset, rows_.size(), count, &failure});
  const std::size_t first_row = rows_.size();
  const std::size_t first_wanted = wanted_.size();
  for (std::size_t i = 0; i < count; ++i) {
    const bool last = offset + i + 1 == step.tokens.size();
    const auto row = static_cast<std::uint32_t>(rows_.size());
    if (step.rows == LogitRows::all) {
      wanted_.push_back({row, step.logits + (offset + i) * config_.vocab});
    } else if (step.rows == LogitRows::last && last) {
      wanted_.push_back({row, step.logits});
    }
    rows_.push_back({segment, static_cast<std::uint32_t>(i)});
  }
  if (step.sequence->watched()) {
    // Whoever watches a head sees its queries in order: one item.
    all_.queries.push_back(
        {segment, 0, static_cast<std::uint32_t>(count), static_cast<std::uint32_t>(first_row)});
    return;
  }
  add_queries(all_, segment, 0, count, first_row);
  // What is asked for of a segment is all of it, its last row, or nothing.
  const std::size_t asked = wanted_.size() - first_wanted;
  if (asked < count) asked_.queries.push_back({segment, 0, 0, 0});
  add_queries(asked_, segment, count - asked, asked, first_wanted);
}

void Model::Pass::add_queries(Extent& extent, std::size_t segment, std::size_t first,
                              std::size_t count, std::size_t to) {
  // In the order of rows, as the items of the phases around them: their rows stay with their core.
  for (std::size_t begin = 0; begin < count; begin += query_block) {
    extent.queries.push_back({static_cast<std::uint32_t>(segment),
                              static_cast<std::uint32_t>(first + begin),
                              static_cast<std::uint32_t>(std::min(query_block, count - begin)),
                              static_cast<std::uint32_t>(to + begin)});
  }
}

std::size_t Model::Pass::block_rows(std::size_t rows) const {
  if (rows == 0) return 0;
  // Alone, whole blocks and a rest are faster, unless the rest is short: it reads all weights again.
  const std::size_t rest = rows % most_block_rows;
  if (team_.threads() == 1 && (rest == 0 || rest >= 24)) return std::min(rows, most_block_rows);
  std::size_t count = blocks(rows, most_block_rows);
  if (count > team_.threads()) count = blocks(count, team_.threads()) * team_.threads();
  return blocks(rows, count);
}

Model::Pass::Grid Model::Pass::grid(std::size_t rows, std::size_t outputs, std::size_t unit) const {
  Grid grid;
  if (rows == 0) return grid;
  const std::size_t block = block_rows(rows);
  grid.row_blocks = blocks(rows, block);
  const std::size_t threads = team_.threads();
  const std::size_t wanted = threads == 1 ? 1 : blocks(threads * items_per_thread, grid.row_blocks);
  const std::size_t least =
      block > 8 ? least_width_many_rows(grid.row_blocks, threads) : least_width_few_rows;
  grid.width = simd::round_up(std::max(blocks(outputs, wanted), std::min(least, outputs)), unit);
  grid.groups = blocks(outputs, grid.width);
  return grid;
}

void Model::Pass::plan_logits() {
  wanted_block_rows_ = block_rows(wanted_.size());
  logits_grid_ = grid(wanted_.size(), config_.vocab, simd::lanes);
  if (logits_grid_.width > most_logits_width) {
    const std::size_t groups =
        simd::round_up(blocks(config_.vocab, most_logits_width), team_.threads());
    logits_grid_.width = simd::round_up(blocks(config_.vocab, groups), simd::lanes);
    logits_grid_.groups = blocks(config_.vocab, logits_grid_.width);
  }
}

void Model::Pass::plan(Extent& extent, std::size_t rows) {
  extent.rows = rows;
  extent.block_rows = block_rows(rows);
  // Of rows that lie in blocks of columns, an item has whole ones.
  extent.up =
      grid(rows, config_.intermediate, extent.block_rows > 1 ? simd::dot_block : simd::lanes);
  extent.out = grid(rows, config_.hidden, simd::lanes);
}

void Model::Pass::plan() {
  const Linear& qkv = weights_.layers.front().query_key_value;
  qkv_grid_ = grid(rows_.size(), qkv.outputs(), qkv.group_stride());
  plan(all_, rows_.size());
  plan(asked_, wanted_.size());
  plan_logits();
  for (std::size_t i = 0; i < phases_.size(); ++i) {
    std::size_t items = 0;
    const Extent& here = extent(infos_[i].layer);
    switch (infos_[i].kind) {
      case Kind::attention_in:
        items = qkv_grid_.items();
        break;
      case Kind::mlp_in:
        items = here.up.items();
        break;
      case Kind::both_in:
        items = qkv_grid_.items() + here.up.items();
        break;
      case Kind::attention:
        items = here.queries.size() * config_.heads;
        break;
      case Kind::attention_out:
      case Kind::mlp_out:
      case Kind::both_out:
        items = here.out.items();
        break;
      case Kind::logits:
        items = logits_grid_.items();
        break;
    }
    phases_[i].items = static_cast<std::uint32_t>(items);
  }
}

}  // namespace neoxref::engine
