// SPDX-License-Identifier: Apache-2.0
// The last phase of a pass: final norm and unembedding. Where a press cuts after every few tokens, a
// pass has few rows, and reading the unembedding for them takes longer than multiplying by it; so
// rows wait, normed, until there are enough of them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "engine/pass.hpp"

namespace neoxref::engine {

const float* Model::Pass::final_normed(Scratch& scratch, std::size_t block, std::size_t rows) {
  const std::size_t hidden = config_.hidden;
  const Wanted* wanted = wanted_.data() + block * wanted_block_rows_;
  if (flushing_) return deferred_normed_.data() + wanted->row * hidden;
  const std::uint64_t rows_of = tag(infos_.size(), block);
  if (std::exchange(scratch.norm_of[0], rows_of) == rows_of) return scratch.normed.data();
  for (std::size_t i = 0; i < rows; ++i) {
    if (!kernels_.layer_norm(x_.data() + wanted[i].row * hidden, hidden,
                             weights_.final_layer_norm.gamma.data(),
                             weights_.final_layer_norm.beta.data(), config_.layer_norm_eps,
                             scratch.normed.data() + i * hidden, simd::dot_block)) {
      fail(wanted[i].row, config_.layers, Operation::final_layer_norm);
    }
  }
  return scratch.normed.data();
}

void Model::Pass::logits(Scratch& scratch, std::size_t item) {
  const std::size_t hidden = config_.hidden;
  const std::size_t block = item / logits_grid_.groups;
  const std::size_t first_wanted = block * wanted_block_rows_;
  const std::size_t rows = std::min(wanted_block_rows_, wanted_.size() - first_wanted);
  const std::size_t first = item % logits_grid_.groups * logits_grid_.width;
  const std::size_t width = std::min(logits_grid_.width, config_.vocab - first);
  const Wanted* wanted = wanted_.data() + first_wanted;
  const float* normed = final_normed(scratch, block, rows);
  bool in_place = true;
  for (std::size_t i = 1; i < rows; ++i) {
    in_place = in_place && wanted[i].logits == wanted[i - 1].logits + config_.vocab;
  }
  float* output = in_place ? wanted[0].logits + first : scratch.output.data();
  const std::size_t stride = in_place ? config_.vocab : width;
  multiply(scratch, weights_.embed_out, first, width, rows, {normed, hidden}, {output, stride});
  for (std::size_t i = 0; i < rows; ++i) {
    const float* row = output + i * stride;
    // Rows that waited are known to give finite logits, and nobody watches them.
    if (!flushing_ && !kernels_.all_finite(row, width)) {
      fail(wanted[i].row, config_.layers, Operation::logits);
    }
    if (shown_ && !flushing_) {
      if (first == 0) {
        show({Tensor::final_layer_norm}, wanted[i].row, 1, 0, hidden, normed + i * hidden, hidden);
      }
      show({Tensor::embed_out}, wanted[i].row, 1, first, width, row, width);
    }
    if (!in_place) std::memcpy(wanted[i].logits + first, row, width * sizeof(float));
  }
}

void Model::Pass::run_logits() {
  plan_logits();
  // A region of as many phases as a pass has, so that its time is counted as one's logits.
  for (Phase& phase : phases_) phase.items = 0;
  phases_.back().items = static_cast<std::uint32_t>(logits_grid_.items());
  team_.run(phases_, this);
}

/// No partial sum of a dot is larger than the sum of its products' magnitudes, but for its rounding.
bool Model::Pass::cannot_overflow(const float* normed, std::size_t rows) {
  if (!largest_weight_) largest_weight_ = largest_magnitude(weights_.embed_out);
  float largest = 0.0f;
  for (std::size_t i = 0; i < rows * config_.hidden; ++i) {
    // With eps 0, a row of equal values has a finite sum and is NaN.
    if (!std::isfinite(normed[i])) return false;
    largest = std::max(largest, std::fabs(normed[i]));
  }
  const double most = static_cast<double>(config_.hidden) * static_cast<double>(largest) *
                      static_cast<double>(*largest_weight_);
  return most < static_cast<double>(std::numeric_limits<float>::max()) / 2.0;
}

/// Whatever is not finite has to be found before the sequence goes on: only rows whose logits cannot
/// overflow may wait.
void Model::Pass::defer() {
  if (deferred_.size() + wanted_.size() > most_deferred) flush();
  const std::size_t hidden = config_.hidden;
  float* normed = deferred_normed_.data() + deferred_.size() * hidden;
  bool finite = true;
  for (std::size_t i = 0; i < wanted_.size(); ++i) {
    finite = kernels_.layer_norm(x_.data() + wanted_[i].row * hidden, hidden,
                                 weights_.final_layer_norm.gamma.data(),
                                 weights_.final_layer_norm.beta.data(), config_.layer_norm_eps,
                                 normed + i * hidden, simd::dot_block) &&
             finite;
  }
  const bool failed = std::any_of(segments_.begin(), segments_.end(),
                                  [this](const Segment& segment) { return failure(segment); });
  if (!finite || failed || !cannot_overflow(normed, wanted_.size())) {
    run_logits();
    return;
  }
  for (const Wanted& wanted : wanted_) {
    deferred_.push_back({static_cast<std::uint32_t>(deferred_.size()), wanted.logits});
  }
}

void Model::Pass::flush() {
  if (deferred_.empty()) return;
  ++passes_;
  std::swap(wanted_, deferred_);
  flushing_ = true;
  run_logits();
  flushing_ = false;
  std::swap(wanted_, deferred_);
  deferred_.clear();
}

}  // namespace neoxref::engine
