// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE functions

/// The functions of the contract on every usable instruction set: arguments closest to a midpoint
/// (found by functions_exhaustive), special values, and a sample from every exponent.

#include <algorithm>
#include <array>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "tests/function_judge.hpp"

using namespace neoxref;
using simd::Function;

namespace {

constexpr std::array<const char*, 11> names = {"exp",  "log",       "tanh",      "silu",
                                               "gelu", "gelu_tanh", "gelu_fast", "quick_gelu",
                                               "relu", "sin",       "cos"};
constexpr float infinite = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

std::uint32_t bits_of(float x) {
  return std::bit_cast<std::uint32_t>(x);
}

bool same(float a, float b) {
  return bits_of(a) == bits_of(b) || (a != a && b != b);
}

std::string complaint(const char* who, Function function, float x, float got, float expected) {
  std::ostringstream text;
  text << who << ' ' << names[static_cast<std::size_t>(function)] << '(' << std::hexfloat << x
       << ") = " << got << ", expected " << expected << std::hex << "; bits " << bits_of(x) << ' '
       << bits_of(got) << ' ' << bits_of(expected);
  return text.str();
}

/// Every usable table against the expected results.
void check(Function function, const std::vector<float>& x, const std::vector<float>& expected) {
  std::vector<float> y(x.size());
  for (simd::Isa isa : simd::usable_isas()) {
    const simd::Kernels& table = simd::kernels(isa);
    table.map(function, x.data(), y.data(), x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      BOOST_CHECK_MESSAGE(same(y[i], expected[i]),
                          complaint(table.name, function, x[i], y[i], expected[i]));
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(hard_cases) {
  const char* root = std::getenv("NEOXREF_SOURCE_DIR");
  BOOST_REQUIRE_MESSAGE(root != nullptr, "NEOXREF_SOURCE_DIR is the root of the checkout");
  std::ifstream file(std::string(root) + "/tests/fixtures/function_hard_cases.txt");
  BOOST_REQUIRE_MESSAGE(file, "tests/fixtures/function_hard_cases.txt cannot be read");
  std::array<std::vector<float>, names.size()> x;
  std::array<std::vector<float>, names.size()> expected;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream words(line);
    std::string name;
    std::uint32_t argument = 0;
    std::uint32_t result = 0;
    BOOST_REQUIRE_MESSAGE(words >> name >> std::hex >> argument >> result, line);
    const auto found = std::find(names.begin(), names.end(), name);
    BOOST_REQUIRE_MESSAGE(found != names.end(), line);
    const std::size_t index = static_cast<std::size_t>(found - names.begin());
    x[index].push_back(std::bit_cast<float>(argument));
    expected[index].push_back(std::bit_cast<float>(result));
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (static_cast<Function>(i) == Function::relu) continue;
    BOOST_TEST(x[i].size() >= 16u, names[i]);
    check(static_cast<Function>(i), x[i], expected[i]);
    for (std::size_t j = 0; j < x[i].size(); ++j) {
      const float exact = tests::by_mpfr(static_cast<Function>(i), x[i][j]);
      BOOST_CHECK_MESSAGE(
          same(exact, expected[i][j]),
          complaint("fixture", static_cast<Function>(i), x[i][j], expected[i][j], exact));
    }
  }
}

BOOST_AUTO_TEST_CASE(special_values) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  const float huge = std::numeric_limits<float>::max();
  check(
      Function::exp,
      {0.0f, -0.0f, infinite, -infinite, not_a_number, tiny, huge, -huge, -103.97208f, -103.9721f},
      {1, 1, infinite, 0.0f, not_a_number, 1, infinite, 0.0f, tiny, 0.0f});
  check(Function::log, {1, 0.0f, -0.0f, infinite, -infinite, not_a_number, -tiny},
        {0.0f, -infinite, -infinite, infinite, not_a_number, not_a_number, not_a_number});
  check(Function::tanh, {0.0f, -0.0f, infinite, -infinite, not_a_number, tiny, -tiny, huge},
        {0.0f, -0.0f, 1, -1, not_a_number, tiny, -tiny, 1});
  check(Function::sin, {0.0f, -0.0f, infinite, -infinite, not_a_number, tiny, -tiny},
        {0.0f, -0.0f, not_a_number, not_a_number, not_a_number, tiny, -tiny});
  check(Function::cos, {0.0f, -0.0f, infinite, -infinite, not_a_number, tiny},
        {1, 1, not_a_number, not_a_number, not_a_number, 1});
  check(Function::relu, {0.0f, -0.0f, infinite, -infinite, not_a_number, -tiny, tiny},
        {0.0f, 0.0f, infinite, 0.0f, 0.0f, 0.0f, tiny});
  for (Function function : {Function::silu, Function::gelu, Function::gelu_tanh,
                            Function::gelu_fast, Function::quick_gelu}) {
    // x/2 plus a little: half of the smallest subnormal rounds up, half of minus it to -0.
    check(function,
          {0.0f, -0.0f, infinite, -infinite, not_a_number, huge, -huge, tiny, -tiny, 3 * tiny,
           -3 * tiny},
          {0.0f, -0.0f, infinite, -0.0f, not_a_number, huge, -0.0f, tiny, -0.0f, 2 * tiny, -tiny});
  }
}

BOOST_AUTO_TEST_CASE(sample_of_every_exponent) {
  const tests::Filter filter;
  std::mt19937 random(20);
  for (std::size_t f = 0; f < names.size(); ++f) {
    std::vector<float> x;
    std::vector<float> expected;
    for (std::uint32_t high = 0; high < 512; ++high) {
      const std::uint32_t binade = high << 23;
      for (std::uint32_t low : {0u, 1u, 0x400000u, 0x7fffffu}) {
        x.push_back(std::bit_cast<float>(binade | low));
      }
      for (int i = 0; i < 44; ++i) {
        x.push_back(
            std::bit_cast<float>(binade | (static_cast<std::uint32_t>(random()) & 0x7fffffu)));
      }
    }
    for (int i = 0; i < 20000; ++i) {  // where the functions bend
      x.push_back(static_cast<float>(static_cast<double>(random()) / 0x1p32 * 40 - 20));
    }
    for (float argument : x) {
      expected.push_back(tests::judge(filter, static_cast<Function>(f), argument).result);
    }
    check(static_cast<Function>(f), x, expected);
  }
}

BOOST_AUTO_TEST_CASE(any_length_in_place_and_no_write_outside) {
  std::vector<float> source(80);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = 0.37f * static_cast<float>(i) - 9;
  for (simd::Isa isa : simd::usable_isas()) {
    for (std::size_t f = 0; f < names.size(); ++f) {
      const Function function = static_cast<Function>(f);
      for (std::size_t n = 0; n <= 50; ++n) {
        const std::size_t offset = n % 7;
        std::vector<float> apart(source.size(), 77);
        std::vector<float> in_place = source;
        simd::kernels(isa).map(function, source.data() + offset, apart.data() + offset, n);
        simd::kernels(isa).map(function, in_place.data() + offset, in_place.data() + offset, n);
        for (std::size_t i = 0; i < source.size(); ++i) {
          const bool inside = i >= offset && i < offset + n;
          const float value = simd::evaluate(function, source[i]);
          BOOST_REQUIRE(same(apart[i], inside ? value : 77));
          BOOST_REQUIRE(same(in_place[i], inside ? value : source[i]));
        }
      }
    }
  }
}

/// Another lane's argument, hard or easy, changes nothing.
BOOST_AUTO_TEST_CASE(lanes_do_not_see_their_neighbours) {
  for (simd::Isa isa : simd::usable_isas()) {
    for (std::size_t f = 0; f < names.size(); ++f) {
      const Function function = static_cast<Function>(f);
      for (float other : {0.0f, 1e30f, not_a_number, 0x1p-149f, -88.5f}) {
        std::array<float, 16> x;
        x.fill(other);
        x[5] = 0.8125f;
        std::array<float, 16> y;
        simd::kernels(isa).map(function, x.data(), y.data(), x.size());
        BOOST_TEST(same(y[5], simd::evaluate(function, 0.8125f)));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(powers) {
  const auto compare = [](float x, float y) {
    const float got = simd::pow(x, y);
    const float expected = tests::pow_by_mpfr(x, y);
    BOOST_CHECK_MESSAGE(same(got, expected), "pow(" << std::hexfloat << x << ", " << y
                                                    << ") = " << got << ", expected " << expected);
  };
  for (float base : {10000.0f, 25000.0f, 500000.0f, 1e6f}) {
    for (int dims : {2, 10, 16, 24, 32, 64, 96, 128, 256, 512}) {
      for (int i = 0; i < dims / 2; ++i) {
        compare(base, static_cast<float>(2 * i) / static_cast<float>(dims));
      }
    }
  }
  // Exact results, ties (4097^2 has 25 bits), ties among subnormals, and neighbours of both.
  for (float x : {4.0f, 4097.0f, 4099.0f, 0x1p-75f, 0x1.8p-75f, 0x1.4p-75f, 16777216.0f, 6561.0f,
                  390625.0f, 0x1p-149f, 0x1.fffffep127f, 1.5f, 0x1.fffffep-1f, 1.0f}) {
    for (float y :
         {0.0f,  0.125f, 0.25f,  0.5f,  0.75f, 1.0f,  1.5f,  2.0f, 3.0f,  5.0f,   7.0f,
          13.0f, 30.0f,  255.0f, -0.5f, -1.0f, -2.0f, -3.0f, 1e9f, -1e9f, 1e-30f, 1e30f}) {
      compare(x, y);
      compare(x, std::nextafterf(y, 100.0f));
    }
  }
  std::mt19937 random(21);
  for (int i = 0; i < 20000; ++i) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(random()) % 0x7f7fffffu + 1);
    const double exponent = static_cast<double>(random()) / 0x1p32 * 300 - 150;
    compare(x, static_cast<float>(exponent / std::log2(static_cast<double>(x))));
  }
}
