// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "engine/error.hpp"
#include "engine/sampler.hpp"
#include "eval/synth.hpp"
#include "simd/float_environment.hpp"

namespace neoxref::eval {
namespace {

// config.json of each model on the Hub.
constexpr std::array<NamedShape, 11> shapes = {{
    {"pythia-14m", 6, 128, 4, 512, 50304},
    {"pythia-31m", 6, 256, 8, 1024, 50304},
    {"pythia-70m", 6, 512, 8, 2048, 50304},
    {"pythia-160m", 12, 768, 12, 3072, 50304},
    {"pythia-410m", 24, 1024, 16, 4096, 50304},
    {"pythia-1b", 16, 2048, 8, 8192, 50304},
    {"pythia-1.4b", 24, 2048, 16, 8192, 50304},
    {"pythia-2.8b", 32, 2560, 32, 10240, 50304},
    {"pythia-6.9b", 32, 4096, 32, 16384, 50432},
    {"pythia-12b", 36, 5120, 40, 20480, 50688},
    {"gpt-neox-20b", 44, 6144, 64, 24576, 50432},
}};

constexpr float outlier_factor = 8.0f;
/// Counter of the draws that choose the outlier channels; no tensor has this number.
constexpr std::uint32_t outlier_stream = 0xffffffff;

std::array<std::uint32_t, 4> draw(std::uint64_t seed, std::uint64_t index, std::uint32_t stream) {
  return engine::philox(
      {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), stream, 0},
      {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

/// A whole number of mean 0, exact in binary32.
float centered(std::uint32_t a, std::uint32_t b) {
  const std::uint32_t sum = (a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16);
  return static_cast<float>(2 * static_cast<std::int32_t>(sum) - 4 * 65535);
}

enum class Outliers { none, columns, rows };

struct Kind {
  double deviation;
  float offset;
  Outliers outliers;
};

Kind kind_of(const engine::Config& config, std::string_view name) {
  const auto hidden = static_cast<double>(config.hidden);
  const auto layers = static_cast<double>(config.layers);
  const double small = std::sqrt(2.0 / (5.0 * hidden));
  const double back = 2.0 / (layers * std::sqrt(hidden));
  const bool weight = name.ends_with(".weight");
  if (name.find("layer_norm") != name.npos || name.find("layernorm") != name.npos) {
    return {0.1, weight ? 1.0f : 0.0f, Outliers::none};
  }
  const bool to_stream =
      name.find(".dense.") != name.npos || name.find(".dense_4h_to_h.") != name.npos;
  if (to_stream) return {weight ? back : 0.02, 0.0f, Outliers::rows};
  if (name.find("embed_out") != name.npos) return {5.0 / std::sqrt(hidden), 0.0f, Outliers::none};
  if (name.find("embed_in") != name.npos) return {small, 0.0f, Outliers::columns};
  return {weight ? small : 0.02, 0.0f, Outliers::none};
}

/// Bits of a binary32 rounded to nearest even where `dropped` bits behind `value` go away.
std::uint32_t shift_to_even(std::uint32_t value, int dropped) {
  const std::uint32_t half = std::uint32_t{1} << (dropped - 1);
  const std::uint32_t rest = value & ((half << 1) - 1);
  const std::uint32_t kept = value >> dropped;
  return kept + (rest > half || (rest == half && (kept & 1) != 0) ? 1 : 0);
}

}  // namespace

std::span<const NamedShape> named_shapes() {
  return shapes;
}

engine::Config shape_config(std::string_view name) {
  std::string names;
  for (const NamedShape& shape : shapes) {
    names += (names.empty() ? "" : ", ") + std::string(shape.name);
    if (shape.name != name) continue;
    engine::Config config;
    config.layers = shape.layers;
    config.hidden = shape.hidden;
    config.heads = shape.heads;
    config.head_dim = shape.hidden / shape.heads;
    config.intermediate = shape.intermediate;
    config.vocab = shape.vocab;
    config.rotary_dims = config.head_dim / 4;
    config.eos_token_ids = {0};
    return config;
  }
  throw engine::Error("shape", "unknown name", names, name);
}

SynthValues::SynthValues(const engine::Config& config, std::uint64_t seed)
    : config_(config), seed_(seed), is_outlier_(config.hidden, false) {
  const std::size_t wanted = std::min(config.hidden, std::max<std::size_t>(2, config.hidden / 128));
  std::size_t found = 0;
  for (std::uint64_t i = 0; found < wanted; ++i) {
    const std::size_t channel = draw(seed, i, outlier_stream)[0] % config.hidden;
    if (is_outlier_[channel]) continue;
    is_outlier_[channel] = true;
    ++found;
  }
  for (std::size_t i = 0; i < config.hidden; ++i) {
    if (is_outlier_[i]) outliers_.push_back(i);
  }
}

namespace {

/// Not inlined: no operation may slip out of the environment that the caller sets around it.
[[gnu::noinline]] void fill_values(const Kind& kind, std::uint64_t seed, std::uint32_t number,
                                   std::size_t width, std::uint64_t first,
                                   const std::vector<bool>& is_outlier, std::span<float> out) {
  const double spread = std::sqrt(4.0 * (65536.0 * 65536.0 - 1.0) / 3.0);
  const auto factor = static_cast<float>(kind.deviation / spread);
  std::uint64_t drawn = ~std::uint64_t{0};
  std::array<std::uint32_t, 4> words{};
  std::uint64_t row = first / width;
  std::uint64_t column = first % width;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t element = first + i;
    if (element / 2 != drawn) {
      drawn = element / 2;
      words = draw(seed, drawn, number);
    }
    const float n = element % 2 == 0 ? centered(words[0], words[1]) : centered(words[2], words[3]);
    float value = n * factor + kind.offset;
    const bool outlier = kind.outliers == Outliers::columns ? is_outlier[column]
                         : kind.outliers == Outliers::rows  ? is_outlier[row]
                                                            : false;
    if (outlier) value *= outlier_factor;
    out[i] = value;
    if (++column == width) {
      column = 0;
      ++row;
    }
  }
}

}  // namespace

void SynthValues::fill(std::size_t number, std::string_view name, std::size_t width,
                       std::uint64_t first, std::span<float> out) const {
  const simd::FloatEnvironment environment;
  fill_values(kind_of(config_, name), seed_, static_cast<std::uint32_t>(number), width, first,
              is_outlier_, out);
}

std::uint16_t to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  constexpr std::uint32_t infinity = 0x7c00;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (exponent > 15) return static_cast<std::uint16_t>(sign | infinity);
  if (exponent < -25) return sign;
  if (exponent < -14) {
    const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    return static_cast<std::uint16_t>(sign | shift_to_even(mantissa, -exponent - 1));
  }
  // A carry out of the mantissa raises the exponent, up to infinity.
  const std::uint32_t rebiased = magnitude - (std::uint32_t{127 - 15} << 23);
  return static_cast<std::uint16_t>(sign | shift_to_even(rebiased, 13));
}

std::uint16_t to_bf16(float value) {
  return static_cast<std::uint16_t>(shift_to_even(std::bit_cast<std::uint32_t>(value), 16));
}

}  // namespace neoxref::eval
