// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/buffer.hpp"
#include "engine/model.hpp"
#include "eval/digest.hpp"
#include "eval/golden_tensors.hpp"

namespace neoxref::eval {

/// Digests the rows of every tensor of a sequence, and copies out those that somebody keeps. Pieces of
/// a row come from several threads: they are put together in a place that the row of the same
/// token of the next layer takes over, since no layer begins before the one below is done; whoever
/// brings the last piece digests the row, logits excepted.
class Recorder final : public engine::TensorWatcher, public engine::AttentionWatcher {
public:
  /// chunk  most tokens of a forward call; digests: false leaves them out.
  Recorder(const engine::Model& model, engine::Sequence& sequence, std::size_t tokens,
           std::size_t chunk, bool digests);

  /// Before the run: [tokens, width] for the tensor's values.
  void keep(const engine::TensorId& id, float* to) { kept_[place(id)] = to; }
  /// Before the run: [heads, tokens, tokens] for the scores or probabilities of a layer.
  void keep_scores(std::size_t layer, float* to);
  void keep_probabilities(std::size_t layer, float* to);

  /// Before each forward call: its first token, and where it writes its logits.
  void begin(std::size_t first_token, float* logits);
  /// After it, `count` tokens long: digests the logits. They are the longest rows by far; whoever brought
  /// their last piece would keep the other threads waiting.
  void end(std::size_t count, engine::Team& team);

  /// Behind the run: [tokens] of a tensor.
  const std::vector<DigestBytes>& rows(const engine::TensorId& id) const {
    return rows_[place(id)];
  }

  bool wants(const engine::TensorId& id) const noexcept override;
  void see(const engine::TensorId& id, std::size_t first_token, std::size_t rows,
           std::size_t first_column, std::size_t columns, const float* values,
           std::size_t stride) noexcept override;
  void see(std::size_t layer, std::size_t head, std::size_t first_position, std::size_t queries,
           std::size_t first_slots, const float* weights,
           std::size_t weights_stride) noexcept override;

private:
  struct Place {
    std::size_t width = 0;
    engine::Buffer<float> rows;  ///< [chunk, width]; not touched where rows come whole
    std::unique_ptr<std::atomic<std::uint32_t>[]> columns;  ///< [chunk], that have come
  };
  std::size_t place(const engine::TensorId& id) const {
    return engine::execution_order(id, config_);
  }
  float* row(const engine::TensorId& id, std::size_t token) noexcept;
  static void digest_logits(void* recorder, std::uint32_t phase, std::uint32_t item,
                            std::size_t participant) noexcept;
  void watch_attention();
  DigestBytes digest(engine::Tensor tensor, std::span<const float> values) const noexcept;
  void score(std::size_t layer, std::size_t head, std::size_t first_position, std::size_t queries,
             std::size_t first_slots) noexcept;

  const engine::Config& config_;
  const simd::Kernels& kernels_;
  engine::Sequence& sequence_;
  std::size_t tokens_;
  std::size_t chunk_;
  bool digests_;
  std::size_t first_token_ = 0;
  float* logits_ = nullptr;
  std::array<Place, static_cast<std::size_t>(engine::Tensor::embed_out) + 1> places_;
  std::vector<float*> kept_;                    ///< by execution_order; null: nobody does
  std::vector<std::vector<DigestBytes>> rows_;  ///< by execution_order, [tokens]
  std::vector<float*> scores_;                  ///< [layers]
  std::vector<float*> probabilities_;           ///< [layers]
  bool queries_needed_ = false;
  struct Scratch {
    engine::Buffer<float> product;
    engine::Buffer<float> scores;  ///< [chunk, tokens rounded up]
  };
  std::vector<Scratch> scratch_;  ///< [heads], where scores are kept
};

}  // namespace neoxref::eval
