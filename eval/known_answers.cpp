// SPDX-License-Identifier: Apache-2.0
#include "eval/known_answers.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "engine/buffer.hpp"
#include "simd/float_environment.hpp"
#include "simd/function_names.hpp"

namespace neoxref::eval {
namespace {

using engine::Buffer;
using simd::Kernels;

/// The same numbers on every machine: splitmix64.
class Numbers {
public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// In (-1, 1), all 24 bits in use.
  float symmetric() {
    return (static_cast<float>(static_cast<std::int32_t>(next() >> 40) - (1 << 23)) + 0.5f) *
           0x1p-23f;
  }

private:
  std::uint64_t state_;
};

Buffer<float> random(std::size_t count, std::uint64_t seed, float scale = 1.0f) {
  Numbers numbers(seed);
  Buffer<float> values(simd::round_up(count, simd::lanes));
  for (std::size_t i = 0; i < count; ++i) values.data()[i] = scale * numbers.symmetric();
  return values;
}

std::vector<float> copy(const Buffer<float>& from, std::size_t count) {
  return {from.data(), from.data() + count};
}

bool same_values(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y) || (x != x && y != y);
  });
}

/// What a kernel of a table answers to its questions.
using Question = std::function<std::vector<float>(const Kernels&)>;

std::vector<float> product(const Kernels& kernels, simd::Dtype dtype) {
  std::vector<float> answers;
  for (const std::size_t rows : {1u, 3u, 12u, 17u, 29u, 101u}) {
    for (const std::size_t depth : {1u, 63u, 64u, 65u, 200u}) {
      constexpr std::size_t outputs = 69;
      constexpr std::size_t panels = 5;
      // Rows, or the same floats as blocks of columns.
      const Buffer<float> input =
          random(rows * simd::round_up(depth, simd::dot_block), rows + depth);
      const Buffer<float> bias = random(outputs, 5);
      // Any 16 bits with an exponent that is not the largest are a finite weight.
      Numbers numbers(depth);
      std::vector<std::uint16_t> narrow(panels * depth * simd::lanes);
      for (auto& bits : narrow) bits = static_cast<std::uint16_t>(numbers.next() & 0xbbff);
      const Buffer<float> wide = random(narrow.size(), depth);
      Buffer<float> scratch(simd::product_scratch(rows, depth));
      Buffer<float> output(rows * simd::round_up(outputs, simd::dot_block));
      const void* const weights = dtype == simd::Dtype::f32
                                      ? static_cast<const void*>(wide.data())
                                      : static_cast<const void*>(narrow.data());
      for (const bool in_blocks : {false, true}) {
        const std::size_t block = in_blocks ? rows * simd::dot_block : simd::dot_block;
        const std::size_t output_stride = in_blocks ? simd::dot_block : outputs;
        kernels.product({.rows = rows,
                         .depth = depth,
                         .outputs = outputs,
                         .input = input.data(),
                         .input_stride = in_blocks ? simd::dot_block : depth,
                         .weights = {weights, dtype, simd::lanes, depth * simd::lanes},
                         .bias = depth == 64 ? nullptr : bias.data(),
                         .output = output.data(),
                         .output_stride = output_stride,
                         .scratch = scratch.data(),
                         .input_block = block,
                         .output_block = block});
        for (std::size_t i = 0; i < rows * outputs; ++i) {
          answers.push_back(
              output[i / outputs * output_stride + simd::in_blocks(i % outputs, block)]);
        }
      }
    }
  }
  return answers;
}

/// Keys of some slots as panels.
Buffer<float> panels(const Kernels& kernels, std::size_t slots, std::size_t head_dim) {
  const Buffer<float> keys = random(slots * head_dim, slots + head_dim, 2.0f);
  Buffer<float> panels(simd::round_up(slots, simd::lanes) * head_dim);
  kernels.store_keys(keys.data(), head_dim, slots, head_dim, panels.data(), 0);
  return panels;
}

std::vector<float> attention(const Kernels& kernels) {
  std::vector<float> answers;
  for (const std::size_t head_dim : {8u, 20u, 64u}) {
    for (const std::size_t first : {1u, 60u, 140u}) {
      constexpr std::size_t queries = 13;
      const std::size_t slots = first + queries - 1;
      const std::size_t stride = simd::round_up(head_dim, simd::lanes);
      const Buffer<float> query = random(queries * head_dim, first, 2.0f);
      const Buffer<float> keys = panels(kernels, slots, head_dim);
      Buffer<float> values(slots * stride);
      const Buffer<float> dense = random(slots * head_dim, first + 1);
      for (std::size_t slot = 0; slot < slots; ++slot) {
        std::copy_n(dense.data() + slot * head_dim, head_dim, values.data() + slot * stride);
      }
      Buffer<float> scratch(simd::attention_scratch(queries, slots, head_dim));
      Buffer<float> weights(queries * slots);
      Buffer<float> output(queries * head_dim);
      kernels.attention({.queries = queries,
                         .first_slots = first,
                         .head_dim = head_dim,
                         .query = query.data(),
                         .query_stride = head_dim,
                         .keys = keys.data(),
                         .values = values.data(),
                         .value_stride = stride,
                         .scale = static_cast<float>(1.0 / std::sqrt(double(head_dim))),
                         .output = output.data(),
                         .output_stride = head_dim,
                         .scratch = scratch.data(),
                         .weights = weights.data(),
                         .weights_stride = slots});
      const auto more = copy(output, queries * head_dim);
      answers.insert(answers.end(), more.begin(), more.end());
      for (std::size_t i = 0; i < queries; ++i) {
        const float* const row = weights.data() + i * slots;
        answers.insert(answers.end(), row, row + first + i);
      }
    }
  }
  return answers;
}

std::vector<float> norm(const Kernels& kernels) {
  std::vector<float> answers;
  for (std::size_t n = 1; n <= 80; ++n) {
    Buffer<float> x = random(n, n, 3.0f);
    const Buffer<float> gamma = random(n, 2);
    const Buffer<float> beta = random(n, 3);
    constexpr std::size_t apart = simd::dot_block + simd::lanes;
    Buffer<float> blocks(2 * apart);
    const auto ask = [&](float* y, std::size_t block) {
      const bool finite =
          kernels.layer_norm(x.data(), n, gamma.data(), beta.data(), 1e-5f, y, block);
      answers.push_back(finite ? 1.0f : 0.0f);
      for (std::size_t i = 0; i < n; ++i) answers.push_back(y[simd::in_blocks(i, block)]);
    };
    ask(blocks.data(), apart);
    ask(x.data(), simd::dot_block);
  }
  return answers;
}

std::vector<float> rotate(const Kernels& kernels) {
  std::vector<float> answers;
  for (std::size_t half = 1; half <= 24; ++half) {
    Buffer<float> x = random(2 * half, half, 3.0f);
    const Buffer<float> cos = random(half, 2);
    const Buffer<float> sin = random(half, 3);
    kernels.rotate(x.data(), cos.data(), sin.data(), 2 * half);
    answers.insert(answers.end(), x.data(), x.data() + 2 * half);
  }
  return answers;
}

std::vector<float> key_norms(const Kernels& kernels) {
  constexpr std::size_t slots = 37;
  std::vector<float> answers;
  for (const std::size_t head_dim : {1u, 20u, 64u, 80u}) {
    const Buffer<float> keys = panels(kernels, slots, head_dim);
    Buffer<float> norms(slots);
    answers.push_back(kernels.key_norms(keys.data(), head_dim, 0, slots, norms.data()) ? 1 : 0);
    answers.insert(answers.end(), norms.data(), norms.data() + slots);
  }
  return answers;
}

std::vector<float> compact(const Kernels& kernels, bool keys) {
  constexpr std::size_t slots = 53;
  constexpr std::size_t width = 32;
  std::vector<std::uint32_t> kept;
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    if (slot % 7 != 2 && slot % 5 != 3) kept.push_back(slot);
  }
  Buffer<float> values = keys ? panels(kernels, slots, width) : random(slots * width, 11);
  (keys ? kernels.compact_keys : kernels.compact_rows)(values.data(), width, kept.data(),
                                                       kept.size());
  std::vector<float> answers;
  for (std::size_t slot = 0; slot < kept.size(); ++slot) {
    for (std::size_t d = 0; d < width; ++d) {
      answers.push_back(
          values.data()[keys ? (slot / simd::lanes * width + d) * simd::lanes + slot % simd::lanes
                             : slot * width + d]);
    }
  }
  return answers;
}

/// Values that a function may meet: special ones, and some of each exponent and sign.
std::vector<float> arguments() {
  std::vector<float> all = {0.0f, -0.0f, std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()};
  Numbers numbers(17);
  for (std::uint32_t exponent = 0; exponent < 255; ++exponent) {
    for (int i = 0; i < 16; ++i) {
      const auto bits = static_cast<std::uint32_t>(numbers.next());
      all.push_back(std::bit_cast<float>((bits & 0x807fffffu) | (exponent << 23)));
    }
  }
  for (int i = 0; i < 2000; ++i) all.push_back(12.0f * numbers.symmetric());
  return all;
}

std::vector<float> map(const Kernels& kernels, simd::Function function) {
  std::vector<float> values = arguments();
  kernels.map(function, values.data(), values.data(), values.size());
  return values;
}

std::vector<float> add(const Kernels& kernels, bool three) {
  std::vector<float> answers;
  for (std::size_t n = 1; n <= 67; ++n) {
    const Buffer<float> a = random(n, 1);
    const Buffer<float> b = random(n, 2);
    const Buffer<float> c = random(n, 3);
    Buffer<float> sum(n);
    if (three) {
      kernels.add3(a.data(), b.data(), c.data(), sum.data(), n);
    } else {
      kernels.add(a.data(), b.data(), sum.data(), n);
    }
    answers.insert(answers.end(), sum.data(), sum.data() + n);
  }
  return answers;
}

/// Every 16-bit number, or some of 32.
std::vector<float> widen(const Kernels& kernels, simd::Dtype dtype) {
  std::vector<std::uint16_t> narrow(65536);
  for (std::size_t i = 0; i < narrow.size(); ++i) narrow[i] = static_cast<std::uint16_t>(i);
  const std::vector<float> wide = arguments();
  const bool f32 = dtype == simd::Dtype::f32;
  std::vector<float> answers(f32 ? wide.size() : narrow.size());
  kernels.widen(dtype, f32 ? static_cast<const void*>(wide.data()) : narrow.data(), answers.data(),
                answers.size());
  return answers;
}

std::vector<float> max_and_sum(const Kernels& kernels) {
  std::vector<float> answers;
  for (std::size_t n = 1; n <= 150; n += 7) {
    const Buffer<float> x = random(n, n, 20.0f);
    const simd::MaxAndSum found = kernels.max_and_sum(x.data(), n);
    answers.push_back(found.max);
    answers.push_back(found.sum);
  }
  return answers;
}

std::vector<float> weighted_difference(const Kernels& kernels) {
  std::vector<float> answers;
  for (std::size_t n = 1; n <= 150; n += 7) {
    const Buffer<float> a = random(n, n);
    const Buffer<float> b = random(n, n + 1);
    const Buffer<float> weights = random(n, n + 2);
    const auto bits = std::bit_cast<std::uint64_t>(
        kernels.weighted_difference(weights.data(), a.data(), b.data(), n));
    for (int shift = 0; shift < 64; shift += 16) {
      answers.push_back(static_cast<float>(bits >> shift & 0xffff));
    }
  }
  return answers;
}

std::vector<float> all_finite(const Kernels& kernels) {
  std::vector<float> answers;
  for (std::size_t n = 1; n <= 67; ++n) {
    Buffer<float> x = random(n, n);
    answers.push_back(kernels.all_finite(x.data(), n) ? 1.0f : 0.0f);
    x.data()[n * 5 % n] = std::numeric_limits<float>::infinity();
    answers.push_back(kernels.all_finite(x.data(), n) ? 1.0f : 0.0f);
    x.data()[n * 5 % n] = 1.0f;
    x.data()[n - 1] = std::numeric_limits<float>::quiet_NaN();
    answers.push_back(kernels.all_finite(x.data(), n) ? 1.0f : 0.0f);
  }
  return answers;
}

std::vector<std::pair<std::string, Question>> questions() {
  using simd::Dtype;
  using simd::Function;
  std::vector<std::pair<std::string, Question>> all;
  for (const auto& [name, dtype] :
       {std::pair{"f32", Dtype::f32}, {"f16", Dtype::f16}, {"bf16", Dtype::bf16}}) {
    const Dtype type = dtype;
    all.emplace_back(std::string("product ") + name,
                     [type](const Kernels& kernels) { return product(kernels, type); });
    all.emplace_back(std::string("widen ") + name,
                     [type](const Kernels& kernels) { return widen(kernels, type); });
  }
  all.emplace_back("attention", attention);
  all.emplace_back("layer_norm", norm);
  all.emplace_back("rotate", rotate);
  all.emplace_back("store_keys", [](const Kernels& k) { return copy(panels(k, 37, 20), 37 * 20); });
  all.emplace_back("key_norms", key_norms);
  all.emplace_back("compact_keys", [](const Kernels& k) { return compact(k, true); });
  all.emplace_back("compact_rows", [](const Kernels& k) { return compact(k, false); });
  for (const auto& [name, function] : simd::named_functions) {
    const Function which = function;
    all.emplace_back(name, [which](const Kernels& kernels) { return map(kernels, which); });
  }
  all.emplace_back("add3", [](const Kernels& k) { return add(k, true); });
  all.emplace_back("add", [](const Kernels& k) { return add(k, false); });
  all.emplace_back("max_and_sum", max_and_sum);
  all.emplace_back("weighted_difference", weighted_difference);
  all.emplace_back("all_finite", all_finite);
  return all;
}

}  // namespace

std::vector<KernelAnswer> check_kernels(const Kernels& kernels) {
  const simd::FloatEnvironment environment;
  const Kernels& scalar = simd::kernels(simd::Isa::scalar);
  std::vector<KernelAnswer> answers;
  for (const auto& [name, ask] : questions()) {
    const std::vector<float> expected = ask(scalar);
    answers.push_back({name, expected.size(), same_values(expected, ask(kernels))});
  }
  return answers;
}

}  // namespace neoxref::eval
