// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "engine/model.hpp"

namespace neoxref::eval {

/// A score that must have seen a window before any of it is cut. A sweep asks it for the score of each
/// window; it ranks nothing itself.
class ScoreMaker : public engine::OwnScore {
public:
  /// tokens     those that enter
  /// press      with the effective prune_after, set when the first `untouched` of them have entered
  /// May run the model. Errors: Error.
  virtual std::shared_ptr<const engine::OwnScore> of(engine::Model& model,
                                                     std::span<const std::int32_t> tokens,
                                                     const engine::Press& press,
                                                     std::size_t untouched) const = 0;

  /// Errors: Error, always.
  void score(const engine::LayerSlots& slots, std::span<float> scores) const final;
};

}  // namespace neoxref::eval
