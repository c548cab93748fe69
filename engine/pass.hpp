// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/buffer.hpp"
#include "engine/model.hpp"

namespace neoxref::engine {

/// One walk of up to max_rows tokens through all layers: the numbered phases of a parallel region,
/// and the memory they share. Rows are tokens, of one sequence or of many.
///   layer, parallel residual    {norms, qkv, rotary, append, up, activation}, {key norms,
///                               attention over heads}, {dense, down, residual}
///   layer, sequential residual  the same with a phase each for {dense, residual},
///                               {norm, up, activation} and {down, residual}
///   at the end                  {final norm, unembedding}
/// But for its keys and values, the last layer takes only the rows whose logits are asked for: nothing
/// depends on the others.
/// How rows and outputs are cut into items only decides who computes what, never a bit.
class Model::Pass {
public:
  static constexpr std::size_t max_rows = 512;
  /// Rows that an item multiplies at once: their activations fit the second-level cache.
  static constexpr std::size_t most_block_rows = 96;
  /// Rows of logits that may wait, see defer().
  static constexpr std::size_t most_deferred = 2 * most_block_rows;
  /// Queries of an item of attention.
  static constexpr std::size_t query_block = 48;

  /// Tokens of one step in this pass.
  struct Segment {
    Step* step;
    std::size_t offset;  ///< of its first token in the step
    std::size_t first_row;
    std::size_t count;
    std::atomic<std::uint64_t>* first_failure;  ///< see fail(); all ones: none
  };
  struct Failure {
    std::size_t row;  ///< in the segment
    std::size_t layer;
    Operation operation;
  };

  Pass(const Config& config, const Weights& weights, const simd::Kernels& kernels, Team& team);

  /// Makes room for this many steps, and slots in a cache. After it run does not allocate in our code,
  /// and cut only where the log of cuts grows or a score is the caller's own.
  void reserve(std::size_t steps, std::size_t slots, bool watched);
  void clear();
  void add(Step& step, std::size_t offset, std::size_t count);
  std::span<const Segment> segments() const { return segments_; }
  std::size_t rows() const { return rows_.size(); }

  /// more: another pass of the same steps follows, so that logits may wait for its rows.
  void run(bool more);
  /// Computes the logits that wait.
  void flush();
  /// The first in (token, layer, operation) order.
  std::optional<Failure> failure(const Segment& segment) const;

  /// Cuts the layers of the sequence that are due and writes it down. Errors: those of an own score,
  /// before anything was cut.
  enum class When : std::uint8_t { before_token, after_token };
  void cut(Sequence& sequence, When when);

private:
  enum class Kind : std::uint8_t {
    attention_in,  ///< input_layernorm, qkv, rotary, append
    mlp_in,        ///< post_attention_layernorm, up, activation
    both_in,       ///< the two of them, on the same x
    attention,
    attention_out,  ///< x = dense(context) + x
    mlp_out,        ///< x = down(act) + x
    both_out,       ///< x = (dense(context) + down(act)) + x
    logits
  };
  struct PhaseInfo {
    Kind kind;
    std::size_t layer;
  };
  struct Row {
    std::uint32_t segment;
    std::uint32_t offset;  ///< in the segment
  };
  struct Wanted {
    std::uint32_t row;
    float* logits;
  };
  /// Count 0: only the norms of the segment's keys.
  struct Queries {
    std::uint32_t segment;
    std::uint32_t first;  ///< in the segment
    std::uint32_t count;
    std::uint32_t to;  ///< row of the context that the first one gives
  };
  struct Scratch {
    Buffer<float> normed;  ///< [2] BlockedRows of hidden, or of the logits [block_rows, hidden]
    Buffer<float> product;
    Buffer<float> output;  ///< [2][block_rows, hidden] or [block_rows, logits_width]
    Buffer<float> attention;
    Buffer<float> context;  ///< [query_block, head_dim]
    Buffer<float> weights;  ///< [query_block, capacity], where somebody watches
    Buffer<float> scores;
    Buffer<std::uint64_t> ranking;
    Buffer<std::uint32_t> kept;
    Buffer<double> sums;            ///< [max(head_dim, capacity)]
    Buffer<float> turned;           ///< [rotary_dims]
    std::uint64_t norm_of[2] = {};  ///< which rows `normed` holds, a tag()
  };
  /// One side of a product, see simd::Product.
  template <class Float>
  struct Side {
    Float* data;
    std::size_t stride;
    std::size_t block = simd::dot_block;
  };
  /// Activations of a block of rows as a product reads them without a copy: [columns / 64][rows][64].
  struct BlockedRows {
    float* data;
    std::size_t rows;

    std::size_t block() const { return rows * simd::dot_block; }
    float* at(std::size_t row, std::size_t column) const {
      return data + row * simd::dot_block + simd::in_blocks(column, block());
    }
    Side<const float> input(std::size_t row = 0) const {
      return {at(row, 0), simd::dot_block, block()};
    }
    Side<float> output(std::size_t column) const {
      return {at(0, column), simd::dot_block, block()};
    }
  };
  struct Grid {
    std::size_t row_blocks = 0;
    std::size_t width = 0;   ///< outputs of an item
    std::size_t groups = 0;  ///< items of a row block
    std::size_t items() const { return row_blocks * groups; }
  };
  /// What a layer works on behind its keys and values: all rows, or those in wanted_.
  struct Extent {
    std::size_t rows = 0;
    std::size_t block_rows = 0;
    Grid up;
    Grid out;
    std::vector<Queries> queries;
  };

  static void work(void* context, std::uint32_t phase, std::uint32_t item,
                   std::size_t participant) noexcept;
  static void cut_item(void* context, std::uint32_t phase, std::uint32_t item,
                       std::size_t participant) noexcept;
  void plan();
  void plan_logits();
  void plan(Extent& extent, std::size_t rows);
  /// Blocks of one length, as many for each thread where there are enough of them; for one thread
  /// the longest, with a rest that is not short.
  std::size_t block_rows(std::size_t rows) const;
  Grid grid(std::size_t rows, std::size_t outputs, std::size_t unit) const;
  const Extent& extent(std::size_t layer) const {
    return short_ && layer + 1 == config_.layers ? asked_ : all_;
  }
  /// The row of x that is row i of an extent.
  std::size_t row_of(const Extent& extent, std::size_t i) const {
    return &extent == &asked_ ? wanted_[i].row : i;
  }
  /// Those of `rows` rows from first_row on whose logits are asked for.
  std::span<const Wanted> asked(std::size_t first_row, std::size_t rows) const;
  static void add_queries(Extent& extent, std::size_t segment, std::size_t first, std::size_t count,
                          std::size_t to);
  /// Those of an extent that begin at first_row, in memory of max_rows rows of `columns`.
  static BlockedRows blocked(Buffer<float>& memory, const Extent& extent, std::size_t first_row,
                             std::size_t columns) {
    return {memory.data() + first_row * simd::round_up(columns, simd::dot_block),
            std::min(extent.block_rows, extent.rows - first_row)};
  }
  /// Rows of a phase: where a participant takes several items of the same ones, their norms are used
  /// again. Comes again after 2^36 passes: years of them.
  std::uint64_t tag(std::size_t phase, std::size_t first) const {
    static_assert(max_rows <= 1 << 10);
    return (passes_ << 28) | (std::uint64_t{phase} << 10) | first;
  }
  BlockedRows normed(Scratch& scratch, std::uint32_t phase, std::size_t slot, const Norm& norm,
                     const Extent& extent, std::size_t first, std::size_t count, std::size_t layer,
                     Operation operation);
  void attention_in(Scratch& scratch, std::uint32_t phase, std::size_t layer, std::size_t item);
  void append(std::size_t layer, std::size_t first_row, std::size_t rows, std::size_t first_head,
              std::size_t heads, bool all_queries);
  void score_layers(Sequence& sequence);
  void turn_again(Scratch& scratch, KvCache& cache, std::size_t layer, std::size_t head);
  void mlp_in(Scratch& scratch, std::uint32_t phase, std::size_t layer, std::size_t item);
  void attend(Scratch& scratch, std::size_t layer, std::size_t item);
  void put_context(const Extent& extent, std::size_t first_row, std::size_t rows, std::size_t head,
                   const float* values);
  void out(Scratch& scratch, Kind kind, std::size_t layer, std::size_t item);
  void logits(Scratch& scratch, std::size_t item);
  const float* final_normed(Scratch& scratch, std::size_t block, std::size_t rows);
  void run_logits();
  void defer();
  bool cannot_overflow(const float* normed, std::size_t rows);
  void multiply(Scratch& scratch, const Linear& linear, std::size_t first_output,
                std::size_t outputs, std::size_t rows, const Side<const float>& input,
                const Side<float>& output, std::size_t unused = 0);
  void fail(std::size_t row, std::size_t layer, Operation operation);
  /// Rows and columns of a tensor to whoever watches their sequences.
  void show(const TensorId& id, std::size_t first_row, std::size_t rows, std::size_t first_column,
            std::size_t columns, const float* values, std::size_t stride);
  void show(const TensorId& id, std::size_t first_row, std::size_t first_column,
            std::size_t columns, const BlockedRows& values);
  void show_heads(Tensor tensor, std::size_t layer, std::size_t first_row, std::size_t rows,
                  std::size_t first_head, std::size_t heads);

  const Config& config_;
  const Weights& weights_;
  const simd::Kernels& kernels_;
  Team& team_;
  RotaryTable rotary_;
  float scale_;

  std::vector<PhaseInfo> infos_;
  std::vector<Phase> phases_;
  std::vector<Segment> segments_;
  std::vector<Row> rows_;
  std::vector<Wanted> wanted_;
  std::vector<Wanted> deferred_;         ///< whose `row` is one of deferred_normed_
  bool flushing_ = false;                ///< wanted_ are what was deferred_
  std::optional<float> largest_weight_;  ///< of the unembedding, once somebody has asked
  std::unique_ptr<std::atomic<std::uint64_t>[]> failures_;
  std::size_t failures_size_ = 0;
  bool shown_ = false;  ///< somebody watches tensors in this pass
  bool short_ = false;  ///< the last layer takes asked_
  std::uint64_t passes_ = 0;

  Extent all_, asked_;
  Grid qkv_grid_, logits_grid_;
  std::size_t wanted_block_rows_ = 0;  ///< of this pass, for the logits

  Buffer<float> x_;                ///< [max_rows, hidden]
  Buffer<float> qkv_;              ///< [max_rows, qkv outputs]
  Buffer<float> context_;          ///< blocked() rows of hidden
  Buffer<float> act_;              ///< and of up outputs
  Buffer<float> deferred_normed_;  ///< [most_deferred, hidden]
  std::vector<Scratch> scratch_;

  struct DueLayer {
    std::size_t layer;
    std::size_t before;
    std::size_t after;
  };
  Sequence* cutting_ = nullptr;
  std::vector<DueLayer> due_layers_;
  std::vector<float> layer_scores_;  ///< of the due layers, [heads, slots] each, where they are not
                                     ///< a matter of one head
  std::vector<std::size_t> layer_scores_at_;  ///< where each layer's begin
};

}  // namespace neoxref::engine
