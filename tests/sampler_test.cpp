// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE sampler
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <set>

#include "engine/error.hpp"
#include "engine/sampler.hpp"
#include "simd/float_environment.hpp"
#include "tests/checkpoints.hpp"

using namespace neoxref;
using engine::Sampler;

BOOST_AUTO_TEST_CASE(philox_gives_the_published_words) {
  // Known answers of Random123 for philox4x32-10.
  using Words = std::array<std::uint32_t, 4>;
  BOOST_CHECK((engine::philox({0, 0, 0, 0}, {0, 0}) ==
               Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t ones = 0xffffffff;
  BOOST_CHECK((engine::philox({ones, ones, ones, ones}, {ones, ones}) ==
               Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  BOOST_CHECK(
      (engine::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
       Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

BOOST_AUTO_TEST_CASE(argmax_takes_the_lower_id_on_ties) {
  const float values[] = {-1.0f, 3.0f, 2.0f, 3.0f};
  BOOST_CHECK_EQUAL(engine::argmax(values), 1u);
  const float zeros[] = {-0.0f, 0.0f};
  BOOST_CHECK_EQUAL(engine::argmax(zeros), 0u);
}

BOOST_AUTO_TEST_CASE(argmax_finds_every_place_of_every_length) {
  for (const std::size_t length : {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 49u, 64u, 100u}) {
    std::vector<float> values(length, -5.0f);
    for (std::size_t place = 0; place < length; ++place) {
      values[place] = -4.0f;
      values[length - 1] = std::max(values[length - 1], -4.0f);  // a tie with the last
      BOOST_TEST(engine::argmax(values) == place);
      values[place] = values[length - 1] = -5.0f;
    }
    BOOST_TEST(
        engine::argmax(std::vector<float>(length, -std::numeric_limits<float>::infinity())) == 0u);
  }
}

BOOST_AUTO_TEST_CASE(settings_decide_what_can_be_drawn) {
  const simd::Kernels& kernels = simd::kernels("");
  const std::vector<float> logits = {1.0f, 4.0f, 3.0f, 4.0f, -std::numeric_limits<float>::max()};
  const auto drawn = [&](engine::Sampling sampling) {
    Sampler sampler(sampling, kernels);
    std::set<std::int32_t> ids;
    for (std::uint64_t position = 0; position < 500; ++position) {
      ids.insert(sampler.draw(logits, position));
    }
    return ids;
  };
  using Ids = std::set<std::int32_t>;
  BOOST_CHECK(drawn({}) == Ids{1});
  BOOST_CHECK((drawn({.temperature = 1.0f, .seed = 1}) == Ids{0, 1, 2, 3}));
  BOOST_CHECK((drawn({.temperature = 1.0f, .top_k = 2, .seed = 1}) == Ids{1, 3}));
  BOOST_CHECK((drawn({.temperature = 1.0f, .top_k = 1, .seed = 1}) == Ids{1}));
  BOOST_CHECK((drawn({.temperature = 1.0f, .top_p = 0.1, .seed = 1}) == Ids{1}));
  BOOST_CHECK((drawn({.temperature = 1.0f, .top_p = 0.6, .seed = 1}) == Ids{1, 3}));
}

BOOST_AUTO_TEST_CASE(draws_have_the_probabilities_of_the_softmax) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f)};
  Sampler sampler({.temperature = 1.0f, .seed = 42}, simd::kernels(""));
  std::array<double, 3> counts{};
  constexpr std::uint64_t draws = 40000;
  for (std::uint64_t position = 0; position < draws; ++position) {
    counts[static_cast<std::size_t>(sampler.draw(logits, position, 9))] += 1.0;
  }
  const std::array<double, 3> expected = {1.0 / 8, 2.0 / 8, 5.0 / 8};
  for (std::size_t i = 0; i < 3; ++i) {
    const double sigma = std::sqrt(draws * expected[i] * (1.0 - expected[i]));
    BOOST_CHECK_SMALL(counts[i] - draws * expected[i], 5.0 * sigma);
  }
}

BOOST_AUTO_TEST_CASE(draws_depend_on_seed_position_and_sequence_only) {
  std::vector<float> logits(1000);
  tests::Numbers numbers(1);
  for (float& logit : logits) logit = numbers.symmetric();
  const auto run = [&](std::uint64_t seed, std::uint64_t sequence, simd::Isa isa) {
    Sampler sampler({.temperature = 0.8f, .top_k = 700, .top_p = 0.9, .seed = seed},
                    simd::kernels(isa));
    std::vector<std::int32_t> ids;
    for (std::uint64_t position = 0; position < 50; ++position) {
      ids.push_back(sampler.draw(logits, position, sequence));
    }
    return ids;
  };
  const auto base = run(7, 0, simd::Isa::scalar);
  for (const simd::Isa isa : simd::usable_isas()) BOOST_CHECK(run(7, 0, isa) == base);
  BOOST_CHECK(run(8, 0, simd::Isa::scalar) != base);
  BOOST_CHECK(run(7 + (std::uint64_t{1} << 32), 0, simd::Isa::scalar) != base);
  BOOST_CHECK(run(7, 1, simd::Isa::scalar) != base);
}

BOOST_AUTO_TEST_CASE(subnormal_logits_count_whatever_the_caller_flushes) {
  const float logits[] = {0.0f, 1e-40f};
  Sampler sampler({}, simd::kernels(""));
#if defined(__x86_64__)
  simd::FloatEnvironment::write(simd::FloatEnvironment::standard | 0x8040u);
#else
  simd::FloatEnvironment::write(1u << 24);
#endif
  const std::int32_t drawn = sampler.draw(logits, 0);
  simd::FloatEnvironment::write(simd::FloatEnvironment::standard);
  BOOST_CHECK_EQUAL(drawn, 1);
}

BOOST_AUTO_TEST_CASE(settings_out_of_range_are_refused) {
  const simd::Kernels& kernels = simd::kernels("");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float t : {-1.0f, nan, std::numeric_limits<float>::infinity(), 1e-40f, 1e7f}) {
    BOOST_CHECK_THROW(Sampler({.temperature = t}, kernels), engine::Error);
  }
  Sampler cold({.temperature = 1e-6f}, kernels);
  const float huge[] = {0.0f, 1e38f};
  BOOST_CHECK_THROW(cold.draw(huge, 0), engine::Error);
  for (const double p : {0.0, -0.5, 1.5, static_cast<double>(nan)}) {
    BOOST_CHECK_THROW(Sampler({.top_p = p}, kernels), engine::Error);
  }
}
