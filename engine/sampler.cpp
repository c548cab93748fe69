// SPDX-License-Identifier: Apache-2.0
#include "engine/sampler.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <string>

#include "engine/error.hpp"
#include "simd/float_environment.hpp"

namespace neoxref::engine {

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                    std::array<std::uint32_t, 2> key) {
  constexpr int rounds = 10;
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

namespace {

/// A compiler makes one register of it, but does not find the loops below on its own.
using Four = float __attribute__((vector_size(16)));
constexpr std::size_t registers = 4;

}  // namespace

std::size_t argmax(std::span<const float> values) {
  constexpr std::size_t step = registers * sizeof(Four) / sizeof(float);
  const auto load = [&](std::size_t from, std::size_t r) {
    Four four;
    std::memcpy(&four, values.data() + from + r * (step / registers), sizeof four);
    return four;
  };
  float max = values[0];
  std::size_t i = 0;
  if (values.size() >= step) {
    Four largest[registers];
    for (std::size_t r = 0; r < registers; ++r) largest[r] = load(0, r);
    for (; i + step <= values.size(); i += step) {
      for (std::size_t r = 0; r < registers; ++r) {
        const Four four = load(i, r);
        largest[r] = four > largest[r] ? four : largest[r];
      }
    }
    for (const Four& four : largest) {
      for (std::size_t l = 0; l < step / registers; ++l) max = std::max(max, four[l]);
    }
  }
  for (; i < values.size(); ++i) max = std::max(max, values[i]);
  for (i = 0; i + step <= values.size(); i += step) {
    auto found = load(i, 0) == max;
    for (std::size_t r = 1; r < registers; ++r) found |= load(i, r) == max;
    if ((found[0] | found[1] | found[2] | found[3]) != 0) break;
  }
  while (values[i] != max) ++i;
  return i;
}

Sampler::Sampler(const Sampling& sampling, const simd::Kernels& kernels)
    : sampling_(sampling), kernels_(kernels) {
  const float t = sampling.temperature;
  // Smaller ones make logits overflow, larger ones make them all alike.
  if (!(t == 0.0f || (t >= 1e-6f && t <= 1e6f))) {
    throw Error("temperature", "out of range", "0, or 1e-6 to 1e6", std::to_string(t));
  }
  if (!(sampling.top_p > 0.0 && sampling.top_p <= 1.0)) {
    throw Error("top_p", "out of range", "above 0 and at most 1", std::to_string(sampling.top_p));
  }
}

std::int32_t Sampler::draw(std::span<const float> logits, std::uint64_t position,
                           std::uint64_t sequence) {
  const simd::FloatEnvironment environment;
  return draw_in_contract(logits, position, sequence);
}

std::int32_t Sampler::draw_in_contract(std::span<const float> logits, std::uint64_t position,
                                       std::uint64_t sequence) {
  if (sampling_.temperature == 0.0f) return static_cast<std::int32_t>(argmax(logits));
  weights_.resize(logits.size());
  float max = logits[0] / sampling_.temperature;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    weights_[i] = logits[i] / sampling_.temperature;
    max = std::max(max, weights_[i]);
  }
  if (max - max != 0.0f) {
    throw Error("temperature", "so low that logits overflow",
                "a finite largest logit / temperature", std::to_string(max));
  }
  for (float& weight : weights_) weight = weight - max;
  kernels_.map(simd::Function::exp, weights_.data(), weights_.data(), weights_.size());

  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  const auto weight = [&](std::int32_t id) { return weights_[static_cast<std::size_t>(id)]; };
  const auto before = [&](std::int32_t a, std::int32_t b) {
    return weight(a) > weight(b) || (weight(a) == weight(b) && a < b);
  };
  if (sampling_.top_k > 0 && sampling_.top_k < order_.size()) {
    const auto end = order_.begin() + static_cast<std::ptrdiff_t>(sampling_.top_k);
    std::nth_element(order_.begin(), end, order_.end(), before);
    order_.resize(sampling_.top_k);
  }
  std::sort(order_.begin(), order_.end(), before);

  double total = 0.0;
  for (const std::int32_t id : order_) total += static_cast<double>(weight(id));
  double prefix = 0.0;
  for (std::size_t i = 0; i < order_.size(); ++i) {
    prefix += static_cast<double>(weight(order_[i]));
    if (prefix >= sampling_.top_p * total) {
      order_.resize(i + 1);
      break;
    }
  }
  const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
  const std::uint32_t word = philox({low(position), high(position), low(sequence), high(sequence)},
                                    {low(sampling_.seed), high(sampling_.seed)})[0];
  const double u = (static_cast<double>(word) + 0.5) * 0x1p-32;
  double running = 0.0;
  for (const std::int32_t id : order_) {
    running += static_cast<double>(weight(id));
    if (running > u * prefix) return id;
  }
  return order_.back();
}

}  // namespace neoxref::engine
