// SPDX-License-Identifier: Apache-2.0
// What the contract's order of sums costs: the kernels of this machine beside the same kernels freed
// from it (simd/vector/freed.hpp), in turns. Correct rounding of exp and GELU stays in both.
//
//   contract_cost [FOLDER]      a model's folder; without one, the shape of pythia-70m, seeded
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/buffer.hpp"
#include "engine/model.hpp"
#include "eval/bench.hpp"
#include "eval/synth.hpp"
#include "tests/folder.hpp"

#define NEOXREF_ISA NEOXREF_FREED_ISA
#include "simd/vector/declare.hpp"
#undef NEOXREF_ISA

namespace neoxref::tests {
namespace {

namespace freed = simd::NEOXREF_FREED_ISA;
using engine::Buffer;

constexpr std::size_t rounds = 9;
constexpr std::size_t prompts[] = {128, 512, 2048};

simd::Kernels freed_kernels(const simd::Kernels& kernels) {
  simd::Kernels table = kernels;
  table.name = "freed";
  table.product = freed::NEOXREF_FREED_PRODUCT;
  table.attention = freed::attention;
  table.layer_norm = freed::layer_norm;
  return table;
}

/// Calls of one kernel.
class KernelArm : public eval::BenchArm {
public:
  explicit KernelArm(std::function<void()> call) : call_(std::move(call)) {}
  void run(bool counts) override {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    for (int i = 0; i < 20; ++i) call_();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (counts) seconds_.push_back(seconds);
  }
  double seconds() const override {
    double sum = 0.0;
    for (const double s : seconds_) sum += s;
    return sum;
  }
  eval::Spread spread() const { return eval::spread(seconds_); }

private:
  std::function<void()> call_;
  std::vector<double> seconds_;
};

Buffer<float> numbers(std::size_t n) {
  Buffer<float> buffer(n);
  for (std::size_t i = 0; i < n; ++i) {
    buffer[i] = static_cast<float>(i * 2654435761u % 4096) * 0x1p-12f - 0.5f;
  }
  return buffer;
}

void report(const std::string& what, double contract, double without) {
  std::printf("%-44s %+6.1f %%\n", what.c_str(), 100.0 * (contract / without - 1.0));
}

/// The kernel under both tables, in turns; `call` runs it once.
void compare(const std::string& what, const simd::Kernels& contract, const simd::Kernels& without,
             const std::function<void(const simd::Kernels&)>& call) {
  KernelArm a([&] { call(contract); });
  KernelArm b([&] { call(without); });
  eval::BenchArm* const arms[] = {&a, &b};
  eval::take_turns(arms, {.warm_up = 1, .repeat = rounds});
  report(what, a.spread().median, b.spread().median);
}

void compare_product(std::size_t rows, std::size_t depth, std::size_t outputs,
                     const simd::Kernels& contract, const simd::Kernels& without) {
  const Buffer<float> input = numbers(rows * depth);
  Buffer<std::uint16_t> weights(depth * outputs);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = static_cast<std::uint16_t>(0x2c00 + i * 2654435761u % 1024);
  }
  Buffer<float> output(rows * outputs);
  Buffer<float> scratch(simd::product_scratch(rows, depth));
  const std::string what = "product " + std::to_string(rows) + " x " + std::to_string(depth) +
                           " x " + std::to_string(outputs) + ", float16 weights";
  compare(what, contract, without, [&](const simd::Kernels& kernels) {
    kernels.product(
        {.rows = rows,
         .depth = depth,
         .outputs = outputs,
         .input = input.data(),
         .input_stride = depth,
         .weights = {weights.data(), simd::Dtype::f16, simd::lanes, depth * simd::lanes},
         .bias = nullptr,
         .output = output.data(),
         .output_stride = outputs,
         .scratch = scratch.data()});
  });
}

void compare_attention(std::size_t queries, std::size_t slots, const simd::Kernels& contract,
                       const simd::Kernels& without) {
  constexpr std::size_t head_dim = 64;
  const Buffer<float> query = numbers(queries * head_dim);
  const Buffer<float> keys = numbers(slots * head_dim);
  const Buffer<float> values = numbers(slots * head_dim);
  Buffer<float> output(queries * head_dim);
  Buffer<float> scratch(simd::attention_scratch(queries, slots, head_dim));
  const std::string what =
      "attention, " + std::to_string(queries) + " queries, " + std::to_string(slots) + " slots";
  compare(what, contract, without, [&](const simd::Kernels& kernels) {
    kernels.attention({.queries = queries,
                       .first_slots = slots - queries + 1,
                       .head_dim = head_dim,
                       .query = query.data(),
                       .query_stride = head_dim,
                       .keys = keys.data(),
                       .values = values.data(),
                       .value_stride = head_dim,
                       .scale = 0.125f,
                       .output = output.data(),
                       .output_stride = head_dim,
                       .scratch = scratch.data()});
  });
}

void compare_norm(const simd::Kernels& contract, const simd::Kernels& without) {
  constexpr std::size_t hidden = 512;
  const Buffer<float> x = numbers(hidden);
  Buffer<float> y(hidden);
  compare("LayerNorm of 512, 500 times", contract, without, [&](const simd::Kernels& kernels) {
    for (int i = 0; i < 500; ++i) {
      kernels.layer_norm(x.data(), hidden, x.data(), x.data(), 1e-5f, y.data(), simd::dot_block);
    }
  });
}

void compare_model(const std::filesystem::path& folder, const simd::Kernels& without) {
  for (const std::size_t threads : {std::size_t{1}, std::size_t{2}}) {
    engine::RunOptions options;
    options.isa = simd::isa_name(without.isa);
    options.threads = threads;
    engine::Model contract = engine::Model::load(folder, options);
    options.kernels = &without;
    engine::Model other = contract.share(options);
    std::vector<std::unique_ptr<eval::SpeedArm>> pairs;
    std::vector<std::string> names;
    const std::string on = ", " + std::to_string(threads) + (threads == 1 ? " thread" : " threads");
    for (const std::size_t tokens : prompts) {
      names.push_back("prompt of " + std::to_string(tokens) + on);
      for (engine::Model* model : {&contract, &other}) {
        pairs.push_back(std::make_unique<eval::PrefillArm>(*model, tokens, 1));
      }
    }
    names.push_back("new tokens at 256" + on);
    for (engine::Model* model : {&contract, &other}) {
      pairs.push_back(std::make_unique<eval::DecodeArm>(*model, 256, 32, 1));
    }
    std::vector<eval::BenchArm*> arms;
    for (const auto& arm : pairs) arms.push_back(arm.get());
    eval::take_turns(arms, {.warm_up = 1, .repeat = rounds});
    for (std::size_t i = 0; i < names.size(); ++i) {
      report(names[i], 1.0 / pairs[2 * i]->tokens_per_second().median,
             1.0 / pairs[2 * i + 1]->tokens_per_second().median);
    }
  }
}

int run(int count, char** arguments) {
  constexpr simd::Isa isa = simd::Isa::NEOXREF_MEASURED_ISA;
  const auto usable = simd::usable_isas();
  if (std::find(usable.begin(), usable.end(), isa) == usable.end()) {
    std::fprintf(stderr, "this CPU has no %s\n", std::string(simd::isa_name(isa)).c_str());
    return 77;  // skipped
  }
  const simd::Kernels& contract = simd::kernels(isa);
  const simd::Kernels without = freed_kernels(contract);
  std::printf("%s, time with the contract's order of sums over time without it:\n", contract.name);
  compare_product(512, 512, 2048, contract, without);
  compare_product(512, 2048, 512, contract, without);
  compare_product(16, 512, 2048, contract, without);
  compare_product(1, 512, 50304, contract, without);
  compare_attention(512, 512, contract, without);
  compare_attention(1, 2048, contract, without);
  compare_norm(contract, without);
  if (count > 1) {
    compare_model(arguments[1], without);
    return 0;
  }
  const TemporaryFolder folder;
  eval::write_synth(eval::shape_config("pythia-70m"), {}, folder.path() / "model");
  compare_model(folder.path() / "model", without);
  return 0;
}

}  // namespace
}  // namespace neoxref::tests

int main(int count, char** arguments) {
  try {
    return neoxref::tests::run(count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
