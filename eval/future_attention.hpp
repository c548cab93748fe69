// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/attended.hpp"
#include "eval/score_maker.hpp"

namespace neoxref::eval {

/// What the first slots of every head will draw: the sum, in the order of the queries, of the weights
/// that the queries from position `first_query` on give each slot below it, where nothing is ever cut.
/// First it watches a run without a press, then it ranks slots at the one cut of the same text, the one
/// right before `first_query` enters.
class FutureAttention : public engine::AttentionWatcher, public engine::OwnScore {
public:
  FutureAttention(const engine::CacheShape& shape, std::size_t first_query);

  void see(std::size_t layer, std::size_t head, std::size_t first_position, std::size_t queries,
           std::size_t first_slots, const float* weights,
           std::size_t weights_stride) noexcept override;
  /// [first_query]
  std::span<const double> sums(std::size_t layer, std::size_t head) const;

  std::string name() const override;
  bool is_static() const override { return true; }
  /// The sums, rounded to binary32. Errors: Error at any other cut.
  void score(const engine::LayerSlots& slots, std::span<float> scores) const override;

private:
  engine::CacheShape shape_;
  std::size_t first_query_;
  std::vector<double> sums_;  ///< [layers, heads, first_query]
};

/// The reference arm of docs/analysis.md, for presses that cut a window once.
class FutureReference : public ScoreMaker {
public:
  std::string name() const override;
  bool is_static() const override { return true; }
  /// Errors: Error where the press cuts at more than one moment, or the model stops.
  std::shared_ptr<const engine::OwnScore> of(engine::Model& model,
                                             std::span<const std::int32_t> tokens,
                                             const engine::Press& press,
                                             std::size_t untouched) const override;
};

}  // namespace neoxref::eval
