// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace neoxref::engine {

/// A decimal number in [0, 1] as an exact fraction, so that "0.9 of 257 slots" has one answer.
class KeepRatio {
public:
  KeepRatio() = default;
  /// Decimal text such as "0.9" or "1", at most 9 digits after the point.
  /// Errors: Error for anything else, and for 0 and values above 1.
  static KeepRatio parse(std::string_view text);

  /// ceil(length * p / q) in integers, at least 1 (0 for length 0).
  std::size_t of(std::size_t length) const;
  bool keeps_all() const { return numerator_ == denominator_; }
  double value() const {
    return static_cast<double>(numerator_) / static_cast<double>(denominator_);
  }
  /// As it was written.
  const std::string& text() const { return text_; }

private:
  std::uint64_t numerator_ = 1;
  std::uint64_t denominator_ = 1;
  std::string text_ = "1";
};

/// KnormPress: keep the keys of lowest L2 norm.
/// score    -norm of the key as stored; ties go to the lower slot
/// budget   keep_ratio of the current length
/// trigger  `exceeds`: after a token has entered, a layer longer than prune_after is cut
/// skip_layers are never cut.
struct Press {
  KeepRatio keep_ratio;
  std::size_t prune_after = 0;
  std::vector<std::size_t> skip_layers = {0};

  bool skips(std::size_t layer) const;
  /// Tokens that may enter a layer of this length before it must be cut, counting the one that
  /// makes the cut due; at least 1. SIZE_MAX where it never is.
  std::size_t tokens_until_cut(std::size_t layer, std::size_t length) const;
  /// True when a layer of this length must be cut now.
  bool due(std::size_t layer, std::size_t length) const;
};

/// The slots to keep: the `keep` lowest norms, ties to the lower slot, ascending by slot.
/// norms [slots]; work holds `slots` elements; kept receives `keep` slots. 1 <= keep <= slots.
void select_lowest(const float* norms, std::size_t slots, std::size_t keep, std::uint64_t* work,
                   std::uint32_t* kept);

}  // namespace neoxref::engine
