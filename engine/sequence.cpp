// SPDX-License-Identifier: Apache-2.0
#include "engine/sequence.hpp"

#include <algorithm>
#include <limits>

namespace neoxref::engine {

std::size_t Sequence::tokens_until_cut() const {
  std::size_t tokens = std::numeric_limits<std::size_t>::max();
  if (!press) return tokens;
  for (std::size_t layer = 0; layer < cache.shape().layers; ++layer) {
    tokens = std::min(tokens, press->tokens_until_cut(layer, cache.longest(layer)));
  }
  return tokens;
}

}  // namespace neoxref::engine
