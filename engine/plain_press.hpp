// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/press.hpp"

namespace neoxref::engine {

/// One head's cache as the oracle keeps it: a vector a slot, in time order.
template <class Real>
struct PlainHead {
  std::vector<std::vector<Real>> keys;  ///< after rotary
  std::vector<std::vector<Real>> raw;   ///< the rotary dims before they turned
  std::vector<std::vector<Real>> values;
  std::vector<Real> norms;
  std::vector<std::int32_t> positions;
  /// What each token gave the slots that are left, from the first token on. Slots that entered behind
  /// it are missing at the end, or 0.
  std::vector<std::vector<Real>> attention;

  /// The head with these slots only, in this order.
  PlainHead only(const std::vector<std::size_t>& kept) const;
};

/// Where a layer stands, for scores that depend on it.
template <class Real>
struct PlainPlace {
  std::size_t layer;
  std::size_t rotary_dims;
  std::vector<std::vector<Real>> key_bias;  ///< [heads, head_dim]; empty where there is none
  std::size_t cuts;                         ///< that this layer has had
};

/// The definitions of docs/presses.md as plain code, written apart from selection.cpp, which is held
/// to it slot for slot: the slots of each head of a layer that a cut keeps, in the order of the
/// press. Budgets of bytes must have been resolved.
template <class Real>
std::vector<std::vector<std::size_t>> kept_slots(const Press& press,
                                                 const std::vector<PlainHead<Real>>& heads,
                                                 const PlainPlace<Real>& place);

extern template std::vector<std::vector<std::size_t>> kept_slots(
    const Press&, const std::vector<PlainHead<float>>&, const PlainPlace<float>&);
extern template std::vector<std::vector<std::size_t>> kept_slots(
    const Press&, const std::vector<PlainHead<double>>&, const PlainPlace<double>&);

}  // namespace neoxref::engine
