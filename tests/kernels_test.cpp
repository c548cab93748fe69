// SPDX-License-Identifier: Apache-2.0
// Every vector kernel against the scalar table, bit for bit.
#define BOOST_TEST_MODULE kernels
#include "tests/kernels_exact.hpp"

#include <algorithm>

namespace neoxref::tests {
namespace {

using simd::Dtype;
using simd::Kernels;
using simd::lanes;
using simd::round_up;
using Sizes = std::initializer_list<std::size_t>;

std::string text(std::initializer_list<std::pair<const char*, std::size_t>> fields) {
  std::string line;
  for (const auto& [name, value] : fields) {
    if (!line.empty()) line += ' ';
    line += std::string(name) + '=' + std::to_string(value);
  }
  return line;
}

/// 1 to 35, and both sides of one and of two blocks.
std::vector<std::size_t> lengths() {
  std::vector<std::size_t> all;
  for (std::size_t n = 1; n <= 35; ++n) all.push_back(n);
  for (std::size_t n : Sizes{63, 64, 65, 127, 128, 129, 191, 192, 200}) all.push_back(n);
  return all;
}

/// 16-bit patterns that stand for what `fill` says.
std::vector<std::uint16_t> stored(Random& random, Fill fill, Dtype dtype, std::size_t n) {
  std::vector<std::uint16_t> bits(n);
  for (std::uint16_t& b : bits) {
    const float value = draw(random, fill);
    const auto word = std::bit_cast<std::uint32_t>(value);
    const auto top = static_cast<std::uint16_t>(word >> 16);
    if (dtype == Dtype::bf16) {
      b = top;
    } else if (fill == Fill::specials) {
      b = static_cast<std::uint16_t>(word >> 8);
    } else {
      // Any finite pattern, its exponent about 15.
      b = static_cast<std::uint16_t>((top & 0x83ffu) | (random.between(8, 22) << 10));
    }
  }
  return bits;
}

struct ProductShape {
  std::size_t rows;
  std::size_t depth;
  std::size_t outputs;
};

/// Weights either packed, or rows that are read in place, as a cache's values are.
void check_product(const ProductShape& shape, std::uint64_t seed) {
  Random random(seed);
  const Fill fill = fills[random.below(fills.size())];
  const auto dtype = static_cast<Dtype>(random.below(3));
  const bool in_place = random.below(4) == 0;
  const std::size_t width = round_up(shape.outputs, lanes);
  simd::Panels weights{nullptr, dtype, lanes, shape.depth * lanes};
  std::size_t size = width * shape.depth;
  if (in_place) {
    weights.step = width + lanes * random.below(3);
    weights.panel = lanes;
    size = weights.step * shape.depth;
  }
  const Floats wide = input(random, fill, dtype == Dtype::f32 ? size : 0);
  const auto narrow = stored(random, fill, dtype, dtype == Dtype::f32 ? 0 : size);
  weights.data = dtype == Dtype::f32 ? static_cast<const void*>(wide.data()) : narrow.data();
  weights.from_memory = random.below(2) == 0;
  const Layout from = layout(random, shape.rows, shape.depth);
  const Layout to = layout(random, shape.rows, shape.outputs);
  const Floats rows = input(random, fill, from.size);
  const Floats bias = input(random, fill, shape.outputs);
  const bool biased = random.below(2) == 0;
  const Floats out = output(random, to.size);
  Scratch work(simd::product_scratch(shape.rows, shape.depth, from.stride == simd::dot_block));
  const std::size_t period = lanes * random.between(1, 6);
  const std::size_t unused = random.below(4) == 0 ? random.between(1, period) : 0;
  expect_same("product",
              text({{"rows", shape.rows},
                    {"depth", shape.depth},
                    {"outputs", shape.outputs},
                    {"dtype", static_cast<std::size_t>(dtype)},
                    {"unused", unused}}),
              seed, out, [&](const Kernels& table, Floats& result) {
                table.product({shape.rows, shape.depth, shape.outputs, rows.data(), from.stride,
                               weights, biased ? bias.data() : nullptr, result.data(), to.stride,
                               work.fresh(), unused, period, from.block, to.block});
                for (std::size_t i = 0; i < shape.rows * shape.outputs; ++i) {
                  const std::size_t n = i % shape.outputs;
                  if (n % period >= unused) continue;
                  result.data()[i / shape.outputs * to.stride + simd::in_blocks(n, to.block)] = 0;
                }
              });
}

struct AttentionShape {
  std::size_t queries;
  std::size_t first_slots;
  std::size_t head_dim;
};

void check_attention(const AttentionShape& shape, std::uint64_t seed) {
  Random random(seed);
  const Fill fill = fills[random.below(fills.size())];
  const std::size_t slots = shape.first_slots + shape.queries - 1;
  const std::size_t value_stride = round_up(shape.head_dim, lanes) + lanes * random.below(2);
  const std::size_t query_stride = shape.head_dim + random.below(6);
  const std::size_t output_stride = shape.head_dim + random.below(6);
  const Floats queries = input(random, fill, shape.queries * query_stride);
  const Floats keys = input(random, fill, round_up(slots, lanes) * shape.head_dim);
  Floats values = input(random, fill, slots * value_stride);
  for (std::size_t j = 0; j < slots; ++j) {
    std::fill(values.data() + j * value_stride + shape.head_dim,
              values.data() + (j + 1) * value_stride, 0.0f);
  }
  const Floats out = output(random, shape.queries * output_stride);
  Scratch work(simd::attention_scratch(shape.queries, slots, shape.head_dim));
  const float scale = fill == Fill::near ? 0.125f : 0x1.6a09e6p-4f;
  expect_same("attention",
              text({{"queries", shape.queries},
                    {"first_slots", shape.first_slots},
                    {"head_dim", shape.head_dim},
                    {"fill", static_cast<std::size_t>(fill)}}),
              seed, out, [&](const Kernels& table, Floats& result) {
                table.attention({shape.queries, shape.first_slots, shape.head_dim, queries.data(),
                                 query_stride, keys.data(), values.data(), value_stride, scale,
                                 result.data(), output_stride, work.fresh()});
              });
  const std::size_t stride = slots + random.below(3);
  expect_same(
      "attention weights",
      text({{"queries", shape.queries},
            {"first_slots", shape.first_slots},
            {"head_dim", shape.head_dim},
            {"fill", static_cast<std::size_t>(fill)}}),
      seed, output(random, shape.queries * stride), [&](const Kernels& table, Floats& result) {
        Floats context = out;
        table.attention({shape.queries, shape.first_slots, shape.head_dim, queries.data(),
                         query_stride, keys.data(), values.data(), value_stride, scale,
                         context.data(), output_stride, work.fresh(), result.data(), stride});
      });
}

/// Ascending slots of `slots`, each kept with probability percent / 100, at least one; in runs when
/// `runs`.
std::vector<std::uint32_t> kept_slots(Random& random, std::size_t slots, std::size_t percent,
                                      bool runs) {
  std::vector<std::uint32_t> kept;
  bool keep = true;
  for (std::size_t s = 0; s < slots; ++s) {
    if (!runs || random.below(20) == 0) keep = random.below(100) < percent;
    if (keep) kept.push_back(static_cast<std::uint32_t>(s));
  }
  if (kept.empty()) kept.push_back(static_cast<std::uint32_t>(random.below(slots)));
  return kept;
}

void check_compaction(std::size_t slots, std::size_t head_dim, std::size_t percent, bool runs,
                      std::uint64_t seed) {
  Random random(seed);
  const auto kept = kept_slots(random, slots, percent, runs);
  const std::string shape = text({{"slots", slots},
                                  {"head_dim", head_dim},
                                  {"kept", kept.size()},
                                  {"runs", static_cast<std::size_t>(runs)}});
  Floats panels = output(random, round_up(slots, lanes) * head_dim);
  for (std::size_t i = 0; i < round_up(slots, lanes) * head_dim; ++i) {
    panels.data()[i] = draw(random, Fill::specials);
  }
  expect_same("compact_keys", shape, seed, panels, [&](const Kernels& table, Floats& result) {
    table.compact_keys(result.data(), head_dim, kept.data(), kept.size());
  });
  Floats rows = output(random, slots * head_dim);
  for (std::size_t i = 0; i < slots * head_dim; ++i) {
    rows.data()[i] = draw(random, Fill::specials);
  }
  expect_same("compact_rows", shape, seed, rows, [&](const Kernels& table, Floats& result) {
    table.compact_rows(result.data(), head_dim, kept.data(), kept.size());
  });
}

}  // namespace

BOOST_AUTO_TEST_CASE(something_is_compared) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    std::puts("SKIP kernels: this CPU has no AVX2 and FMA, so there is only the scalar table");
    return;
  }
#endif
  BOOST_TEST(!vector_tables().empty());
  for (const Kernels* table : vector_tables()) {
    BOOST_TEST_MESSAGE("compared with scalar: " << table->name);
  }
}

BOOST_AUTO_TEST_CASE(product) {
  std::uint64_t seed = 1000;
  Random random(1);
  for (const std::size_t depth : lengths()) {
    for (int i = 0; i < 12; ++i) {
      check_product({random.between(1, 26), depth, random.between(1, 70)}, ++seed);
    }
  }
  for (std::size_t outputs = 1; outputs <= 131; ++outputs) {
    for (const std::size_t rows : {std::size_t{1}, random.between(2, 4), random.between(5, 40)}) {
      check_product({rows, random.between(1, 150), outputs}, ++seed);
    }
  }
  for (std::size_t rows = 1; rows <= 60; ++rows) {
    for (int i = 0; i < 6; ++i) {
      check_product({rows, random.between(1, 150), random.between(1, 40)}, ++seed);
    }
  }
  for (const std::size_t depth : Sizes{512, 768, 2048}) {
    for (const std::size_t rows : Sizes{1, 3, 12, 49, 203}) {
      for (int i = 0; i < 2; ++i) check_product({rows, depth, random.between(1, 40)}, ++seed);
    }
  }
  for (const std::size_t rows : Sizes{1, 5, 13}) check_product({rows, 0, 33}, ++seed);
  for (int i = 0; i < 6; ++i) check_product({9507, 3, 17}, ++seed);  // deep tiles: a last row alone
}

BOOST_AUTO_TEST_CASE(attention) {
  std::uint64_t seed = 2000;
  Random random(2);
  constexpr std::size_t dims[] = {8, 16, 20, 32, 64, 80, 96, 128};
  for (std::size_t first = 1; first <= 200; ++first) {
    check_attention({1, first, dims[first % 8]}, ++seed);
    check_attention({random.between(2, 13), first, dims[random.below(8)]}, ++seed);
  }
  for (std::size_t queries = 1; queries <= 40; ++queries) {
    for (const std::size_t head_dim : dims) {
      check_attention({queries, random.between(1, 100), head_dim}, ++seed);
    }
  }
  for (const std::size_t head_dim : Sizes{64, 80, 96}) {
    check_attention({1, 777, head_dim}, ++seed);
    check_attention({30, 600, head_dim}, ++seed);
    check_attention({100, 1, head_dim}, ++seed);
  }
}

BOOST_AUTO_TEST_CASE(layer_norm) {
  std::uint64_t seed = 3000;
  auto sizes = lengths();
  for (const std::size_t n : Sizes{512, 600, 768, 2048}) sizes.push_back(n);
  for (const std::size_t n : sizes) {
    for (int i = 0; i < 10; ++i) {
      Random random(++seed);
      const Fill fill = fills[random.below(fills.size())];
      const bool in_place = random.below(2) == 0;
      const float eps = random.below(4) == 0 ? 0.0f : 1e-5f;
      const Floats x = input(random, fill, n);
      const Floats gamma = input(random, Fill::near, n);
      const Floats beta = input(random, Fill::near, n);
      const std::size_t y_block = simd::dot_block + (in_place ? 0 : 3 * random.below(2));
      // One more float holds the returned flag.
      Floats out = output(random, simd::in_blocks(n, y_block) + 1);
      if (in_place) std::copy_n(x.data(), n, out.data());
      expect_same("layer_norm",
                  text({{"n", n},
                        {"in_place", static_cast<std::size_t>(in_place)},
                        {"fill", static_cast<std::size_t>(fill)}}),
                  seed, out, [&](const Kernels& table, Floats& result) {
                    const bool ok =
                        table.layer_norm(in_place ? result.data() : x.data(), n, gamma.data(),
                                         beta.data(), eps, result.data(), y_block);
                    result.data()[simd::in_blocks(n, y_block)] = ok ? 1.0f : 0.0f;
                  });
    }
  }
}

BOOST_AUTO_TEST_CASE(rotate) {
  std::uint64_t seed = 4000;
  for (std::size_t half = 0; half <= 67; ++half) {
    for (const Fill fill : fills) {
      Random random(++seed);
      const Floats cos = input(random, fill == Fill::near ? Fill::near : Fill::signs, half);
      const Floats sin = input(random, fill, half);
      Floats out = output(random, 2 * half + 5);
      for (std::size_t i = 0; i < 2 * half + 5; ++i) out.data()[i] = draw(random, fill);
      expect_same("rotate", text({{"half", half}, {"fill", static_cast<std::size_t>(fill)}}), seed,
                  out, [&](const Kernels& table, Floats& result) {
                    table.rotate(result.data(), cos.data(), sin.data(), 2 * half);
                  });
    }
  }
}

BOOST_AUTO_TEST_CASE(keys) {
  std::uint64_t seed = 5000;
  Random shapes(5);
  for (const std::size_t head_dim : Sizes{1, 8, 16, 20, 32, 63, 64, 65, 80, 96, 128, 200}) {
    for (int i = 0; i < 40; ++i) {
      Random random(++seed);
      const Fill fill = fills[random.below(fills.size())];
      const std::size_t first = shapes.below(70);
      const std::size_t count = i % 4 == 0 ? 1 : shapes.between(1, 70);
      const std::size_t slots = round_up(first + count, lanes);
      const std::size_t stride = head_dim + random.below(6);
      const std::string shape = text({{"head_dim", head_dim},
                                      {"first", first},
                                      {"count", count},
                                      {"fill", static_cast<std::size_t>(fill)}});
      const Floats key = input(random, fill, count * stride);
      expect_same("store_keys", shape, seed, output(random, slots * head_dim),
                  [&](const Kernels& table, Floats& result) {
                    table.store_keys(key.data(), stride, count, head_dim, result.data(), first);
                  });
      const Floats panels = input(random, fill, slots * head_dim);
      expect_same("key_norms", shape, seed, output(random, slots + 1),
                  [&](const Kernels& table, Floats& result) {
                    const bool ok =
                        table.key_norms(panels.data(), head_dim, first, count, result.data());
                    result.data()[slots] = ok ? 1.0f : 0.0f;
                  });
    }
  }
}

BOOST_AUTO_TEST_CASE(compaction) {
  std::uint64_t seed = 6000;
  Random random(6);
  for (const std::size_t head_dim : Sizes{8, 20, 64, 80, 96, 128}) {
    for (const std::size_t percent : Sizes{0, 10, 50, 70, 90, 97, 100}) {
      for (int i = 0; i < 6; ++i) {
        check_compaction(random.between(1, 300), head_dim, percent, i % 2 == 0, ++seed);
      }
    }
  }
  for (std::size_t slots = 1; slots <= 40; ++slots) check_compaction(slots, 16, 60, false, ++seed);
}

BOOST_AUTO_TEST_CASE(sums_and_widening) {
  std::uint64_t seed = 7000;
  auto sizes = lengths();
  sizes.push_back(2051);
  for (const std::size_t n : sizes) {
    for (const Fill fill : fills) {
      Random random(++seed);
      const std::string shape = text({{"n", n}, {"fill", static_cast<std::size_t>(fill)}});
      const Floats a = input(random, fill, n);
      const Floats b = input(random, fill, n);
      const Floats c = input(random, fill, n);
      const Floats out = output(random, n);
      expect_same("add", shape, seed, out, [&](const Kernels& table, Floats& result) {
        table.add(a.data(), b.data(), result.data(), n);
      });
      expect_same("add3", shape, seed, out, [&](const Kernels& table, Floats& result) {
        table.add3(a.data(), b.data(), c.data(), result.data(), n);
        table.add3(result.data(), b.data(), result.data(), result.data(), n);
      });
      expect_same("max_and_sum", shape, seed, output(random, 2),
                  [&](const Kernels& table, Floats& result) {
                    const simd::MaxAndSum found = table.max_and_sum(a.data(), n);
                    result.data()[0] = found.max;
                    result.data()[1] = found.sum;
                  });
      expect_same("weighted_difference", shape, seed, output(random, 2),
                  [&](const Kernels& table, Floats& result) {
                    const double sum = table.weighted_difference(a.data(), b.data(), c.data(), n);
                    std::memcpy(result.data(), &sum, sizeof sum);
                  });
      expect_same("all_finite", shape, seed, output(random, 1),
                  [&](const Kernels& table, Floats& result) {
                    result.data()[0] = table.all_finite(a.data(), n) ? 1.0f : 0.0f;
                  });
      for (const Dtype dtype : {Dtype::f16, Dtype::bf16}) {
        const auto bits = stored(random, fill, dtype, n);
        expect_same("widen", shape, seed, out, [&](const Kernels& table, Floats& result) {
          table.widen(dtype, bits.data(), result.data(), n);
        });
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(widen_every_pattern) {
  std::vector<std::uint16_t> bits(65536);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
  Random random(8);
  for (const Dtype dtype : {Dtype::f16, Dtype::bf16}) {
    expect_same("widen", text({{"dtype", static_cast<std::size_t>(dtype)}}), 8,
                output(random, bits.size()), [&](const Kernels& table, Floats& result) {
                  table.widen(dtype, bits.data(), result.data(), bits.size());
                });
  }
}

}  // namespace neoxref::tests
