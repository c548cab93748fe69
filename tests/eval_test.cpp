// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE eval
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "engine/oracle.hpp"
#include "eval/digest.hpp"
#include "eval/perplexity.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using engine::Model;

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

eval::RowSpec keep(const std::string& ratio, engine::Trigger trigger = engine::Trigger::exceeds) {
  engine::Press press;
  press.budget.keep_ratio = engine::KeepRatio::parse(ratio);
  press.trigger = trigger;
  return {ratio, press};
}

std::vector<eval::Row> sweep(Model& model, const std::vector<eval::Text>& texts,
                             const std::vector<eval::RowSpec>& specs, std::size_t max_tokens,
                             engine::Trigger trigger = engine::Trigger::exceeds) {
  return eval::two_phase(model, texts, specs, max_tokens, 60, trigger, {});
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

BOOST_FIXTURE_TEST_CASE(two_phase_is_what_the_oracle_computes_token_by_token, Fixture) {
  Model model = load();
  for (const engine::Trigger trigger : {engine::Trigger::exceeds, engine::Trigger::reaches}) {
    const std::size_t late = trigger == engine::Trigger::reaches ? 1 : 0;
    const auto rows = sweep(model, texts, {keep("0.5", trigger)}, 150, trigger);
    BOOST_REQUIRE_EQUAL(rows.size(), 2u);
    for (const eval::Row& row : rows) {
      eval::Digest digest;
      double total = 0.0;
      std::size_t scored = 0;
      for (std::size_t t = 0; t < texts.size(); ++t) {
        const eval::TextScore& score = row.texts[t];
        if (t == 1) {
          BOOST_CHECK_EQUAL(score.scored, 0u);
          continue;
        }
        const std::size_t length = t == 0 ? 150 : 90;
        const std::size_t prefix = t == 0 ? 60 : 45;
        BOOST_CHECK_EQUAL(score.tokens, length);
        BOOST_CHECK_EQUAL(score.effective_prune_after, prefix);
        BOOST_CHECK_EQUAL(score.scored, length - prefix - late);
        engine::Oracle<float> oracle(engine::Checkpoint::open(folder.path()));
        double sum = 0.0;
        double slots = 0.0;
        for (std::size_t i = 0; i + 1 < length; ++i) {
          if (i == prefix && row.press) {
            engine::Press press = *row.press;
            press.prune_after = prefix;
            oracle.set_press(press);
          }
          const auto logits = oracle.forward(texts[t].tokens[i]);
          if (i + 1 < prefix + late) continue;
          slots += static_cast<double>(oracle.seen(0) + oracle.seen(1)) / 2;
          sum += static_cast<double>(eval::nll(model.kernels(), logits, texts[t].tokens[i + 1]));
          digest.add(logits);
        }
        BOOST_CHECK_EQUAL(sum, score.nll);
        BOOST_CHECK_EQUAL(score.lengths[0], length - 1);
        BOOST_CHECK_EQUAL(score.lengths[1], oracle.length(1));
        BOOST_CHECK_CLOSE(score.mean_slots, slots / static_cast<double>(score.scored), 1e-9);
        BOOST_CHECK_EQUAL(score.cuts[0], 0u);
        BOOST_CHECK_EQUAL(score.cuts[1] > 0, row.press.has_value());
        total += sum;
        scored += score.scored;
      }
      BOOST_CHECK_EQUAL(row.nll, total);
      BOOST_CHECK_EQUAL(row.digest, digest.hex());
      BOOST_CHECK_CLOSE(row.perplexity(), std::exp(total / static_cast<double>(scored)), 1e-9);
    }
    BOOST_CHECK_NE(rows[0].digest, rows[1].digest);
  }
}

BOOST_FIXTURE_TEST_CASE(a_run_does_not_depend_on_those_before_it, Fixture) {
  Model model = load();
  const std::vector<eval::RowSpec> all = {keep("0.9"), {"1", {}}, keep("0.1")};
  const auto first = sweep(model, texts, all, 150);
  const auto again = sweep(model, texts, all, 150);
  const auto alone = sweep(model, texts, {keep("0.1")}, 150);
  BOOST_REQUIRE_EQUAL(first.size(), 3u);
  for (std::size_t i = 0; i < first.size(); ++i) {
    BOOST_CHECK_EQUAL(first[i].digest, again[i].digest);
  }
  BOOST_CHECK_EQUAL(first[2].label, "0.1");
  BOOST_CHECK_EQUAL(first[2].digest, alone[1].digest);
}

BOOST_FIXTURE_TEST_CASE(a_row_that_was_never_cut_says_so, Fixture) {
  Model model = load();
  // max(L - 50, L / 2) is below L - 1 for every length, so what is left is a keep ratio so high
  // that a cut would drop nothing.
  const auto rows = sweep(model, texts, {keep("0.999"), keep("0.5")}, 100);
  BOOST_CHECK(!rows[0].texts[0].never_cut);
  BOOST_CHECK(rows[1].texts[0].never_cut);
  BOOST_CHECK(!rows[2].texts[0].never_cut);
  BOOST_CHECK_EQUAL(rows[1].digest, rows[0].digest);
  // A cut behind the last token that enters changes no score.
  const auto late = sweep(model, texts, {keep("0.5")}, 34);
  BOOST_CHECK_EQUAL(late[1].texts[0].cuts[1], 1u);
  BOOST_CHECK(late[1].texts[0].never_cut);
  BOOST_CHECK_EQUAL(late[1].digest, late[0].digest);
}

BOOST_FIXTURE_TEST_CASE(settings_that_do_not_fit_are_refused, Fixture) {
  Model model = load(1);
  BOOST_CHECK_THROW(sweep(model, texts, {keep("0.5")}, 1000), engine::Error);
  eval::RowSpec no_such_layer = keep("0.5");
  no_such_layer.press->skip_layers = {2};
  BOOST_CHECK_THROW(sweep(model, texts, {no_such_layer}, 100), engine::Error);
  for (const std::size_t place : {60u, 99u}) {
    std::vector<eval::Text> outside = {texts[0]};
    outside[0].tokens[place] = static_cast<std::int32_t>(shape.vocab);
    BOOST_CHECK_THROW(sweep(model, outside, {keep("0.5")}, 100), engine::Error);
  }
  const std::vector<eval::Text> only_short = {texts[1]};
  BOOST_CHECK_THROW(sweep(model, only_short, {keep("0.5")}, 100), engine::Error);
  BOOST_CHECK_THROW(sweep(model, texts, {keep("0.5", engine::Trigger::reaches)}, 100),
                    engine::Error);
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
