// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE press
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <limits>
#include <string>

#include "engine/error.hpp"
#include "engine/kv_cache.hpp"
#include "engine/press.hpp"
#include "engine/selection.hpp"
#include "engine/sequence.hpp"
#include "eval/plan.hpp"
#include "tests/checkpoints.hpp"

using namespace neoxref;
using engine::KeepRatio;

BOOST_AUTO_TEST_CASE(a_score_that_is_nan_ranks_lowest) {
  // Its sign is the machine's.
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float infinite = std::numeric_limits<float>::infinity();
  const std::vector<float> scores = {nan, -infinite, -nan, 1.0f, infinite, -nan};
  std::vector<std::uint64_t> ranking(scores.size());
  std::vector<std::uint32_t> kept(scores.size());
  engine::select_highest(scores.data(), scores.size(), 4, 0, 0, ranking.data(), kept.data());
  kept.resize(4);
  BOOST_CHECK((kept == std::vector<std::uint32_t>{0, 1, 3, 4}));
}

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

BOOST_AUTO_TEST_CASE(selection_is_a_stable_sort_with_protected_ends) {
  tests::Numbers numbers(5);
  for (int round = 0; round < 500; ++round) {
    const std::size_t slots = 1 + numbers.below(300);
    engine::Press press;
    press.budget.slots = 1 + numbers.below(slots);
    press.sinks = numbers.below(4) == 0 ? numbers.below(slots + 5) : 0;
    press.recent = numbers.below(4) == 0 ? numbers.below(slots + 5) : 0;
    // Few values, so that there are many ties; zeros of both signs and subnormals among them.
    std::vector<float> scores(slots);
    for (float& score : scores) {
      score = (static_cast<float>(numbers.below(9)) - 4.0f) * (round % 3 == 0 ? 1e-44f : 0.5f);
      score = score + 0.0f;
    }
    std::vector<std::size_t> expected;
    std::vector<std::size_t> others;
    for (std::size_t slot = 0; slot < slots; ++slot) {
      const bool kept = slot < press.sinks || slots - slot <= press.recent;
      (kept ? expected : others).push_back(slot);
    }
    std::stable_sort(others.begin(), others.end(),
                     [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    for (const std::size_t slot : others) {
      if (expected.size() < press.budget.slots) expected.push_back(slot);
    }
    std::sort(expected.begin(), expected.end());
    const std::size_t keep = press.keep(0, slots);
    BOOST_REQUIRE_EQUAL(keep, expected.size());
    BOOST_CHECK_EQUAL(press.protection_wins(0, slots), keep > press.budget.slots);
    std::vector<std::uint64_t> ranking(slots);
    std::vector<std::uint32_t> kept(slots);
    engine::select_highest(scores.data(), slots, keep, press.sinks, press.recent, ranking.data(),
                           kept.data());
    BOOST_CHECK_EQUAL_COLLECTIONS(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(keep),
                                  expected.begin(), expected.end());
  }
}

BOOST_AUTO_TEST_CASE(cuts_of_the_study) {
  const auto cuts = [](const char* ratio, engine::Trigger trigger) {
    engine::Press press;
    press.budget.keep_ratio = KeepRatio::parse(ratio);
    press.prune_after = 256;
    press.trigger = trigger;
    return eval::plan(press, 1023, 256).size();
  };
  BOOST_CHECK_EQUAL(cuts("0.9", engine::Trigger::exceeds), 31u);
  BOOST_CHECK_EQUAL(cuts("0.7", engine::Trigger::exceeds), 10u);
  BOOST_CHECK_EQUAL(cuts("0.5", engine::Trigger::exceeds), 6u);
  BOOST_CHECK_EQUAL(cuts("0.1", engine::Trigger::exceeds), 4u);
  BOOST_CHECK_EQUAL(cuts("0.7", engine::Trigger::reaches), 11u);
  BOOST_CHECK_EQUAL(cuts("1", engine::Trigger::exceeds), 0u);
  engine::Press study_two;
  study_two.budget.keep_ratio = KeepRatio::parse("0.5");
  study_two.prune_after = 512;
  BOOST_CHECK_EQUAL(eval::plan(study_two, 511, 512).size(), 0u);
  for (const char* text : {"", "0", "1.5", "x", "0.5x", "..5"}) {
    BOOST_CHECK_THROW(eval::Ratio::parse(text), std::invalid_argument);
  }
}

BOOST_AUTO_TEST_CASE(names_are_their_own_inverse_and_rules_are_checked) {
  for (int i = 0; i < static_cast<int>(engine::score_count); ++i) {
    const auto score = static_cast<engine::Score>(i);
    BOOST_CHECK(engine::parse_score(engine::score_name(score)) == score);
  }
  BOOST_CHECK_THROW(engine::parse_score("norm"), engine::Error);
  BOOST_CHECK_THROW(engine::parse_trigger(""), engine::Error);
  BOOST_CHECK_THROW(engine::parse_positions("Original"), engine::Error);
  engine::Press press;
  press.check(2, 16, 4);
  press.skip_layers = {2};
  BOOST_CHECK_THROW(press.check(2, 16, 4), engine::Error);
  press.skip_layers = {0};
  press.positions = engine::Positions::rerotate;
  BOOST_CHECK_THROW(press.check(2, 16, 4), engine::Error);
  press.skip_layers = {};
  press.check(2, 16, 4);
  press.trigger = engine::Trigger::every;
  BOOST_CHECK_THROW(press.check(2, 16, 4), engine::Error);
  press.interval = 5;
  press.check(2, 16, 4);
  press.score = engine::Score::knorm_rot;
  BOOST_CHECK_THROW(press.check(2, 16, 0), engine::Error);
  press.score = engine::Score::knorm_pass;
  BOOST_CHECK_THROW(press.check(2, 16, 16), engine::Error);
  press.check(2, 16, 4);
  press.sinks = std::numeric_limits<std::size_t>::max();
  BOOST_CHECK_THROW(press.check(2, 16, 4), engine::Error);
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
