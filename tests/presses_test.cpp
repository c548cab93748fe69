// SPDX-License-Identifier: Apache-2.0
// Every press against the oracle, bit for bit and slot for slot: scores, budgets, triggers,
// protection and positions, freely combined, in chunks of any size.
#define BOOST_TEST_MODULE presses
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "engine/oracle.hpp"
#include "eval/plan.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using engine::LogitRows;
using engine::Model;
using engine::Positions;
using engine::Press;
using engine::Score;
using engine::Sequence;
using engine::Step;
using engine::Trigger;

constexpr std::size_t prompt = 23;
constexpr std::size_t tokens_in_all = 75;

std::string describe(const Press& press) {
  return std::string(engine::score_name(press.score)) + ", " +
         std::string(engine::trigger_name(press.trigger)) + ", " +
         std::string(engine::positions_name(press.positions)) + ", keep " +
         (press.slots > 0 ? std::to_string(press.slots) : press.keep_ratio.text()) + ", P " +
         std::to_string(press.prune_after) + ", sinks " + std::to_string(press.sinks) +
         ", recent " + std::to_string(press.recent);
}

/// Three rules for every pair of score and trigger, all else drawn independently.
std::vector<Press> presses() {
  std::vector<Press> all;
  tests::Numbers numbers(20);
  for (int score = 0; score < 11; ++score) {
    for (int trigger = 0; trigger < 12; ++trigger) {
      Press press;
      press.score = static_cast<Score>(score);
      press.trigger = static_cast<Trigger>(trigger % 4);
      press.interval = press.trigger == Trigger::every ? 1 + numbers.below(9) : 0;
      press.positions = static_cast<Positions>(numbers.below(3));
      press.skip_layers.clear();
      if (press.positions != Positions::rerotate && numbers.below(2) == 0) press.skip_layers = {1};
      static constexpr const char* ratios[] = {"0.5", "0.9", "0.03", "0.75", "1"};
      press.keep_ratio = engine::KeepRatio::parse(ratios[numbers.below(5)]);
      if (numbers.below(4) == 0) press.slots = 1 + numbers.below(30);
      press.sinks = numbers.below(2) * numbers.below(6);
      press.recent = numbers.below(2) * numbers.below(6);
      static constexpr std::size_t limits[] = {20, 0, 30};
      press.prune_after = limits[numbers.below(3)];
      press.seed = numbers.next();
      all.push_back(press);
    }
  }
  return all;
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
  for (const Press& press : presses()) {
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
                        model.config().rotary_dims);
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
        const auto planned = press.skips(layer) ? std::vector<eval::PlannedCut>{}
                                                : eval::plan(press, tokens.size(), prompt);
        BOOST_CHECK_MESSAGE(happened == planned,
                            what << ": cuts of layer " << layer << " are not the planned ones");
      }
    }
  }
  BOOST_CHECK_GT(cuts, 1000u);
}

BOOST_AUTO_TEST_CASE(rerotated_generation_goes_past_the_context_in_a_constant_cache) {
  tests::Shape shape;
  shape.max_positions = 64;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape);
  Model model = Model::load(folder.path(), {"", engine::Backend::serial, 1});
  Press press;
  press.keep_ratio = engine::KeepRatio::parse("0.5");
  press.prune_after = 40;
  press.sinks = 4;
  press.recent = 8;
  press.positions = Positions::rerotate;
  press.skip_layers = {};
  Sequence sequence = model.sequence(41, press);
  const auto tokens = tests::random_tokens(3000, shape.vocab, 4);
  std::vector<float> logits(shape.vocab);
  Step step{&sequence, tokens, LogitRows::last, logits.data()};
  BOOST_REQUIRE(model.forward({&step, 1}));
  BOOST_CHECK_EQUAL(sequence.position, 3000u);
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
