// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE statistics
#include "eval/statistics.hpp"

#include <array>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "eval/accounts.hpp"
#include "eval/digest.hpp"
#include "eval/plan.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using engine::Trigger;
using eval::Layout;
using eval::Protocol;
using eval::Window;

std::vector<std::size_t> flat(const std::vector<Window>& windows) {
  std::vector<std::size_t> numbers;
  for (const Window& w : windows) {
    for (const std::size_t n : {w.begin, w.tokens, w.first_scored}) numbers.push_back(n);
  }
  return numbers;
}

using Numbers = std::vector<std::size_t>;

engine::Press rule(Trigger trigger, std::size_t prune_after, std::size_t interval = 0) {
  engine::Press press;
  press.budget.keep_ratio = engine::KeepRatio::parse("0.5");
  press.trigger = trigger;
  press.prune_after = prune_after;
  press.interval = interval;
  return press;
}

/// A text of one window whose tokens have these differences.
eval::TextScore text_of(const std::vector<double>& differences, std::size_t since = 1) {
  eval::TextScore text;
  text.windows.push_back(
      {{0, differences.size() + 1, 1}, {0, 1, 0}, 0, differences.size(), {}, {}});
  for (std::size_t i = 0; i < differences.size(); ++i) {
    eval::TokenScore score;
    score.nll = static_cast<float>(differences[i]);
    score.position = static_cast<std::uint32_t>(i + 1);
    score.since_cut = static_cast<std::uint32_t>(since);
    text.scores.push_back(score);
    text.nll += static_cast<double>(score.nll);
  }
  text.scored = differences.size();
  return text;
}

}  // namespace

BOOST_AUTO_TEST_CASE(effective_prune_after_leaves_something_to_cut) {
  BOOST_CHECK_EQUAL(eval::effective_prune_after(256, 1024), 256u);
  BOOST_CHECK_EQUAL(eval::effective_prune_after(256, 200), 150u);
  BOOST_CHECK_EQUAL(eval::effective_prune_after(256, 90), 45u);
  BOOST_CHECK_EQUAL(eval::effective_prune_after(256, 34), 32u);
  BOOST_CHECK_EQUAL(eval::effective_prune_after(512, 512), 462u);
  BOOST_CHECK_EQUAL(eval::effective_prune_after(8, 1024), 32u);
}

BOOST_AUTO_TEST_CASE(windows_score_each_token_once) {
  const auto of = [](Layout layout, std::size_t tokens) {
    return flat(eval::windows(layout, tokens));
  };
  BOOST_CHECK(of({Protocol::two_phase, 100}, 33).empty());
  BOOST_CHECK((of({Protocol::two_phase, 100}, 34) == Numbers{0, 34, 1}));
  BOOST_CHECK((of({Protocol::two_phase, 100}, 500) == Numbers{0, 100, 1}));
  BOOST_CHECK((of({Protocol::two_phase, 100, 0, true}, 33) == Numbers{0, 34, 1}));
  BOOST_CHECK(of({Protocol::all, 100}, 1).empty());
  BOOST_CHECK((of({Protocol::all, 100}, 2) == Numbers{0, 2, 1}));
  BOOST_CHECK((of({Protocol::fixed, 10}, 25) == Numbers{0, 10, 1, 10, 10, 1, 20, 5, 1}));
  // The 21st token stands alone in its window, behind nothing.
  BOOST_CHECK((of({Protocol::fixed, 10}, 21) == Numbers{0, 10, 1, 10, 10, 1}));
  BOOST_CHECK((of({Protocol::fixed, 10, 0, true}, 19) == Numbers{0, 10, 1, 9, 10, 1, 18, 2, 1}));
  BOOST_CHECK((of({Protocol::sliding, 10, 4}, 17) == Numbers{0, 10, 1, 4, 10, 6, 8, 9, 6}));
  BOOST_CHECK((of({Protocol::sliding, 10, 4}, 10) == Numbers{0, 10, 1}));
  BOOST_CHECK(of({Protocol::sliding, 10, 10}, 25) == of({Protocol::fixed, 10}, 25));
  for (const std::size_t stride : {1u, 3u, 9u}) {
    for (const bool bos : {false, true}) {
      std::vector<int> scored(57);
      const std::size_t first = bos ? 1 : 0;
      for (const Window& w : eval::windows({Protocol::sliding, 10, stride, bos}, 57)) {
        BOOST_CHECK_LE(w.tokens, 10u);
        for (std::size_t i = w.first_scored; i < w.tokens; ++i) ++scored[w.begin + i - first];
      }
      BOOST_CHECK_EQUAL(scored[0], bos ? 1 : 0);
      for (std::size_t i = 1; i < scored.size(); ++i) BOOST_CHECK_EQUAL(scored[i], 1);
    }
  }
}

BOOST_AUTO_TEST_CASE(after_first_cut_scores_from_the_first_cut_of_the_plan) {
  const std::size_t tokens = 200;
  for (const Trigger trigger : {Trigger::exceeds, Trigger::reaches, Trigger::every}) {
    for (const std::size_t limit : {2u, 3u, 60u, 198u}) {
      const engine::Press press = rule(trigger, limit, limit);
      const auto way = eval::course({Protocol::after_first_cut, tokens}, {0, tokens, 1}, press);
      const auto cuts = eval::plan(press, tokens - 1, 0);
      BOOST_REQUIRE(!cuts.empty() || trigger == Trigger::reaches || limit == 198u);
      if (!cuts.empty()) BOOST_CHECK_EQUAL(way.first_scored, cuts.front().token + 2);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_wrong_trigger_is_found_out) {
  // Logs of engines with an error of one: the trigger fires a slot early, a slot late, on the other
  // side of a token, or a token late once.
  const engine::Press press = rule(Trigger::exceeds, 256);
  const auto log = [&](const engine::Press& wrong, std::size_t layers) {
    std::vector<engine::Cut> cuts;
    for (const eval::PlannedCut& cut : eval::plan(wrong, 1023, 256)) {
      for (std::size_t layer = 1; layer < layers; ++layer) {
        cuts.push_back({layer, cut.token, cut.before, cut.after, false, {}});
      }
    }
    return cuts;
  };
  const auto check = [&](const std::vector<engine::Cut>& cuts) {
    eval::check_against_plan(press, 3, 1023, 256, cuts, "text");
  };
  BOOST_CHECK_NO_THROW(check(log(press, 3)));
  for (const std::size_t limit : {255u, 257u}) {
    BOOST_CHECK_THROW(check(log(rule(Trigger::exceeds, limit), 3)), engine::Error);
  }
  BOOST_CHECK_THROW(check(log(rule(Trigger::reaches, 256), 3)), engine::Error);
  BOOST_CHECK_THROW(check(log(press, 2)), engine::Error);
  BOOST_CHECK_THROW(check({}), engine::Error);
  std::vector<engine::Cut> skipped = log(press, 3);
  skipped.push_back({0, 300, 301, 151, false, {}});
  BOOST_CHECK_THROW(check(skipped), engine::Error);
  std::vector<engine::Cut> late = log(press, 3);
  ++late.back().position;
  try {
    check(late);
    BOOST_ERROR("a cut a token late was accepted");
  } catch (const engine::Error& error) {
    const std::string what = error.what();
    BOOST_CHECK_MESSAGE(what.find("layer 2") != std::string::npos, what);
    BOOST_CHECK_MESSAGE(what.find("6 cuts, number 6 after token") != std::string::npos, what);
  }
}

BOOST_AUTO_TEST_CASE(intervals_over_documents_are_students) {
  // Documents of two tokens with differences 1 to 12: mean 6.5, deviation sqrt(13), t(11) 2.20099.
  std::vector<eval::TextScore> texts;
  for (int i = 1; i <= 12; ++i) texts.push_back(text_of({double(i), double(i)}));
  const auto interval = eval::log_ratio_interval(texts, 1024);
  BOOST_REQUIRE(interval);
  BOOST_CHECK(interval->over == eval::Interval::Over::documents);
  BOOST_CHECK_EQUAL(interval->units, 12u);
  const double half = 2.200985160082949 * std::sqrt(13.0 / 12.0);
  BOOST_CHECK_CLOSE(interval->low, 6.5 - half, 1e-3);
  BOOST_CHECK_CLOSE(interval->high, 6.5 + half, 1e-3);
  // A document counts by its tokens.
  texts.push_back(text_of(std::vector<double>(1000, 6.5)));
  const auto narrow = eval::log_ratio_interval(texts, 1024);
  BOOST_CHECK_LT(narrow->high - narrow->low, 0.2);
  BOOST_CHECK_CLOSE((narrow->low + narrow->high) / 2, 6.5, 1e-6);
}

BOOST_AUTO_TEST_CASE(intervals_take_windows_then_blocks_where_documents_are_few) {
  std::vector<double> saw;
  for (int i = 0; i < 1200; ++i) saw.push_back(i % 100 < 50 ? 1.0 : 3.0);
  const std::vector<eval::TextScore> text = {text_of(saw, 100)};
  const auto windows = eval::log_ratio_interval(text, 100);
  BOOST_REQUIRE(windows);
  BOOST_CHECK(windows->over == eval::Interval::Over::windows);
  BOOST_CHECK_EQUAL(windows->units, 13u);  // positions 1 to 1,200
  const auto blocks = eval::log_ratio_interval(text, 1000);
  BOOST_REQUIRE(blocks);
  BOOST_CHECK(blocks->over == eval::Interval::Over::blocks);
  BOOST_CHECK_EQUAL(blocks->block, 100u);
  BOOST_CHECK_EQUAL(blocks->units, 12u);
  // Blocks as long as the saw's teeth all have the same mean.
  BOOST_CHECK_CLOSE(blocks->low, 2.0, 1e-9);
  BOOST_CHECK_CLOSE(blocks->high, 2.0, 1e-9);
  // The spread of blocks of 40 tokens drawn from 1,200.
  const std::vector<eval::TextScore> shorter = {text_of(saw, 40)};
  const auto wide = eval::log_ratio_interval(shorter, 2000);
  BOOST_CHECK_LT(wide->low, 1.8);
  BOOST_CHECK_GT(wide->high, 2.2);
  BOOST_CHECK_GT(wide->low, 1.5);
  // The same blocks for one seed, others for another: with values that hardly repeat.
  for (std::size_t i = 0; i < saw.size(); ++i) saw[i] += 0.001 * static_cast<double>(i * i % 977);
  const std::vector<eval::TextScore> uneven = {text_of(saw, 40)};
  const auto first = eval::log_ratio_interval(uneven, 2000);
  BOOST_CHECK_EQUAL(first->low, eval::log_ratio_interval(uneven, 2000)->low);
  BOOST_CHECK_NE(first->low, eval::log_ratio_interval(uneven, 2000, 1)->low);
  // One stretch says nothing of its own spread.
  const std::vector<eval::TextScore> single = {text_of(saw, 1000)};
  BOOST_CHECK(!eval::log_ratio_interval(single, 2000));
}

BOOST_AUTO_TEST_CASE(tokens_are_dated_from_the_cuts_that_they_felt) {
  eval::WindowScore window;
  window.window = {0, 12, 1};
  window.course = {0, 3, 0};
  window.scored = 9;
  for (const auto& [layer, position, before] :
       std::vector<std::array<std::size_t, 3>>{{1, 4, 5}, {2, 4, 5}, {1, 8, 7}, {1, 10, 5}}) {
    window.log.push_back({layer, position, before, 3, false, {}});
  }
  std::vector<eval::TokenScore> scores(9);
  for (std::uint32_t i = 0; i < 9; ++i) scores[i].position = i + 3;
  eval::date_scores(window, scores.data());
  Numbers cuts;
  Numbers since;
  for (const eval::TokenScore& score : scores) {
    cuts.push_back(score.cuts);
    since.push_back(score.since_cut);
  }
  // Token t is scored by the logits behind token t - 1, which a cut behind token t - 2 has touched.
  BOOST_CHECK((cuts == Numbers{0, 0, 0, 1, 1, 1, 1, 2, 2}));
  BOOST_CHECK((since == Numbers{0, 0, 0, 1, 2, 3, 4, 1, 2}));
  BOOST_CHECK(eval::felt_cut(window, 1));
  BOOST_CHECK(!eval::felt_cut(window, 0));
  BOOST_CHECK((eval::length_over_time(window, 1) == Numbers{1, 2, 3, 4, 3, 4, 5, 6, 3, 4, 3}));
  BOOST_CHECK_EQUAL(eval::length_over_time(window, 0).back(), 11u);

  eval::Row row;
  row.texts.push_back({});
  for (std::size_t i = 0; i < scores.size(); ++i) {
    scores[i].nll = static_cast<float>(i);
    row.texts[0].scores.push_back(scores[i]);
  }
  const auto by_cuts = eval::buckets(row, eval::By::cuts);
  BOOST_REQUIRE_EQUAL(by_cuts.size(), 3u);
  BOOST_CHECK_EQUAL(by_cuts[1].tokens, 4u);
  BOOST_CHECK_EQUAL(by_cuts[1].log_ratio, 4.5);
  BOOST_CHECK_EQUAL(by_cuts[2].last, 3u);
  const auto by_since = eval::buckets(row, eval::By::since_cut);
  BOOST_REQUIRE_EQUAL(by_since.size(), 4u);
  BOOST_CHECK_EQUAL(by_since[2].first, 2u);
  BOOST_CHECK_EQUAL(by_since[2].tokens, 3u);
  BOOST_CHECK_EQUAL(eval::buckets(row, eval::By::position).size(), 1u);
}

BOOST_AUTO_TEST_CASE(digests_are_those_of_the_published_algorithm) {
  // XXH3-128 of no bytes, and of the bytes of 1.0f; any NaN counts as the one of the contract.
  BOOST_CHECK_EQUAL(eval::Digest().hex(), "99aa06d3014798d86001c324468d497f");
  eval::Digest a;
  eval::Digest b;
  const float x[] = {1.0f, std::nanf("1"), -0.0f};
  const float y[] = {1.0f, -std::nanf("2"), -0.0f};
  const float z[] = {1.0f, std::nanf("1"), 0.0f};
  a.add(x);
  b.add(y);
  BOOST_CHECK_EQUAL(a.hex(), b.hex());
  eval::Digest c;
  c.add(z);
  BOOST_CHECK_NE(a.hex(), c.hex());
}

BOOST_AUTO_TEST_CASE(a_digest_goes_on_from_its_saved_state) {
  tests::Numbers numbers(5);
  for (const std::size_t before : {0u, 1u, 100u, 5000u}) {
    std::vector<float> first(before);
    std::vector<float> second(777);
    for (float& x : first) x = numbers.symmetric();
    for (float& x : second) x = numbers.symmetric();
    eval::Digest whole;
    whole.add(first);
    eval::Digest resumed = eval::Digest::resume(whole.state());
    BOOST_CHECK_EQUAL(resumed.hex(), whole.hex());
    whole.add(second);
    resumed.add(second);
    BOOST_CHECK_EQUAL(resumed.hex(), whole.hex());
  }
  const std::string state = eval::Digest().state();
  for (const std::string& bad : {std::string(), "x" + state, state.substr(1), state + "00",
                                 state.substr(0, state.size() - 1) + "g"}) {
    BOOST_CHECK_THROW(eval::Digest::resume(bad), engine::Error);
  }
}
