// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE eval
#include <array>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "engine/oracle.hpp"
#include "engine/sampler.hpp"
#include "eval/digest.hpp"
#include "eval/perplexity.hpp"
#include "eval/sweep.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using engine::Model;
using engine::Trigger;
using eval::Protocol;

constexpr std::size_t limit = 60;  ///< prune_after

struct Fixture {
  Fixture() {
    shape.max_positions = 256;
    tests::write_checkpoint(folder.path(), shape);
    texts = {{"one", tests::random_tokens(200, shape.vocab, 1)},
             {"short", tests::random_tokens(33, shape.vocab, 2)},
             {"two", tests::random_tokens(90, shape.vocab, 3)}};
  }
  Model load(std::size_t threads = 2) const {
    return Model::load(folder.path(), {"", engine::Backend::tbb, threads});
  }
  tests::TemporaryFolder folder;
  tests::Shape shape;
  std::vector<eval::Text> texts;
};

eval::Arm keep(const std::string& ratio, Trigger trigger = Trigger::exceeds) {
  engine::Press press;
  press.budget.keep_ratio = engine::KeepRatio::parse(ratio);
  press.trigger = trigger;
  press.prune_after = limit;
  return {ratio, press};
}

eval::Sweep sweep(Model& model, const std::vector<eval::Text>& texts,
                  const std::vector<eval::Arm>& arms, const eval::Layout& layout) {
  eval::SweepOptions options;
  options.layout = layout;
  return eval::evaluate(model, texts, arms, options);
}

std::vector<eval::Row> two_phase(Model& model, const std::vector<eval::Text>& texts,
                                 const std::vector<eval::Arm>& arms, std::size_t max_tokens) {
  return sweep(model, texts, arms, {Protocol::two_phase, max_tokens}).rows;
}

/// KL in one plain sum, by probabilities.
double plain_kl(const std::vector<float>& full, const std::vector<float>& other) {
  const auto sum_of = [](const std::vector<float>& logits) {
    double sum = 0.0;
    for (const float l : logits) sum += std::exp(static_cast<double>(l));
    return sum;
  };
  const double z = sum_of(full);
  const double other_z = sum_of(other);
  double kl = 0.0;
  for (std::size_t id = 0; id < full.size(); ++id) {
    const double p = std::exp(static_cast<double>(full[id])) / z;
    const double q = std::exp(static_cast<double>(other[id])) / other_z;
    kl += p * std::log(p / q);
  }
  return kl;
}

/// One window of a text under one press as the oracle goes through it, token by token.
struct Walk {
  std::vector<std::vector<float>> logits;  ///< after each token that enters
  std::vector<std::size_t> seen;           ///< slots that they saw, over both layers
  std::vector<std::size_t> lengths;        ///< at the end
};
Walk walk(const Fixture& fixture, const std::vector<std::int32_t>& ids, std::size_t untouched,
          const engine::Press* press) {
  engine::Oracle<float> oracle(engine::Checkpoint::open(fixture.folder.path()));
  Walk walk;
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
    if (i == untouched && press != nullptr) oracle.set_press(*press);
    walk.logits.push_back(oracle.forward(ids[i]));
    walk.seen.push_back(oracle.seen(0) + oracle.seen(1));
  }
  walk.lengths = {oracle.length(0), oracle.length(1)};
  return walk;
}

/// Where each scored token comes from, by the words of docs/protocols.md.
struct Expected {
  std::size_t begin;
  std::size_t end;
  std::size_t untouched;
  std::size_t first_scored;  ///< in the window
  std::size_t prune_after;
};

/// Holds every figure of a text to plain sums over the oracle's logits.
void check_text(const Fixture& fixture, const simd::Kernels& kernels, const eval::Row& row,
                std::size_t t, const std::vector<Expected>& windows, eval::Digest& digest) {
  const eval::TextScore& score = row.texts[t];
  double nll = 0.0;
  double full_nll = 0.0;
  double kl = 0.0;
  double slots = 0.0;
  std::size_t scored = 0;
  std::size_t correct = 0;
  std::size_t agreed = 0;
  BOOST_REQUIRE_EQUAL(score.windows.size(), windows.size());
  for (std::size_t w = 0; w < windows.size(); ++w) {
    const Expected& window = windows[w];
    const std::vector<std::int32_t>& all = fixture.texts[t].tokens;
    const std::vector<std::int32_t> ids(all.begin() + static_cast<std::ptrdiff_t>(window.begin),
                                        all.begin() + static_cast<std::ptrdiff_t>(window.end));
    engine::Press press = row.arm.press;
    press.prune_after = window.prune_after;
    const Walk full = walk(fixture, ids, 0, nullptr);
    const Walk mine = walk(fixture, ids, window.untouched, row.compressed ? &press : nullptr);
    BOOST_CHECK_EQUAL(score.windows[w].window.begin, window.begin);
    BOOST_CHECK_EQUAL(score.windows[w].window.tokens, ids.size());
    BOOST_CHECK_EQUAL(score.windows[w].course.untouched, window.untouched);
    BOOST_CHECK_EQUAL(score.windows[w].course.prune_after, window.prune_after);
    BOOST_CHECK_EQUAL(score.windows[w].scored, ids.size() - window.first_scored);
    BOOST_CHECK(score.windows[w].lengths == mine.lengths);
    for (std::size_t i = window.first_scored; i < ids.size(); ++i) {
      const std::vector<float>& logits = mine.logits[i - 1];
      const eval::TokenScore& token = score.scores[scored];
      BOOST_CHECK_EQUAL(token.position, i);
      BOOST_CHECK_EQUAL(token.token, ids[i]);
      BOOST_CHECK_EQUAL(token.nll, eval::nll(kernels, logits, ids[i]));
      BOOST_CHECK_EQUAL(token.full_nll, eval::nll(kernels, full.logits[i - 1], ids[i]));
      BOOST_CHECK_SMALL(token.kl - plain_kl(full.logits[i - 1], logits), 1e-7);
      const std::size_t best = engine::argmax(logits);
      BOOST_CHECK_EQUAL(token.correct, best == static_cast<std::size_t>(ids[i]));
      BOOST_CHECK_EQUAL(token.agrees, best == engine::argmax(full.logits[i - 1]));
      nll += static_cast<double>(token.nll);
      full_nll += static_cast<double>(token.full_nll);
      kl += token.kl;
      correct += token.correct ? 1 : 0;
      agreed += token.agrees ? 1 : 0;
      slots += static_cast<double>(mine.seen[i - 1]) / 2;
      digest.add(logits);
      ++scored;
    }
  }
  BOOST_CHECK_EQUAL(score.scored, scored);
  BOOST_CHECK_EQUAL(score.nll, nll);
  BOOST_CHECK_EQUAL(score.full_nll, full_nll);
  BOOST_CHECK_EQUAL(score.kl, kl);
  BOOST_CHECK_EQUAL(score.correct, correct);
  BOOST_CHECK_EQUAL(score.agreed, agreed);
  BOOST_CHECK_CLOSE(score.mean_slots, slots / static_cast<double>(scored), 1e-9);
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(two_phase_is_what_the_oracle_computes_token_by_token, Fixture) {
  Model model = load();
  for (const Trigger trigger : {Trigger::exceeds, Trigger::reaches}) {
    const std::size_t late = trigger == Trigger::reaches ? 1 : 0;
    const auto rows = two_phase(model, texts, {keep("0.5", trigger)}, 150);
    BOOST_REQUIRE_EQUAL(rows.size(), 2u);
    for (const eval::Row& row : rows) {
      eval::Digest digest;
      check_text(*this, model.kernels(), row, 0, {{0, 150, 60, 60 + late, 60}}, digest);
      BOOST_CHECK_EQUAL(row.texts[1].scored, 0u);
      BOOST_CHECK_EQUAL(row.texts[1].tokens, 33u);
      check_text(*this, model.kernels(), row, 2, {{0, 90, 45, 45 + late, 45}}, digest);
      BOOST_CHECK_EQUAL(row.digest, digest.hex());
      BOOST_CHECK_EQUAL(row.texts[0].cuts[0], 0u);
      BOOST_CHECK_EQUAL(row.texts[0].cuts[1] > 0, row.compressed);
      BOOST_CHECK_EQUAL(row.nll, row.texts[0].nll + row.texts[2].nll);
      BOOST_CHECK_CLOSE(row.perplexity(), std::exp(row.nll / static_cast<double>(row.scored)),
                        1e-9);
    }
    BOOST_CHECK_NE(rows[0].digest, rows[1].digest);
    BOOST_CHECK_EQUAL(rows[1].full_nll, rows[0].nll);
  }
}

BOOST_FIXTURE_TEST_CASE(the_other_protocols_are_what_the_oracle_computes, Fixture) {
  Model model = load();
  texts[0].tokens.resize(130);
  texts.resize(1);
  struct Case {
    eval::Layout layout;
    Trigger trigger;
    std::vector<Expected> windows;
  };
  const std::vector<Case> cases = {
      {{Protocol::all, 100}, Trigger::exceeds, {{0, 100, 0, 1, 60}}},
      {{Protocol::all, 100}, Trigger::reaches, {{0, 100, 0, 1, 60}}},
      // exceeds: 61 tokens have entered at the first cut, so token 61 met it, and 62 is scored.
      {{Protocol::after_first_cut, 100}, Trigger::exceeds, {{0, 100, 0, 62, 60}}},
      {{Protocol::after_first_cut, 100}, Trigger::reaches, {{0, 100, 0, 61, 60}}},
      {{Protocol::fixed, 65}, Trigger::exceeds, {{0, 65, 0, 1, 60}, {65, 130, 0, 1, 60}}},
      {{Protocol::fixed, 100}, Trigger::exceeds, {{0, 100, 0, 1, 60}, {100, 130, 0, 1, 60}}},
      {{Protocol::sliding, 80, 30},
       Trigger::exceeds,
       {{0, 80, 0, 1, 60}, {30, 110, 0, 50, 60}, {60, 130, 0, 50, 60}}},
  };
  for (const Case& one : cases) {
    const auto rows = sweep(model, texts, {keep("0.5", one.trigger)}, one.layout).rows;
    for (const eval::Row& row : rows) {
      eval::Digest digest;
      check_text(*this, model.kernels(), row, 0, one.windows, digest);
      BOOST_CHECK_EQUAL(row.digest, digest.hex());
      BOOST_CHECK_EQUAL(row.texts[0].digest, digest.hex());
    }
  }
}

BOOST_FIXTURE_TEST_CASE(a_token_put_first_is_never_scored, Fixture) {
  Model model = load();
  eval::SweepOptions options;
  options.first_token = 7;
  std::vector<eval::Text> with = {texts[0]};
  with[0].tokens.resize(99);
  std::vector<eval::Text> written = with;
  written[0].tokens.insert(written[0].tokens.begin(), 7);
  for (const Protocol protocol : {Protocol::two_phase, Protocol::all}) {
    options.layout = {protocol, 150};
    const auto rows = eval::evaluate(model, with, std::vector{keep("0.5")}, options).rows;
    const auto same = sweep(model, written, {keep("0.5")}, {protocol, 150}).rows;
    BOOST_CHECK_EQUAL(rows[1].digest, same[1].digest);
    BOOST_CHECK_EQUAL(rows[1].texts[0].tokens, 100u);
  }
  // Every window begins with it, so that every token of the text is scored.
  options.layout = {Protocol::fixed, 34};
  const auto rows = eval::evaluate(model, with, std::vector{keep("1")}, options).rows;
  BOOST_CHECK_EQUAL(rows[0].scored, 99u);
  BOOST_CHECK_EQUAL(rows[0].texts[0].windows.size(), 3u);
}

BOOST_FIXTURE_TEST_CASE(a_task_scores_its_target_only, Fixture) {
  Model model = load();
  texts[0].tokens.resize(120);
  texts[0].target = 117;
  texts[1].target = 30;
  texts.resize(2);
  for (const Protocol protocol : {Protocol::two_phase, Protocol::all}) {
    const auto rows = sweep(model, texts, {keep("0.5")}, {protocol, 200}).rows;
    const bool phases = protocol == Protocol::two_phase;
    for (const eval::Row& row : rows) {
      eval::Digest digest;
      const std::size_t limit_of_one = 60;
      check_text(*this, model.kernels(), row, 0,
                 {{0, 120, phases ? limit_of_one : 0, 117, limit_of_one}}, digest);
      check_text(*this, model.kernels(), row, 1,
                 {{0, 33, phases ? 30u : 0u, 30, phases ? 32u : limit}}, digest);
    }
    BOOST_CHECK(!rows[1].texts[0].never_cut);
    BOOST_CHECK(rows[1].texts[1].never_cut);
  }
  // A text that is too long keeps its end.
  const auto rows = sweep(model, texts, {keep("0.5")}, {Protocol::all, 100}).rows;
  eval::Digest digest;
  check_text(*this, model.kernels(), rows[1], 0, {{20, 120, 0, 97, limit}}, digest);
  BOOST_CHECK_THROW(sweep(model, texts, {keep("0.5")}, {Protocol::fixed, 100}), engine::Error);
  BOOST_CHECK_THROW(sweep(model, texts, {keep("0.5")}, {Protocol::all, 3}), engine::Error);
}

BOOST_FIXTURE_TEST_CASE(a_run_does_not_depend_on_those_before_it, Fixture) {
  Model model = load();
  eval::Arm late = keep("0.5");
  late.press.prune_after = 40;
  const std::vector<eval::Arm> all = {keep("0.9"), keep("1"), keep("0.1"), late};
  const auto first = two_phase(model, texts, all, 150);
  const auto again = two_phase(model, texts, all, 150);
  const auto alone = two_phase(model, texts, {keep("0.1")}, 150);
  const auto late_alone = two_phase(model, texts, {late}, 150);
  BOOST_REQUIRE_EQUAL(first.size(), 5u);
  for (std::size_t i = 0; i < first.size(); ++i) {
    BOOST_CHECK_EQUAL(first[i].digest, again[i].digest);
  }
  BOOST_CHECK_EQUAL(first[2].arm.label, "0.1");
  BOOST_CHECK_EQUAL(first[2].digest, alone[1].digest);
  BOOST_CHECK_EQUAL(first[2].full_row, 0u);
  // Another prune_after scores other tokens, beside an uncompressed row of its own.
  BOOST_CHECK_EQUAL(first[3].digest, late_alone[0].digest);
  BOOST_CHECK_EQUAL(first[4].digest, late_alone[1].digest);
  BOOST_CHECK_EQUAL(first[4].full_row, 3u);
  BOOST_CHECK_GT(first[4].scored, first[2].scored);
}

BOOST_FIXTURE_TEST_CASE(a_row_that_was_never_cut_says_so, Fixture) {
  Model model = load();
  // max(L - 50, L / 2) is below L - 1 for every length, so what is left is a keep ratio so high
  // that a cut would drop nothing.
  const auto rows = two_phase(model, texts, {keep("0.999"), keep("0.5")}, 100);
  BOOST_CHECK(!rows[0].texts[0].never_cut);
  BOOST_CHECK(rows[1].texts[0].never_cut);
  BOOST_CHECK(!rows[2].texts[0].never_cut);
  BOOST_CHECK_EQUAL(rows[1].digest, rows[0].digest);
  // A cut behind the last token that enters changes no score.
  const auto late = two_phase(model, texts, {keep("0.5")}, 34);
  BOOST_CHECK_EQUAL(late[1].texts[0].cuts[1], 1u);
  BOOST_CHECK(late[1].texts[0].never_cut);
  BOOST_CHECK_EQUAL(late[1].digest, late[0].digest);
  // Where every layer is skipped nothing can be cut.
  eval::Arm nothing = keep("0.5");
  nothing.press.skip_layers = {0, 1};
  BOOST_CHECK(two_phase(model, texts, {nothing}, 100)[1].texts[0].never_cut);
  // No trigger, no score behind a first cut.
  eval::Arm far = keep("0.5");
  far.press.prune_after = 500;
  const auto none = sweep(model, texts, {far}, {Protocol::after_first_cut, 150}).rows;
  BOOST_CHECK_EQUAL(none[1].scored, 0u);
  BOOST_CHECK(none[1].texts[0].never_cut);
}

BOOST_FIXTURE_TEST_CASE(controls_have_the_slots_of_their_arm, Fixture) {
  Model model = load();
  eval::Arm arm = keep("0.5");
  arm.schedule = 3;
  arm.press.sinks = 2;
  const auto arms = eval::with_controls(std::vector{arm}, 5);
  BOOST_REQUIRE_EQUAL(arms.size(), 12u);
  const auto rows = two_phase(model, texts, arms, 150);
  BOOST_REQUIRE_EQUAL(rows.size(), 13u);
  std::size_t same = 0;
  for (std::size_t i = 2; i < rows.size(); ++i) {
    BOOST_CHECK(rows[i].arm.control);
    BOOST_CHECK_EQUAL(rows[i].mean_slots, rows[1].mean_slots);
    BOOST_CHECK(rows[i].texts[0].windows[0].lengths == rows[1].texts[0].windows[0].lengths);
    for (std::size_t j = 1; j < i; ++j) same += rows[i].digest == rows[j].digest ? 1u : 0u;
  }
  BOOST_CHECK_EQUAL(same, 0u);
  // An arm that claims to be alike and is not stops the sweep.
  eval::Arm other = keep("0.4");
  other.schedule = 3;
  BOOST_CHECK_THROW(two_phase(model, texts, {arm, other}, 150), engine::Error);
}

BOOST_FIXTURE_TEST_CASE(survivors_and_the_dropped_are_counted, Fixture) {
  Model model = load();
  eval::Arm arm = keep("0.5");
  arm.press.score = engine::Score::recent;
  texts.resize(1);
  // 61 slots are cut to 31 behind token 60, then behind every 30th.
  for (const std::size_t length : {149u, 152u}) {
    const eval::Row row = two_phase(model, texts, {arm}, length)[1];
    const eval::Survival& survival = row.survival;
    const std::size_t entered = length - 1;
    BOOST_REQUIRE_EQUAL(survival.positions, entered);
    // The cut behind token 150, the last that enters of 152, comes too late for the last score.
    const std::size_t seen = length == 149 ? 31 + 27 : 61;
    for (std::size_t p = 0; p < entered; ++p) {
      BOOST_CHECK_EQUAL(survival.share(0, p), 1.0);
      BOOST_CHECK_EQUAL(survival.share(1, p), p + seen >= entered ? 1.0 : 0.0);
      BOOST_CHECK_EQUAL(survival.share_by_age(1, p), p < seen ? 1.0 : 0.0);
      const bool dropped = p >= 31 && p <= 60;
      BOOST_CHECK_EQUAL(survival.dropped_by_age[entered + p], dropped ? row.cuts[1] * 2 : 0u);
    }
    const eval::DropAges& ages = survival.drops[1 * 2 + 1];
    BOOST_CHECK_EQUAL(ages.dropped, row.cuts[1] * 30);
    BOOST_CHECK_EQUAL(ages.youngest, 31u);
    BOOST_CHECK_EQUAL(ages.oldest, 60u);
    BOOST_CHECK_EQUAL(ages.sum, row.cuts[1] * 30 * 91 / 2);
    BOOST_CHECK_EQUAL(survival.drops[0].dropped, 0u);
  }
}

BOOST_FIXTURE_TEST_CASE(settings_that_do_not_fit_are_refused, Fixture) {
  Model model = load(1);
  BOOST_CHECK_THROW(two_phase(model, texts, {keep("0.5")}, 1000), engine::Error);
  eval::Arm no_such_layer = keep("0.5");
  no_such_layer.press.skip_layers = {2};
  BOOST_CHECK_THROW(two_phase(model, texts, {no_such_layer}, 100), engine::Error);
  for (const std::size_t place : {60u, 99u}) {
    std::vector<eval::Text> outside = {texts[0]};
    outside[0].tokens[place] = static_cast<std::int32_t>(shape.vocab);
    BOOST_CHECK_THROW(two_phase(model, outside, {keep("0.5")}, 100), engine::Error);
  }
  const std::vector<eval::Text> only_short = {texts[1]};
  BOOST_CHECK_THROW(two_phase(model, only_short, {keep("0.5")}, 100), engine::Error);
  BOOST_CHECK_THROW(two_phase(model, texts, {}, 100), engine::Error);
  for (const std::size_t stride : {0u, 101u}) {
    BOOST_CHECK_THROW(sweep(model, texts, {keep("1")}, {Protocol::sliding, 100, stride}),
                      engine::Error);
  }
  BOOST_CHECK_THROW(sweep(model, texts, {keep("0.5", Trigger::after_prompt)}, {Protocol::all, 100}),
                    engine::Error);
}
