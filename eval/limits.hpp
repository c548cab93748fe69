// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "engine/pages.hpp"
#include "engine/parallel.hpp"
#include "simd/limits.hpp"

namespace neoxref::eval {

/// What the machine can do at most, measured with the pool that the model runs in, on memory that
/// was allocated as weights are. Every call is one measurement of about 10 ms after a shorter one
/// that does not count.
class LimitMeter {
public:
  /// most_bytes  that read() will be asked for, or twice what copy() will be. Allocates and touches
  ///             them.
  LimitMeter(engine::Team& team, std::size_t most_bytes);

  /// Operations a second of independent chains of fma in registers, on all threads.
  double multiply_add(simd::Isa isa);
  /// Bytes a second of a sum over a buffer of so many bytes, read again and again.
  double read(simd::Isa isa, std::size_t bytes);
  /// Bytes a second that memcpy puts in place, of so many bytes that go from one place to another.
  double copy(std::size_t bytes);

private:
  /// Runs items on all threads, `passes` times; returns the seconds.
  template <class Work>
  double timed(std::size_t passes, Work& work);
  template <class Work>
  double rate(double amount, Work& work);

  float* floats() const { return reinterpret_cast<float*>(pages_.data()); }
  std::size_t size() const { return pages_.size() / sizeof(float); }

  engine::Team& team_;
  engine::Pages pages_;
};

}  // namespace neoxref::eval
