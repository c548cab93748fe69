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
  const std::vector<std::string> ratios = {"1", "0.5"};
  const eval::TwoPhase settings{150, 60, {0}};
  const auto rows = eval::two_phase(model, texts, ratios, settings, {});
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
      BOOST_CHECK_EQUAL(score.scored, length - prefix);
      engine::Oracle<float> oracle(engine::Checkpoint::open(folder.path()));
      double sum = 0.0;
      double slots = 0.0;
      for (std::size_t i = 0; i + 1 < length; ++i) {
        if (i == prefix && row.compressed) {
          oracle.press = engine::Press{engine::KeepRatio::parse(row.keep_ratio), prefix, {0}};
        }
        if (i + 1 > prefix) {
          slots += static_cast<double>(oracle.length(0) + oracle.length(1) + 2) / 2;
        }
        const auto logits = oracle.forward(texts[t].tokens[i]);
        if (i + 1 < prefix) continue;
        sum += static_cast<double>(eval::nll(model.kernels(), logits, texts[t].tokens[i + 1]));
        digest.add(logits);
        if (i + 1 == prefix) slots += static_cast<double>(prefix);
      }
      BOOST_CHECK_EQUAL(sum, score.nll);
      BOOST_CHECK_EQUAL(score.lengths[0], length - 1);
      BOOST_CHECK_EQUAL(score.lengths[1], oracle.length(1));
      BOOST_CHECK_CLOSE(score.mean_slots, slots / static_cast<double>(score.scored), 1e-9);
      BOOST_CHECK_EQUAL(score.cuts[0], 0u);
      BOOST_CHECK_EQUAL(score.cuts[1] > 0, row.compressed);
      total += sum;
      scored += score.scored;
    }
    BOOST_CHECK_EQUAL(row.nll, total);
    BOOST_CHECK_EQUAL(row.digest, digest.hex());
    BOOST_CHECK_CLOSE(row.perplexity(), std::exp(total / static_cast<double>(scored)), 1e-9);
  }
  BOOST_CHECK_NE(rows[0].digest, rows[1].digest);
}

BOOST_FIXTURE_TEST_CASE(a_run_does_not_depend_on_those_before_it, Fixture) {
  Model model = load();
  const std::vector<std::string> all = {"0.9", "1", "0.1"};
  const std::vector<std::string> one = {"0.1"};
  const auto first = eval::two_phase(model, texts, all, {150, 60, {0}}, {});
  const auto again = eval::two_phase(model, texts, all, {150, 60, {0}}, {});
  const auto alone = eval::two_phase(model, texts, one, {150, 60, {0}}, {});
  for (std::size_t i = 0; i < first.size(); ++i) {
    BOOST_CHECK_EQUAL(first[i].digest, again[i].digest);
  }
  BOOST_CHECK_EQUAL(first[2].keep_ratio, "0.1");
  BOOST_CHECK_EQUAL(first[2].digest, alone[1].digest);
}

BOOST_FIXTURE_TEST_CASE(a_row_that_was_never_cut_says_so, Fixture) {
  Model model = load();
  const std::vector<std::string> ratios = {"0.5"};
  // max(L - 50, L / 2) is below L - 1 for every length, so only a skipped layer stays whole; a keep
  // ratio so high that a cut drops nothing is the other way not to be cut.
  const std::vector<std::string> high = {"0.999"};
  const auto rows = eval::two_phase(model, texts, high, {100, 60, {0}}, {});
  BOOST_CHECK(rows[1].texts[0].never_cut);
  BOOST_CHECK(!rows[0].texts[0].never_cut);
  const auto cut = eval::two_phase(model, texts, ratios, {100, 60, {0}}, {});
  BOOST_CHECK(!cut[1].texts[0].never_cut);
  BOOST_CHECK_EQUAL(rows[1].digest, rows[0].digest);
}

BOOST_FIXTURE_TEST_CASE(settings_that_do_not_fit_are_refused, Fixture) {
  Model model = load(1);
  const std::vector<std::string> ratios = {"0.5"};
  BOOST_CHECK_THROW(eval::two_phase(model, texts, ratios, {1000, 60, {0}}, {}), engine::Error);
  BOOST_CHECK_THROW(eval::two_phase(model, texts, ratios, {100, 60, {2}}, {}), engine::Error);
  const std::vector<eval::Text> only_short = {texts[1]};
  BOOST_CHECK_THROW(eval::two_phase(model, only_short, ratios, {100, 60, {0}}, {}), engine::Error);
  const std::vector<std::string> wrong = {"0"};
  BOOST_CHECK_THROW(eval::two_phase(model, texts, wrong, {100, 60, {0}}, {}), engine::Error);
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
