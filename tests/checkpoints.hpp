// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/checkpoint.hpp"
#include "simd/kernels.hpp"
#include "tests/folder.hpp"

namespace neoxref::tests {

/// Numbers that are the same on every machine.
class Numbers {
public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next();
  /// Uniform in [0, n).
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() % n); }
  /// In (-1, 1), 24 bits.
  float symmetric();

private:
  std::uint64_t state_;
};

/// A random model. Defaults are a tiny parallel-residual GPT-NeoX.
struct Shape {
  std::string name;
  std::size_t layers = 2;
  std::size_t heads = 2;
  std::size_t head_dim = 16;
  std::size_t intermediate = 96;
  std::size_t vocab = 61;
  std::size_t max_positions = 128;
  double rotary_pct = 0.25;
  double rotary_base = 10000.0;
  std::string activation = "gelu";
  bool parallel_residual = true;
  bool attention_bias = true;
  bool tied = false;
  simd::Dtype dtype = simd::Dtype::f32;
  std::uint64_t seed = 1;
  std::size_t hidden() const { return heads * head_dim; }
};

/// Writes config.json and model.safetensors. The values are representable in bfloat16 and float16
/// both, so that the same shape and seed has the same values in every dtype.
/// edit   may change a tensor's values before they are written (by name; row-major).
using Edit = std::function<void(const std::string& name, std::vector<float>& values)>;
void write_checkpoint(const std::filesystem::path& folder, const Shape& shape,
                      const Edit& edit = {});

/// The same model with its weights widened to float32.
void write_widened(const std::filesystem::path& from, const std::filesystem::path& to);

/// n token ids below vocab.
std::vector<std::int32_t> random_tokens(std::size_t n, std::size_t vocab, std::uint64_t seed);

/// True for equal bits, or NaN on both sides.
bool same_bits(float a, float b);

}  // namespace neoxref::tests
