// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/parallel.hpp"

namespace neoxref::eval {

/// f(item, participant) for items 0 .. items - 1 with disjoint outputs, each once, shared out over a
/// team. f must not throw.
template <class F>
void parallel_items(engine::Team& team, std::size_t items, F&& f) {
  if (items == 0) return;
  using Function = std::remove_reference_t<F>;
  const engine::Phase phase{
      static_cast<std::uint32_t>(items),
      [](void* context, std::uint32_t, std::uint32_t item, std::size_t participant) noexcept {
        (*static_cast<Function*>(context))(static_cast<std::size_t>(item), participant);
      }};
  team.run({&phase, 1}, &f);
}

}  // namespace neoxref::eval
