// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "simd/kernels.hpp"

namespace neoxref::engine {

/// Philox4x32-10 (Salmon et al. 2011): the four words of one counter under one key.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                    std::array<std::uint32_t, 2> key);

/// The largest element, the lower index on ties. values.size() >= 1, none is NaN.
std::size_t argmax(std::span<const float> values);

struct Sampling {
  float temperature = 0.0f;  ///< 0: argmax; else 1e-6 to 1e6
  std::size_t top_k = 0;     ///< 0: all
  double top_p = 1.0;        ///< in (0, 1]
  std::uint64_t seed = 0;
};

/// Draws token ids by docs/contract.md, "Sampling": no state, so a draw depends only on the logits,
/// the settings, the position of the token drawn and the number of the sequence.
class Sampler {
public:
  /// Errors: Error for settings out of range.
  Sampler(const Sampling& sampling, const simd::Kernels& kernels);

  /// Errors: Error when a logit divided by the temperature overflows.
  std::int32_t draw(std::span<const float> logits, std::uint64_t position,
                    std::uint64_t sequence = 0);

private:
  /// Not inlined: no operation may slip out of the environment that draw() sets around it.
  [[gnu::noinline]] std::int32_t draw_in_contract(std::span<const float> logits,
                                                  std::uint64_t position, std::uint64_t sequence);

  Sampling sampling_;
  const simd::Kernels& kernels_;
  std::vector<float> weights_;
  std::vector<std::int32_t> order_;
};

}  // namespace neoxref::engine
