// SPDX-License-Identifier: Apache-2.0
// Every press against the oracle, bit for bit and slot for slot: scores, budgets, triggers,
// protection and positions, freely combined, in chunks of any size.
#define BOOST_TEST_MODULE presses
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "engine/oracle.hpp"
#include "eval/plan.hpp"
#include "tests/checkpoints.hpp"
#include "tests/press_rules.hpp"

namespace {

using namespace neoxref;
using engine::LogitRows;
using engine::Model;
using engine::Positions;
using engine::Press;
using engine::Score;
using engine::Sequence;
using engine::Step;
using tests::describe;

constexpr std::size_t prompt = 23;
constexpr std::size_t tokens_in_all = 75;

/// What the cuts say they dropped, and what is left, are all tokens, each once.
void check_dropped(const Sequence& sequence, std::size_t layer, const std::string& what) {
  for (std::size_t head = 0; head < sequence.cache.shape().heads; ++head) {
    const std::int32_t* left = sequence.cache.positions(layer, head);
    std::vector<std::int32_t> all(left, left + sequence.cache.length(layer, head));
    for (const engine::Cut& cut : sequence.cuts) {
      if (cut.layer != layer) continue;
      const std::size_t count = cut.before - cut.after;
      const auto first = cut.dropped.begin() + static_cast<std::ptrdiff_t>(head * count);
      all.insert(all.end(), first, first + static_cast<std::ptrdiff_t>(count));
    }
    std::sort(all.begin(), all.end());
    BOOST_REQUIRE_MESSAGE(all.size() == sequence.position, what);
    for (std::size_t i = 0; i < all.size(); ++i) {
      BOOST_REQUIRE_MESSAGE(all[i] == static_cast<std::int32_t>(i), what);
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(engine_keeps_the_slots_that_the_oracle_keeps) {
  tests::Shape shape;
  shape.layers = 3;
  shape.heads = 3;
  shape.head_dim = 20;
  shape.rotary_pct = 0.3;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape);
  const auto tokens = tests::random_tokens(tokens_in_all, shape.vocab, 11);
  const std::span<const std::int32_t> all(tokens);
  const auto checkpoint = engine::Checkpoint::open(folder.path());
  Model model = Model::load(folder.path(), {"", engine::Backend::tbb, 2});
  std::size_t cuts = 0;
  for (const Press& press : tests::presses()) {
    engine::Oracle<float> oracle(checkpoint);
    std::vector<float> expected;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      if (t == prompt) {
        oracle.set_press(press);
        oracle.end_prompt();
      }
      const auto row = oracle.forward(tokens[t]);
      expected.insert(expected.end(), row.begin(), row.end());
    }
    for (const std::size_t chunk : {tokens_in_all, std::size_t{9}, std::size_t{1}}) {
      Sequence sequence({shape.layers, shape.heads, shape.head_dim}, tokens.size(),
                        press.extras(model.config().rotary_dims) |
                            engine::Extras{model.config().rotary_dims, false, 0});
      sequence.log_dropped = true;
      std::vector<float> logits(tokens.size() * shape.vocab);
      const auto feed = [&](std::size_t first, std::size_t count) {
        Step step{&sequence, all.subspan(first, count), LogitRows::all,
                  logits.data() + first * shape.vocab};
        BOOST_REQUIRE(model.forward({&step, 1}));
      };
      feed(0, prompt);
      sequence.set_press(press, model.config().rotary_dims);
      sequence.end_prompt();
      for (std::size_t first = prompt; first < tokens.size(); first += chunk) {
        feed(first, std::min(chunk, tokens.size() - first));
      }
      const std::string what = describe(press) + ", chunks of " + std::to_string(chunk);
      std::size_t different = 0;
      for (std::size_t i = 0; i < logits.size(); ++i) {
        if (!tests::same_bits(expected[i], logits[i])) ++different;
      }
      BOOST_CHECK_MESSAGE(different == 0, what << ": " << different << " logits differ");
      for (std::size_t layer = 0; layer < shape.layers; ++layer) {
        for (std::size_t head = 0; head < shape.heads; ++head) {
          const auto& kept = oracle.positions(layer, head);
          const std::int32_t* found = sequence.cache.positions(layer, head);
          BOOST_CHECK_MESSAGE(sequence.cache.length(layer, head) == kept.size() &&
                                  std::equal(kept.begin(), kept.end(), found),
                              what << ": other slots in layer " << layer << ", head " << head);
        }
        // The plan, which knows neither of them.
        std::vector<eval::PlannedCut> happened;
        for (const engine::Cut& cut : sequence.cuts) {
          if (cut.layer == layer) happened.push_back({cut.position, cut.before, cut.after});
        }
        cuts += happened.size();
        check_dropped(sequence, layer, what);
        const auto planned = press.skips(layer)
                                 ? std::vector<eval::PlannedCut>{}
                                 : eval::plan(*sequence.press(), tokens.size(), prompt, layer);
        BOOST_CHECK_MESSAGE(happened == planned,
                            what << ": cuts of layer " << layer << " are not the planned ones");
      }
    }
  }
  BOOST_CHECK_GT(cuts, 500u);
}

BOOST_AUTO_TEST_CASE(rerotated_generation_goes_past_the_context_in_a_constant_cache) {
  tests::Shape shape;
  shape.max_positions = 64;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape);
  Model model = Model::load(folder.path(), {"", engine::Backend::serial, 1});
  Press press;
  press.budget.keep_ratio = engine::KeepRatio::parse("0.5");
  press.prune_after = 40;
  press.sinks = 4;
  press.recent = 8;
  press.positions = Positions::rerotate;
  press.skip_layers = {};
  Sequence sequence = model.sequence(41, press);
  const std::size_t count = std::getenv("NEOXREF_SLOW_MACHINE") != nullptr ? 1000 : 100000;
  const auto tokens = tests::random_tokens(count, shape.vocab, 4);
  std::vector<float> logits(shape.vocab);
  Step step{&sequence, tokens, LogitRows::last, logits.data()};
  BOOST_REQUIRE(model.forward({&step, 1}));
  BOOST_CHECK_EQUAL(sequence.position, count);
  BOOST_CHECK_LE(sequence.cache.longest(0), 40u);
  BOOST_CHECK_EQUAL(sequence.cache.positions(1, 0)[0], 0);

  // Without drift: a key depends on the kept tokens only, not on how often it was turned. In layer 0
  // keys come from the embedding alone, so a cache filled with just those tokens has the same ones.
  const std::size_t slots = sequence.cache.length(0, 0);
  std::vector<std::int32_t> kept;
  for (std::size_t slot = 0; slot < slots; ++slot) {
    kept.push_back(tokens[static_cast<std::size_t>(sequence.cache.positions(0, 0)[slot])]);
  }
  Sequence fresh = model.sequence(slots);
  Step again{&fresh, kept, LogitRows::last, logits.data()};
  BOOST_REQUIRE(model.forward({&again, 1}));
  for (std::size_t slot = 0; slot < slots; ++slot) {
    for (std::size_t d = 0; d < shape.head_dim; ++d) {
      const std::size_t at = (slot / 16 * shape.head_dim + d) * 16 + slot % 16;
      BOOST_REQUIRE(tests::same_bits(sequence.cache.keys(0, 0)[at], fresh.cache.keys(0, 0)[at]));
    }
  }
  Sequence without_raw = model.sequence(41);
  BOOST_CHECK_THROW(without_raw.set_press(press, model.config().rotary_dims), engine::Error);
  BOOST_CHECK_THROW(sequence.set_press(press, model.config().rotary_dims), engine::Error);
}

BOOST_AUTO_TEST_CASE(a_mask_over_a_full_cache_is_compaction) {
  tests::Shape shape;
  shape.layers = 2;
  shape.head_dim = 20;
  shape.rotary_pct = 0.3;
  shape.max_positions = 256;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape);
  const auto checkpoint = engine::Checkpoint::open(folder.path());
  Model model = Model::load(folder.path(), {"", engine::Backend::serial, 1});
  // Long enough that the slots that are left fill other blocks of 64 than they did.
  const auto tokens = tests::random_tokens(160, shape.vocab, 6);
  for (const auto score : {Score::knorm, Score::random, Score::tova, Score::snapkv}) {
    Press press;
    press.score = score;
    press.budget.keep_ratio = engine::KeepRatio::parse("0.6");
    press.prune_after = 100;
    press.skip_layers = {};
    engine::Oracle<float> masked(checkpoint);
    masked.set_press(press);
    masked.mask_instead_of_dropping();
    std::vector<float> expected;
    for (const std::int32_t token : tokens) {
      const auto row = masked.forward(token);
      expected.insert(expected.end(), row.begin(), row.end());
    }
    Sequence sequence = model.sequence(tokens.size(), press);
    std::vector<float> logits(expected.size());
    Step step{&sequence, tokens, LogitRows::all, logits.data()};
    BOOST_REQUIRE(model.forward({&step, 1}));
    BOOST_CHECK_GT(sequence.cuts.size(), 2u);
    BOOST_CHECK_EQUAL(masked.stored(0), tokens.size());
    BOOST_CHECK_EQUAL(masked.length(0), sequence.cache.length(0, 0));
    BOOST_CHECK(std::equal(logits.begin(), logits.end(), expected.begin(), tests::same_bits));
  }
}
