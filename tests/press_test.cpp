// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE press
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <limits>
#include <string>

#include "engine/error.hpp"
#include "engine/kv_cache.hpp"
#include "engine/press.hpp"
#include "engine/sequence.hpp"
#include "eval/plan.hpp"
#include "tests/checkpoints.hpp"

using namespace neoxref;
using engine::KeepRatio;

BOOST_AUTO_TEST_CASE(keep_ratio_is_an_exact_fraction) {
  // For every permille and length: the least n with n * 1000 >= length * permille.
  for (std::size_t permille = 1; permille <= 1000; ++permille) {
    const std::string digits = std::to_string(1000 + permille).substr(1);
    const KeepRatio ratio = KeepRatio::parse(permille == 1000 ? "1" : "0." + digits);
    for (std::size_t length = 0; length <= 2048; length += length < 40 ? 1 : 41) {
      std::size_t keep = ratio.of(length);
      BOOST_REQUIRE(keep * 1000 >= length * permille);
      BOOST_REQUIRE(keep == 0 || (keep - 1) * 1000 < length * permille);
      BOOST_REQUIRE(length == 0 || keep >= 1);
    }
  }
  BOOST_CHECK_EQUAL(KeepRatio::parse("0.55").of(100), 55u);
  BOOST_CHECK_EQUAL(KeepRatio::parse(".5").of(3), 2u);
  BOOST_CHECK(KeepRatio::parse("1.000").keeps_all());
}

BOOST_AUTO_TEST_CASE(keep_ratio_refuses_what_is_not_one) {
  for (const char* text : {"", ".", "0", "0.0", "1.1", "2", "-0.5", "+0.5", "0.5 ", "1e-1", "nan",
                           "0,5", "00.5", "0.1234567890", "0x1"}) {
    BOOST_CHECK_THROW(KeepRatio::parse(text), engine::Error);
  }
}

BOOST_AUTO_TEST_CASE(
    selection_keeps_the_lowest_norms_in_time_order_and_breaks_ties_to_the_lower_slot) {
  tests::Numbers numbers(5);
  for (int round = 0; round < 300; ++round) {
    const std::size_t slots = 1 + numbers.below(300);
    const std::size_t keep = 1 + numbers.below(slots);
    std::vector<float> norms(slots);
    // Few values, so that there are many ties; +0 and subnormals among them.
    for (float& norm : norms) {
      norm = static_cast<float>(numbers.below(9)) * (round % 3 == 0 ? 1e-44f : 0.5f);
    }
    std::vector<std::size_t> order(slots);
    for (std::size_t i = 0; i < slots; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return norms[a] < norms[b]; });
    order.resize(keep);
    std::sort(order.begin(), order.end());
    std::vector<std::uint64_t> work(slots);
    std::vector<std::uint32_t> kept(keep);
    engine::select_lowest(norms.data(), slots, keep, work.data(), kept.data());
    BOOST_CHECK_EQUAL_COLLECTIONS(kept.begin(), kept.end(), order.begin(), order.end());
  }
}

BOOST_AUTO_TEST_CASE(cuts_of_the_study) {
  const auto cuts = [](const char* ratio) {
    return eval::plan(1023, 256, 256, eval::Ratio::parse(ratio)).size();
  };
  BOOST_CHECK_EQUAL(cuts("0.9"), 31u);
  BOOST_CHECK_EQUAL(cuts("0.7"), 10u);
  BOOST_CHECK_EQUAL(cuts("0.5"), 6u);
  BOOST_CHECK_EQUAL(cuts("0.1"), 4u);
  BOOST_CHECK_EQUAL(cuts("1"), 0u);
  BOOST_CHECK_EQUAL(eval::plan(511, 512, 512, eval::Ratio::parse("0.5")).size(), 0u);
  for (const char* text : {"", "0", "1.5", "x", "0.5x", "..5"}) {
    BOOST_CHECK_THROW(eval::Ratio::parse(text), std::invalid_argument);
  }
}

BOOST_AUTO_TEST_CASE(a_press_says_when_it_is_due) {
  const engine::Press press{KeepRatio::parse("0.5"), 10, {0}};
  BOOST_CHECK_EQUAL(press.tokens_until_cut(1, 0), 11u);
  BOOST_CHECK_EQUAL(press.tokens_until_cut(1, 10), 1u);
  BOOST_CHECK_EQUAL(press.tokens_until_cut(1, 25), 1u);
  BOOST_CHECK_EQUAL(press.tokens_until_cut(0, 25), std::numeric_limits<std::size_t>::max());
  BOOST_CHECK(!press.due(1, 10));
  BOOST_CHECK(press.due(1, 11));
  BOOST_CHECK(!press.due(0, 11));
  const std::size_t most = std::numeric_limits<std::size_t>::max();
  BOOST_CHECK_EQUAL((engine::Press{KeepRatio::parse("0.5"), most, {}}.tokens_until_cut(0, 0)),
                    most);
  const engine::Press none{KeepRatio::parse("1"), 10, {}};
  BOOST_CHECK(!none.due(1, 11));
}

BOOST_AUTO_TEST_CASE(a_cache_that_cannot_be_addressed_is_refused) {
  BOOST_CHECK_THROW(engine::KvCache({1000, 1000, 4096}, std::size_t{1} << 31), engine::Error);
  engine::KvCache cache({2, 3, 20}, 33);
  BOOST_CHECK_EQUAL(cache.capacity(), 48u);
  BOOST_CHECK_EQUAL(cache.value_stride(), 32u);
  cache.set_length(1, 2, 5);
  BOOST_CHECK_EQUAL(cache.longest(1), 5u);
  BOOST_CHECK_EQUAL(cache.longest(0), 0u);
  BOOST_CHECK_EQUAL(cache.logical_bytes(), 5u * 20 * 8);
}
