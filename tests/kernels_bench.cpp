// SPDX-License-Identifier: Apache-2.0
// Kernel speeds beside the limits of the same core, measured in the same process: products against
// a loop of independent fma, whatever streams against a loop that only reads (or a copy that moves)
// as many bytes. Kernel and limit take turns, so that a slow moment hits both, and the shares are
// quotients of medians. Run it pinned to one core:  taskset -c 1 kernels_bench
#include <benchmark/benchmark.h>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "simd/function_names.hpp"
#include "simd/kernels.hpp"
#include "simd/limits.hpp"
#include "tests/timed_beside.hpp"

namespace neoxref::simd {
// simd/vector/attention.cpp once more, with its softmax left out (tests/meson.build).
namespace avx2_products {
void attention(const Attention& a) noexcept;
}
namespace avx512_products {
void attention(const Attention& a) noexcept;
}
namespace neon_products {
void attention(const Attention& a) noexcept;
}
}  // namespace neoxref::simd

namespace neoxref::tests {
namespace {

using simd::Dtype;
using simd::Isa;
using simd::Kernels;
using simd::lanes;

struct Matrix {
  std::size_t rows;
  std::size_t depth;
  std::size_t outputs;
  Dtype dtype;
};

void product(benchmark::State& state, const Kernels& table, const Limits& limits, Matrix m) {
  const std::size_t width = round_up(m.outputs, lanes);
  const std::size_t weight_bytes = m.depth * width * (m.dtype == Dtype::f32 ? 4 : 2);
  Buffer input(m.rows * m.depth);
  Buffer weights(weight_bytes / sizeof(float));
  if (m.dtype != Dtype::f32) {
    // Patterns of ordinary numbers: 1.0 to 2.0 in binary16, near 0.0078 in bfloat16.
    auto* bits = reinterpret_cast<unsigned char*>(weights.data());
    for (std::size_t i = 0; i < weight_bytes; ++i) bits[i] = i % 2 == 0 ? i % 251 & 0xff : 0x3c;
  }
  Buffer output(m.rows * m.outputs);
  Buffer scratch(simd::product_scratch(m.rows, m.depth, true));
  // Input as the layers have it: in blocks of columns.
  const auto work = [&] {
    table.product({.rows = m.rows,
                   .depth = m.depth,
                   .outputs = m.outputs,
                   .input = input.data(),
                   .input_stride = simd::dot_block,
                   .weights = {weights.data(), m.dtype, lanes, m.depth * lanes, m.rows == 1},
                   .bias = nullptr,
                   .output = output.data(),
                   .output_stride = m.outputs,
                   .scratch = scratch.data(),
                   .input_block = m.rows * simd::dot_block});
  };
  if (m.rows == 1) {
    against_read(state, limits, weight_bytes, work);
  } else {
    against_fma(state, limits, 2.0 * static_cast<double>(m.rows * m.depth * m.outputs), work);
  }
}

using AttentionKernel = decltype(Kernels::attention);

/// The last `queries` tokens of a cache of `slots`; watched: the softmax itself is wanted too.
void attention(benchmark::State& state, AttentionKernel kernel, const Limits& limits,
               std::size_t queries, std::size_t slots, std::size_t head_dim, bool watched) {
  const std::size_t stride = round_up(head_dim, lanes);
  Buffer query(queries * head_dim);
  Buffer keys(round_up(slots, lanes) * head_dim);
  Buffer values(slots * stride);
  Buffer output(queries * head_dim);
  Buffer scratch(simd::attention_scratch(queries, slots, head_dim));
  Buffer weights(watched ? queries * slots : 0);
  const std::size_t first = slots - queries + 1;
  const auto work = [&] {
    kernel({queries, first, head_dim, query.data(), head_dim, keys.data(), values.data(), stride,
            0.125f, output.data(), head_dim, scratch.data(), watched ? weights.data() : nullptr,
            slots});
  };
  if (queries == 1) {
    against_read(state, limits, slots * (head_dim + stride) * sizeof(float), work);
  } else {
    const std::size_t pairs = queries * first + queries * (queries - 1) / 2;
    against_fma(state, limits, 4.0 * static_cast<double>(pairs * head_dim), work);
  }
}

void layer_norm(benchmark::State& state, const Kernels& table, const Limits& limits,
                std::size_t n) {
  Buffer x(n);
  Buffer gamma(n);
  Buffer beta(n);
  Buffer y(n);
  against_read(state, limits, 3 * n * sizeof(float), [&] {
    table.layer_norm(x.data(), n, gamma.data(), beta.data(), 1e-5f, y.data(), simd::dot_block);
  });
}

/// Cuts many heads, each of `slots`, so that the caches lie in memory and not in the core.
/// Against memcpy of the kept bytes of the same heads to another place.
void compaction(benchmark::State& state, const Kernels& table, bool keys, std::size_t percent) {
  constexpr std::size_t heads = 64;
  constexpr std::size_t slots = 1024;
  constexpr std::size_t head_dim = 64;
  constexpr std::size_t size = slots * head_dim;
  Buffer cache(heads * size);
  Buffer copy(heads * size);
  std::vector<std::uint32_t> kept;
  for (std::uint32_t s = 0; s < slots; ++s) {
    if (s * 2654435761u >> 16 & 0xff) {
      if (s * 40503u % 65536u * 100u < percent * 65536u) kept.push_back(s);
    }
  }
  const std::size_t moved = kept.size() * head_dim;
  const double bytes = static_cast<double>(heads * moved * sizeof(float));
  against(
      state, "B/s", bytes,
      [&] {
        for (std::size_t h = 0; h < heads; ++h) {
          (keys ? table.compact_keys : table.compact_rows)(cache.data() + h * size, head_dim,
                                                           kept.data(), kept.size());
        }
      },
      bytes,
      [&] {
        for (std::size_t h = 0; h < heads; ++h) {
          std::memcpy(copy.data() + h * size, cache.data() + h * size, moved * sizeof(float));
        }
      });
}

void widen(benchmark::State& state, const Kernels& table, const Limits& limits, Dtype dtype) {
  constexpr std::size_t n = 1 << 16;
  const std::size_t bytes = n * (dtype == Dtype::f32 ? 4 : 2);
  Buffer in(n);
  Buffer out(n);
  std::memset(in.data(), 0x3c, bytes);
  against_read(state, limits, bytes, [&] { table.widen(dtype, in.data(), out.data(), n); });
}

/// Arguments from -8 to 8, those of an activation; log takes them above 0.
void map(benchmark::State& state, const Kernels& table, const Limits& limits,
         simd::Function function) {
  constexpr std::size_t n = 1 << 14;
  Buffer in(n);
  Buffer out(n);
  const float shift = function == simd::Function::log ? 8.5f : 0.0f;
  for (std::size_t i = 0; i < n; ++i) in.data()[i] = in.data()[i] * 16.0f + shift;
  against_read(state, limits, n * sizeof(float),
               [&] { table.map(function, in.data(), out.data(), n); });
  const double rate = state.counters["B/s"];
  state.counters["ns_an_element"] = Counter(1e9 * sizeof(float) / rate);
}

void streams(const Kernels& table, const Limits& limits) {
  const std::string prefix = std::string(table.name) + "/";
  const auto add = [&](const std::string& name, auto run) {
    benchmark::RegisterBenchmark((prefix + name).c_str(), run)->UseManualTime();
  };
  add("layer_norm/512", [&](benchmark::State& s) { layer_norm(s, table, limits, 512); });
  add("add3/2048", [&](benchmark::State& s) {
    Buffer a(2048);
    Buffer b(2048);
    Buffer c(2048);
    against_read(s, limits, 3 * 2048 * sizeof(float),
                 [&] { table.add3(a.data(), b.data(), c.data(), c.data(), 2048); });
  });
  add("add/2048", [&](benchmark::State& s) {
    Buffer a(2048);
    Buffer b(2048);
    against_read(s, limits, 2 * 2048 * sizeof(float),
                 [&] { table.add(a.data(), b.data(), b.data(), 2048); });
  });
  for (const auto& [name, function] : simd::named_functions) {
    add("map/" + std::string(name),
        [&, of = function](benchmark::State& s) { map(s, table, limits, of); });
  }
  add("widen/f32", [&](benchmark::State& s) { widen(s, table, limits, Dtype::f32); });
  add("widen/f16", [&](benchmark::State& s) { widen(s, table, limits, Dtype::f16); });
  add("widen/bf16", [&](benchmark::State& s) { widen(s, table, limits, Dtype::bf16); });
  add("all_finite/50304", [&](benchmark::State& s) {
    Buffer x(50304);
    against_read(s, limits, 50304 * sizeof(float),
                 [&] { benchmark::DoNotOptimize(table.all_finite(x.data(), 50304)); });
  });
  add("max_and_sum/50304", [&](benchmark::State& s) {
    Buffer x(50304);
    against_read(s, limits, 50304 * sizeof(float),
                 [&] { benchmark::DoNotOptimize(table.max_and_sum(x.data(), 50304)); });
  });
  add("weighted_difference/50304", [&](benchmark::State& s) {
    Buffer weights(50304), a(50304), b(50304);
    against_read(s, limits, 3 * 50304 * sizeof(float), [&] {
      benchmark::DoNotOptimize(
          table.weighted_difference(weights.data(), a.data(), b.data(), 50304));
    });
  });
  add("rotate/64x16", [&](benchmark::State& s) {
    Buffer x(64 * 64);
    Buffer angles(8);
    against_read(s, limits, 64 * 16 * sizeof(float), [&] {
      for (std::size_t i = 0; i < 64; ++i) {
        table.rotate(x.data() + i * 64, angles.data(), angles.data(), 16);
      }
    });
  });
  add("store_keys/512x64", [&](benchmark::State& s) {
    Buffer key(512 * 64);
    Buffer panels(512 * 64);
    against_read(s, limits, 512 * 64 * sizeof(float),
                 [&] { table.store_keys(key.data(), 64, 512, 64, panels.data(), 0); });
  });
  add("key_norms/512x64", [&](benchmark::State& s) {
    Buffer panels(512 * 64);
    Buffer norms(512);
    against_read(s, limits, 512 * 64 * sizeof(float),
                 [&] { table.key_norms(panels.data(), 64, 0, 512, norms.data()); });
  });
  for (const std::size_t percent : {std::size_t{10}, std::size_t{50}, std::size_t{90}}) {
    add("compact_keys/" + std::to_string(percent),
        [&table, percent](benchmark::State& s) { compaction(s, table, true, percent); });
    add("compact_rows/" + std::to_string(percent),
        [&table, percent](benchmark::State& s) { compaction(s, table, false, percent); });
  }
}

void products(const Kernels& table, const Limits& limits) {
  const Matrix shapes[] = {
      {512, 512, 2048, Dtype::f32},  {512, 2048, 512, Dtype::f32}, {512, 512, 2048, Dtype::f16},
      {512, 512, 1536, Dtype::bf16}, {64, 512, 2048, Dtype::f32},  {16, 512, 2048, Dtype::f16},
      {8, 512, 2048, Dtype::f32},    {4, 512, 2048, Dtype::f32},   {1, 512, 50304, Dtype::f32},
      {1, 512, 50304, Dtype::f16},   {1, 512, 50304, Dtype::bf16}, {1, 512, 2048, Dtype::f32},
      {1, 2048, 512, Dtype::f16},    {96, 4096, 1024, Dtype::f16}, {96, 4096, 1024, Dtype::f32},
      {96, 8192, 2048, Dtype::f16},  {96, 8192, 2048, Dtype::f32},
  };
  const char* names[] = {"f32", "f16", "bf16"};
  for (const Matrix& m : shapes) {
    const std::string name = std::string(table.name) + "/product/" + std::to_string(m.rows) + "x" +
                             std::to_string(m.depth) + "x" + std::to_string(m.outputs) + "/" +
                             names[static_cast<std::size_t>(m.dtype)];
    benchmark::RegisterBenchmark(name.c_str(), [&table, &limits, m](benchmark::State& s) {
      product(s, table, limits, m);
    })->UseManualTime();
  }
}

/// The same without softmax: its two products alone.
AttentionKernel products_of_attention(Isa isa) {
  switch (isa) {
#ifdef NEOXREF_HAVE_AVX2
    case Isa::avx2:
      return simd::avx2_products::attention;
#endif
#ifdef NEOXREF_HAVE_AVX512
    case Isa::avx512:
    case Isa::zen4:
      return simd::avx512_products::attention;
#endif
#ifdef NEOXREF_HAVE_NEON
    case Isa::neon:
      return simd::neon_products::attention;
#endif
    default:
      return nullptr;
  }
}

void attentions(const Kernels& table, const Limits& limits) {
  struct Shape {
    std::size_t queries, slots, head_dim;
  };
  const auto add = [&](const char* kind, AttentionKernel kernel, const Shape& a, bool watched) {
    const std::string name = std::string(table.name) + "/" + kind + "/" +
                             std::to_string(a.queries) + "of" + std::to_string(a.slots) + "x" +
                             std::to_string(a.head_dim);
    benchmark::RegisterBenchmark(name.c_str(), [=, &limits](benchmark::State& s) {
      attention(s, kernel, limits, a.queries, a.slots, a.head_dim, watched);
    })->UseManualTime();
  };
  for (const Shape& a : {Shape{512, 512, 64}, Shape{512, 2048, 64}, Shape{64, 1024, 80},
                         Shape{1, 1024, 64}, Shape{1, 65536, 64}}) {
    add("attention", table.attention, a, false);
    add("attention_products", products_of_attention(table.isa), a, false);
  }
  add("attention_watched", table.attention, {512, 512, 64}, true);
}

}  // namespace
}  // namespace neoxref::tests

// kernels_bench [ISA KERNEL] [options of Google Benchmark]; without the two, everything.
int main(int argc, char** argv) {
  using namespace neoxref;
  std::string isa;
  std::string wanted = ".*";
  if (argc > 2 && argv[1][0] != '-') {
    isa = argv[1];
    wanted = "^" + isa + "/" + argv[2] + "/";
    argv[2] = argv[0];
    argc -= 2;
    argv += 2;
  }
  const auto usable = simd::usable_isas();
  if (!isa.empty() && std::ranges::find(usable, isa, simd::isa_name) == usable.end()) {
    std::fprintf(stderr, "this CPU has no %s\n", isa.c_str());
    return 77;  // skipped
  }
  for (const simd::Isa each : usable) {
    if (each == simd::Isa::scalar) continue;
    tests::products(simd::kernels(each), simd::limits(each));
    tests::attentions(simd::kernels(each), simd::limits(each));
    tests::streams(simd::kernels(each), simd::limits(each));
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  return benchmark::RunSpecifiedBenchmarks(nullptr, nullptr, wanted) > 0 ? 0 : 1;
}
