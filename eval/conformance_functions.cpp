// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <bit>
#include <limits>
#include <utility>

#include "eval/conformance_cases.hpp"
#include "simd/kernels.hpp"

namespace neoxref::eval::conformance {
namespace {

using simd::Function;

constexpr std::array<const char*, 11> names = {"exp",  "log",       "tanh",      "silu",
                                               "gelu", "gelu_tanh", "gelu_fast", "quick_gelu",
                                               "relu", "sin",       "cos"};

/// Arguments whose results lie closest to a midpoint of two binary32 numbers, of all 2^32
/// (docs/functions.md).
// clang-format off
const std::pair<Function, std::vector<std::uint32_t>> hard_arguments[] = {
    {Function::exp,
     {0xc16912cd, 0xbbf0edf1, 0xbae0e25c, 0xb3000000, 0x377eff81, 0x40315b33, 0x4001b249,
      0x39c6be5b, 0x38e69cc1, 0x383a3ef1, 0xbc2a461a, 0x3d1a274e, 0x4288942b, 0xbbb70ee8,
      0x3fe67199, 0xc13d6631, 0x39e5bb1d, 0x41cbf87b, 0x36fdffc1, 0x367bffe1, 0x35f7fff1,
      0x356ffff9, 0x34dffffd, 0x343fffff}},
    {Function::log,
     {0x65d890d3, 0x4c5d65a5, 0x4d604ebe, 0x66a8c860, 0x1f116ab8, 0x41178feb, 0x3c413d3a,
      0x6f31a8ec, 0x38dcbe38, 0x5ee8984e, 0x4665a9a6, 0x3bf86ef0, 0x79e7ec37, 0x2c4c24b7,
      0x0dc8bba4, 0x1a8446cb, 0x28e3fa26, 0x66abbd63, 0x29fd22f8, 0x111c87f8, 0x29e6126b,
      0x2e492984, 0x464d5b2b, 0x54af989d}},
    {Function::tanh,
     {0x3ac37de2, 0xbac37de2, 0x3eee0566, 0xbeee0566, 0x40acb4d0, 0xc0acb4d0, 0x3cd41b91,
      0xbcd41b91, 0x40c5e8ca, 0xc0c5e8ca, 0x3d7c3055, 0xbd7c3055, 0x40a6ef82, 0xc0a6ef82,
      0x3ff8bc7e, 0xbff8bc7e, 0x4013cd84, 0xc013cd84, 0x3c96ae2e, 0xbc96ae2e, 0x3f97fbc7,
      0xbf97fbc7, 0x3bc8b605, 0xbbc8b605}},
    {Function::silu,
     {0xb3800000, 0x34000000, 0x35400000, 0xb5400000, 0x36200000, 0xb6200000, 0x36600000,
      0xb6600000, 0x37100000, 0xb7100000, 0x37300000, 0xb7300000, 0x37500000, 0xb7500000,
      0x37700000, 0xb7700000, 0x38126c8e, 0xb8126c8e, 0x35e24630, 0xb5e24630, 0x3711c456,
      0xb711c456, 0x37c6e079, 0xb7c6e079}},
    {Function::gelu,
     {0x37b0a46f, 0xb7b0a46f, 0x38ca1be2, 0xb8ca1be2, 0x3eada244, 0xc0925885, 0x3e493cc6,
      0x334aa765, 0xb34aa765, 0xbe493cc6, 0x37f5c377, 0xb7f5c377, 0xbe8e7062, 0x38028e89,
      0xb8028e89, 0x366c4759, 0xb66c4759, 0x3e60b687, 0xc13ced3a, 0x3c2df329, 0xbc2df329,
      0x3ad07184, 0xbad07184, 0x38679055}},
    {Function::gelu_tanh,
     {0x37b0a46f, 0xb7b0a46f, 0x334aa765, 0xb34aa765, 0x3eab6834, 0x37f5c377, 0xb7f5c377,
      0x3c6feb06, 0x38028e89, 0xb8028e89, 0xbc6feb06, 0x366c4759, 0xb66c4759, 0x3f414d8f,
      0x38ca1be2, 0xb8ca1be2, 0x3b9377a9, 0xbb9377a9, 0x38679055, 0xb8679055, 0xc0773385,
      0xc0d3541c, 0x40878b38, 0x35a42b1d}},
    {Function::gelu_fast,
     {0x37b0a46f, 0xb7b0a46f, 0xbdf74e68, 0x334aa765, 0xb34aa765, 0x3e8f6496, 0x37f5c377,
      0xb7f5c377, 0x38028e89, 0xb8028e89, 0x366c4759, 0xb66c4759, 0x3e1db2eb, 0x38679055,
      0xb8679055, 0x38ca1be2, 0xb8ca1be2, 0xbe1db2eb, 0x40878b38, 0x3bfe3229, 0xbbfe3229,
      0xbf73c396, 0x35a42b1d, 0xb5a42b1d}},
    {Function::quick_gelu,
     {0x3b717d27, 0xbb717d27, 0xbf90fc8a, 0x3b8856f4, 0xbb8856f4, 0x3c7a8128, 0x40070246,
      0xbc7a8128, 0x3560ce98, 0xb560ce98, 0x384421be, 0xb84421be, 0x3871f752, 0xb871f752,
      0x3fb9452c, 0x33443a47, 0xb3443a47, 0xc0f3c882, 0x395e0d16, 0xb95e0d16, 0xbf7d07be,
      0x345b63a1, 0xb45b63a1, 0xbf69bead}},
    {Function::sin,
     {0x73243f06, 0xf3243f06, 0x46199998, 0xc6199998, 0x55cafb2a, 0xd5cafb2a, 0x67a9242b,
      0xe7a9242b, 0x4371ade3, 0xc371ade3, 0x79d1f6d3, 0xf9d1f6d3, 0x6446cec0, 0xe446cec0,
      0x7a5aacdb, 0xfa5aacdb, 0x5f208d82, 0xdf208d82, 0x4fb56937, 0xcfb56937, 0x5dadd689,
      0xddadd689, 0x3ef3830f, 0xbef3830f}},
    {Function::cos,
     {0x6115cb11, 0xe115cb11, 0x5f18b878, 0xdf18b878, 0x59443c0a, 0xd9443c0a, 0x7a4b1a27,
      0xfa4b1a27, 0x7908cd73, 0xf908cd73, 0x3c107fe6, 0xbc107fe6, 0x61703976, 0xe1703976,
      0x5922aa80, 0xd922aa80, 0x39800000, 0xb9800000, 0x3a544395, 0xba544395, 0x424790ce,
      0xc24790ce, 0x55e5235d, 0xd5e5235d}},};
// clang-format on

std::vector<float> special_arguments() {
  constexpr float infinite = std::numeric_limits<float>::infinity();
  constexpr float tiny = std::numeric_limits<float>::denorm_min();
  constexpr float huge = std::numeric_limits<float>::max();
  return {0.0f, -0.0f, infinite, -infinite, std::numeric_limits<float>::quiet_NaN(), tiny, -tiny,
          3 * tiny, -3 * tiny, 0x1p-126f, -0x1p-126f, huge, -huge, 1.0f, -1.0f,
          // exp overflows, and underflows to the smallest subnormal and to zero
          88.72283f, 88.72284f, -103.97208f, -103.9721f};
}

/// Some of every eighth binade, and more where the functions bend.
std::vector<float> sampled_arguments(std::uint32_t stream) {
  Draws draws(stream);
  std::vector<float> x;
  for (std::uint32_t exponent = 0; exponent < 255; exponent += 8) {
    x.push_back(draws.wide(exponent, exponent));
    x.push_back(-x.back());
  }
  for (int i = 0; i < 40; ++i) x.push_back(draws.symmetric() * 20.0f);
  return x;
}

}  // namespace

void add_functions(ConformanceKit& kit) {
  for (std::size_t f = 0; f < names.size(); ++f) {
    const auto function = static_cast<Function>(f);
    const auto add = [&](const char* kind, const std::vector<float>& x) {
      std::vector<float> y;
      for (const float each : x) y.push_back(simd::evaluate(function, each));
      kit.push_back({std::string("function/") + names[f] + "-" + kind,
                     "operation",
                     "function",
                     {{"function", names[f]}, {"x", words(x)}},
                     {{"y", words(y)}}});
    };
    add("special", special_arguments());
    add("sampled", sampled_arguments(static_cast<std::uint32_t>(100 + f)));
    for (const auto& [hard, arguments] : hard_arguments) {
      if (hard != function) continue;
      std::vector<float> x;
      for (const std::uint32_t bits : arguments) x.push_back(std::bit_cast<float>(bits));
      add("hard", x);
    }
  }
  const std::pair<float, float> powers[] = {
      {10000.0f, 0.0f}, {10000.0f, 0.125f}, {10000.0f, 0.9375f},
      {500.0f, 0.4f},   {500000.0f, 0.75f}, {2.0f, 0.5f},
      {4.0f, 0.5f},     {1.0f, 0.3f},       {1000000.0f, 0.96875f}};
  std::vector<float> x, y, z;
  for (const auto& [base, exponent] : powers) {
    x.push_back(base);
    y.push_back(exponent);
  }
  for (std::size_t i = 1; i < 48; ++i) {
    x.push_back(10000.0f);
    y.push_back(static_cast<float>(2 * i) / 96.0f);
  }
  for (std::size_t i = 0; i < x.size(); ++i) z.push_back(simd::pow(x[i], y[i]));
  kit.push_back(
      {"pow/rotary", "operation", "pow", {{"x", words(x)}, {"y", words(y)}}, {{"z", words(z)}}});
}

}  // namespace neoxref::eval::conformance
