// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "engine/press.hpp"
#include "eval/conformance_cases.hpp"
#include "eval/digest.hpp"
#include "eval/protocol.hpp"
#include "simd/scalar/ieee.hpp"

namespace neoxref::eval::conformance {
namespace {

constexpr float infinite = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float tiny = std::numeric_limits<float>::denorm_min();
constexpr float huge = std::numeric_limits<float>::max();

class Cases {
public:
  Cases(ConformanceKit& kit, std::string operation) : kit_(kit), operation_(std::move(operation)) {}
  void add(const std::string& name, Json input, Json expected) {
    kit_.push_back(
        {operation_ + "/" + name, "operation", operation_, std::move(input), std::move(expected)});
  }

private:
  ConformanceKit& kit_;
  std::string operation_;
};

float scalar_dot(std::span<const float> a, std::span<const float> b) {
  return simd::scalar::dot(
      a.size(), [&](std::size_t i) { return a[i]; }, [&](std::size_t i) { return b[i]; });
}

/// Single operations, above all where machines that flush, or round twice, answer otherwise.
[[gnu::noinline]] void add_single(ConformanceKit& kit) {
  Draws draws(1);
  std::vector<float> a = {
      0.0f, -0.0f,    1.0f,     tiny,         -tiny,    0x1p-126f, 0x1.fffffep-127f, huge,
      huge, infinite, infinite, not_a_number, 0x1p-75f, 3.0f,      0x1p-149f,        1.0f};
  std::vector<float> b = {-0.0f,     -0.0f,     3.0f,      tiny,      tiny, 2.0f,
                          0x1p-126f, huge,      0x1p-126f, -infinite, 0.0f, not_a_number,
                          0x1p-75f,  0x1p-148f, 0.5f,      -1.0f};
  for (int i = 0; i < 32; ++i) {
    a.push_back(draws.wide(0, 254));
    b.push_back(draws.wide(0, 254));
  }
  for (int i = 0; i < 32; ++i) {
    a.push_back(draws.wide(110, 140));
    b.push_back(draws.wide(110, 140));
  }
  std::vector<float> sum, difference, product, quotient, root;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum.push_back(a[i] + b[i]);
    difference.push_back(a[i] - b[i]);
    product.push_back(a[i] * b[i]);
    quotient.push_back(a[i] / b[i]);
    root.push_back(simd::scalar::square_root(a[i]));
  }
  const Json input = {{"a", words(a)}, {"b", words(b)}};
  Cases(kit, "add").add("mixed", input, {{"y", words(sum)}});
  Cases(kit, "subtract").add("mixed", input, {{"y", words(difference)}});
  Cases(kit, "multiply").add("mixed", input, {{"y", words(product)}});
  Cases(kit, "divide").add("mixed", input, {{"y", words(quotient)}});
  Cases(kit, "sqrt").add("mixed", {{"x", words(a)}}, {{"y", words(root)}});
}

[[gnu::noinline]] void add_fma(ConformanceKit& kit) {
  Draws draws(2);
  Cases cases(kit, "fma");
  const auto add = [&](const char* name, const std::vector<float>& a, const std::vector<float>& b,
                       const std::vector<float>& c) {
    std::vector<float> y(a.size());
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = simd::scalar::fma(a[i], b[i], c[i]);
    cases.add(name, {{"a", words(a)}, {"b", words(b)}, {"c", words(c)}}, {{"y", words(y)}});
  };
  const std::vector<float> none;
  add("special", {0.0f, -0.0f, infinite, 1.0f, huge, tiny, tiny, not_a_number, huge, 1.0f, -1.0f},
      {1.0f, 1.0f, 0.0f, infinite, huge, tiny, 0.5f, 1.0f, 2.0f, 1.0f, 1.0f},
      {-0.0f, -0.0f, 1.0f, -infinite, -huge, 0.0f, tiny, 1.0f, -huge, -1.0f, 1.0f});
  // a * b is a midpoint of two binary32 numbers, and c far below says which way: what rounds to
  // binary64 first loses it.
  std::vector<float> a, b, c;
  for (int i = 0; i < 24; ++i) {
    a.push_back(1.0f + static_cast<float>(1 + draws.below(2000)) * 0x1p-12f);
    b.push_back(1.0f + static_cast<float>(1 + 2 * draws.below(1000)) * 0x1p-12f);
    c.push_back(draws.wide(50, 70));
  }
  add("midpoints", a, b, c);
  // Results and addends at the bottom of the range.
  a = draws.wide(40, 30, 80);
  b = draws.wide(40, 30, 80);
  c = draws.wide(40, 0, 3);
  add("subnormal", a, b, c);
  // Nearly all cancels.
  a = draws.symmetric(std::size_t{40});
  b = draws.symmetric(std::size_t{40});
  c.clear();
  for (std::size_t i = 0; i < a.size(); ++i) c.push_back(-(a[i] * b[i]));
  add("cancelling", a, b, c);
}

void add_sums(ConformanceKit& kit) {
  Draws draws(3);
  Cases dots(kit, "dot");
  const auto add_dot = [&](const std::string& name, std::span<const float> a,
                           std::span<const float> b) {
    dots.add(name, {{"a", words(a)}, {"b", words(b)}}, {{"y", word(scalar_dot(a, b))}});
  };
  for (const std::size_t length :
       std::initializer_list<std::size_t>{0, 1, 2, 63, 64, 65, 127, 128, 129, 200, 321}) {
    const auto a = draws.symmetric(length);
    add_dot(std::to_string(length), a, draws.symmetric(length));
  }
  // A call's arguments are evaluated in any order: two draws never stand in one.
  auto a = draws.wide(100, 90, 160);
  add_dot("wide", a, draws.wide(100, 90, 160));
  a = draws.wide(70, 40, 70);
  add_dot("subnormal", a, draws.wide(70, 40, 70));
  add_dot("minus-zero", std::vector<float>{-0.0f, 0.0f, -1.0f},
          std::vector<float>{1.0f, -1.0f, 0.0f});
  add_dot("infinite", std::vector<float>{1.0f, infinite, 2.0f},
          std::vector<float>{1.0f, 2.0f, 3.0f});
  add_dot("nan", std::vector<float>{infinite, 1.0f}, std::vector<float>{0.0f, 1.0f});
  Cases sums(kit, "lane_sum"), squares(kit, "lane_sum_sq");
  const auto add_sum = [&](const std::string& name, std::span<const float> x) {
    const auto square = [&](std::size_t i) {
      return static_cast<double>(x[i]) * static_cast<double>(x[i]);
    };
    sums.add(name, {{"x", words(x)}},
             {{"y", word(simd::scalar::lane_sum(x.size(), [&](std::size_t i) { return x[i]; }))}});
    squares.add(name, {{"x", words(x)}}, {{"y", word(simd::scalar::lane_sum(x.size(), square))}});
  };
  for (const std::size_t length :
       std::initializer_list<std::size_t>{0, 1, 15, 16, 17, 32, 33, 100, 257}) {
    add_sum(std::to_string(length), draws.wide(length, 100, 150));
  }
  add_sum("spread", draws.wide(200, 1, 254));
  add_sum("subnormal", draws.wide(40, 0, 2));
  add_sum("minus-zero", std::vector<float>(20, -0.0f));
  add_sum("not-finite", std::vector<float>{1.0f, infinite, -infinite});
}

void add_storage(ConformanceKit& kit) {
  Draws draws(4);
  std::vector<std::uint16_t> halves = {0,      0x8000, 1,      0x8001, 0x03ff, 0x0400, 0x3c00,
                                       0x7bff, 0x7c00, 0xfc00, 0x7e00, 0x3555, 0xffff, 0x007f};
  for (int i = 0; i < 50; ++i) halves.push_back(static_cast<std::uint16_t>(draws.next()));
  std::vector<float> f16, bf16;
  Json bits = Json::array();
  for (const std::uint16_t half : halves) {
    bits.push_back(half);
    f16.push_back(simd::scalar::widen_f16(half));
    bf16.push_back(simd::scalar::widen_bf16(half));
  }
  Cases(kit, "widen_f16").add("all-kinds", {{"bits", bits}}, {{"y", words(f16)}});
  Cases(kit, "widen_bf16").add("all-kinds", {{"bits", bits}}, {{"y", words(bf16)}});
  // The second one lies above a midpoint of binary32, by less than binary64 shows.
  const std::pair<const char*, double> decimals[] = {
      {"1e-5", 1e-5},         {"1.0000000596046447753906251", 1.0000000596046447753906251},
      {"1e-12", 1e-12},       {"10000", 10000.0},
      {"500000.1", 500000.1}, {"0.1", 0.1},
      {"1e-45", 1e-45}};
  Cases decimal(kit, "decimal");
  for (const auto& [text, value] : decimals) {
    decimal.add(text, {{"text", text}}, {{"y", word(static_cast<float>(value))}});
  }
  Cases digests(kit, "digest");
  for (const std::size_t length : std::initializer_list<std::size_t>{
           0, 1, 2, 3, 4, 5, 16, 32, 33, 60, 61, 255, 256, 257, 300, 1000}) {
    std::vector<float> x = draws.symmetric(length);
    Digest digest;
    digest.add(x);
    digests.add(std::to_string(length), {{"x", words(x)}}, {{"digest", digest.hex()}});
  }
  Digest digest;
  digest.add(std::vector<float>{1.0f, -not_a_number, 2.0f});
  digests.add("nan", {{"x", "3f800000 ffc12345 40000000"}}, {{"digest", digest.hex()}});
}

/// Whole numbers that decide what is computed at all.
void add_counts(ConformanceKit& kit) {
  Cases counts(kit, "keep_count");
  const std::pair<const char*, std::size_t> settings[] = {
      {"0.55", 100}, {"0.9", 257},          {"0.1", 1},    {"0.1", 10},
      {"0.1", 11},   {"0.7", 1000},         {"1", 33},     {"0.5", 33},
      {"0.3", 10},   {"0.000000001", 1000}, {"0.29", 100}, {"0.999999999", 100}};
  for (const auto& [ratio, slots] : settings) {
    counts.add(std::string(ratio) + "-of-" + std::to_string(slots),
               {{"keep_ratio", ratio}, {"slots", slots}},
               {{"kept", engine::KeepRatio::parse(ratio).of(slots)}});
  }
  Cases prompts(kit, "two_phase_prompt");
  for (const auto& [tokens, prune_after] : {std::pair<std::size_t, std::size_t>{34, 256},
                                            {80, 256},
                                            {100, 256},
                                            {101, 256},
                                            {1024, 256},
                                            {1024, 2048},
                                            {1024, 10},
                                            {99, 48},
                                            {300, 300}}) {
    prompts.add(std::to_string(tokens) + "-" + std::to_string(prune_after),
                {{"tokens", tokens}, {"prune_after", prune_after}},
                {{"prompt", effective_prune_after(prune_after, tokens)}});
  }
}

}  // namespace

void add_arithmetic(ConformanceKit& kit) {
  add_single(kit);
  add_fma(kit);
  add_sums(kit);
  add_storage(kit);
  add_counts(kit);
}

}  // namespace neoxref::eval::conformance
