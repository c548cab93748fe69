// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/parallel.hpp"
#include "engine/tensors.hpp"
#include "eval/matrices.hpp"
#include "eval/profiles.hpp"
#include "simd/measuring.hpp"

namespace neoxref::eval {

/// Random numbers of one place: the same whatever thread asks (splitmix64).
class Draw {
public:
  Draw(std::uint64_t seed, std::uint64_t run, const engine::TensorId& id, std::uint64_t place)
      : state_(seed + 0x9E3779B97F4A7C15ull * (run + 1)) {
    mix(static_cast<std::uint64_t>(id.tensor) << 32 | id.layer);
    mix(place);
  }
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() % n); }
  /// Uniform in (-1, 1).
  double symmetric() { return static_cast<double>(static_cast<std::int64_t>(next())) * 0x1p-63; }
  /// x rounded stochastically: up with the probability of its distance from below. Subnormal numbers
  /// are kept; too large becomes infinite.
  float round(Format format, double x);

private:
  void mix(std::uint64_t value) {
    state_ ^= value;
    state_ = next();
  }
  std::uint64_t state_;
};

/// The indices of a sum of `length`, cut into blocks of 16, 32, ... or all of it, in any order.
std::vector<simd::Stretch> stretches(std::size_t length, Draw& draw);

/// Sum of value(i) in binary32 over the stretches.
template <class Value>
float stretched_sum(const std::vector<simd::Stretch>& order, Value&& value) {
  float total = 0.0f;
  for (const simd::Stretch& stretch : order) {
    float part = 0.0f;
    for (std::size_t i = stretch.begin; i < stretch.end; ++i) part += value(i);
    total += part;
  }
  return total;
}

/// The operations of a forward pass as an honest backend of the profile may do them (docs/bounds.md,
/// "The envelope"), for several runs side by side. A tensor is one matrix for each run.
class SimulatedSteps {
public:
  using Runs = std::vector<Matrix>;

  SimulatedSteps(const engine::Checkpoint& checkpoint, engine::Team& team, const Profile& profile,
                 simd::Isa isa, std::size_t runs, std::uint64_t seed);

  Runs embed(const std::vector<double>& truth, std::size_t tokens);
  Runs layer_norm(engine::Weight gain, engine::Weight shift, std::size_t layer, const Runs& x,
                  const engine::TensorId& id);
  /// Columns [first, first + columns) of a linear layer, first a multiple of 16.
  Runs linear(engine::Weight weight, const std::vector<float>& bias, const Runs& x,
              const engine::TensorId& id, std::size_t first, std::size_t columns);
  /// Rounds what a product reads, once for all its columns.
  Runs operands(const Runs& x, Format stored, const engine::TensorId& id);
  Runs activation(const Runs& x, const engine::TensorId& id);
  Runs rotate(const Runs& qkv, std::size_t which, const engine::TensorId& id);
  Runs context(const Runs& qkv, const Runs& q, const Runs& k, const engine::TensorId& id);
  Runs residual(const Runs& a, const Runs& b, const Runs* c, const engine::TensorId& id);
  std::vector<float> parameters(engine::Weight weight, std::size_t layer) const;

private:
  Runs shaped(std::size_t rows, std::size_t columns) const;
  Format stored(const engine::TensorId& id) const { return profile_.stored(id.tensor); }
  /// f(run, row, draw) for each row of each run.
  template <class F>
  void each_row(const engine::TensorId& id, std::size_t rows, F&& f);
  void attend(const Runs& qkv, const Runs& q, const Runs& k, const engine::TensorId& id,
              std::size_t run, std::size_t head, std::size_t first, std::size_t rows,
              std::size_t participant, Matrix& out);
  float* scratch(std::size_t participant, std::size_t values);

  const engine::Checkpoint& checkpoint_;
  engine::Team& team_;
  const Profile& profile_;
  const engine::Config& config_;
  const simd::Kernels& kernels_;
  const simd::Measuring& measuring_;
  std::size_t runs_;
  std::uint64_t seed_;
  std::vector<std::vector<float>> scratch_;
};

}  // namespace neoxref::eval
