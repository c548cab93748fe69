// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "eval/conformance.hpp"

/// What the makers of the cases share; part of the library's inside.
namespace neoxref::eval::conformance {

using Json = nlohmann::ordered_json;

/// Bits as the kit writes them.
std::string words(std::span<const float> values);
std::string words(std::initializer_list<float> values);
std::string word(float value);
std::string word(double value);
/// Of a seed: JSON readers differ in how large a number they keep.
std::string word(std::uint64_t value);
/// [rows] of words, each of `width` values.
Json rows(std::span<const float> values, std::size_t width);

/// Numbers that are the same on every machine: words of Philox4x32-10 in their order.
class Draws {
public:
  explicit Draws(std::uint32_t stream) : stream_(stream) {}
  std::uint32_t next();
  std::size_t below(std::size_t n) { return next() % n; }
  /// A multiple of 2^-23 in [-1, 1).
  float symmetric();
  /// Any sign and mantissa, the exponent field in [least, most].
  float wide(std::uint32_t least, std::uint32_t most);
  std::vector<float> symmetric(std::size_t n, float scale = 1.0f);
  std::vector<float> wide(std::size_t n, std::uint32_t least, std::uint32_t most);

private:
  std::uint32_t stream_;
  std::uint32_t drawn_ = 0;
};

/// Each adds its cases. Arithmetic happens in the environment that make_conformance_kit sets.
void add_arithmetic(ConformanceKit& kit);
void add_functions(ConformanceKit& kit);
void add_layers_parts(ConformanceKit& kit);
void add_presses(ConformanceKit& kit);
void add_sampling(ConformanceKit& kit);
void add_models(ConformanceKit& kit, const std::filesystem::path& folder);

}  // namespace neoxref::eval::conformance
