// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace neoxref::engine {

/// The merges of a byte-pair model: (left id, right id) -> rank and id of the merged token.
class MergeTable {
public:
  struct Merge {
    std::uint32_t rank = no_rank;
    std::int32_t id = -1;
  };
  static constexpr std::uint32_t no_rank = 0xffffffff;

  /// count  how many merges will be added.
  explicit MergeTable(std::size_t count = 0);

  /// False, and nothing is added, if the pair is there already. Lower ranks are merged first.
  [[nodiscard]] bool add(std::int32_t left, std::int32_t right, Merge merge);

  /// rank is no_rank where the pair does not merge.
  [[nodiscard]] Merge find(std::int32_t left, std::int32_t right) const noexcept;

  /// Merges neighbours among ids[0, count) in place, the lowest rank first and of equal ranks the
  /// leftmost, until no pair merges; returns how many ids are left. Time: count^2 for at most 48
  /// ids, count log count above.
  [[nodiscard]] std::size_t apply(std::int32_t* ids, std::size_t count) const;

private:
  struct Slot {
    std::uint64_t pair = no_pair;
    Merge merge;
  };
  static constexpr std::uint64_t no_pair = ~std::uint64_t{0};

  [[nodiscard]] std::size_t slot_of(std::uint64_t pair) const noexcept;
  [[nodiscard]] std::size_t apply_short(std::int32_t* ids, std::size_t count) const noexcept;
  [[nodiscard]] std::size_t apply_long(std::int32_t* ids, std::size_t count) const;

  std::vector<Slot> slots_;
  int shift_ = 0;
};

}  // namespace neoxref::engine
