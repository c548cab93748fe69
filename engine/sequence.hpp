// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "engine/kv_cache.hpp"
#include "engine/press.hpp"

namespace neoxref::engine {

/// One cut of one layer; its heads are cut alike, each by its own ranking.
struct Cut {
  std::size_t layer;
  std::size_t position;  ///< of the token after which it happened
  std::size_t before;    ///< slots per head
  std::size_t after;
};

/// One text on its way through a model: its cache, its press, and how far it is.
class Sequence {
public:
  /// capacity in slots per head. Errors: as KvCache.
  Sequence(const CacheShape& shape, std::size_t capacity) : cache(shape, capacity) {}

  /// A copy that goes on independently: cache, press, cuts.
  Sequence fork() const {
    Sequence copy(cache.fork());
    copy.press = press;
    copy.position = position;
    copy.cuts = cuts;
    copy.stopped = stopped;
    return copy;
  }

  /// Tokens that can enter every layer before one must be cut (SIZE_MAX without a press).
  std::size_t tokens_until_cut() const;

  KvCache cache;
  std::optional<Press> press;
  std::size_t position = 0;  ///< tokens that have entered: the position of the next one
  std::vector<Cut> cuts;
  bool stopped = false;  ///< a value was not finite; nothing more can enter

private:
  explicit Sequence(KvCache forked) : cache(std::move(forked)) {}
};

}  // namespace neoxref::engine
