// SPDX-License-Identifier: Apache-2.0
// Every press against the oracle, bit for bit and slot for slot: scores, budgets, triggers,
// protection and positions, freely combined, in chunks of any size.
#define BOOST_TEST_MODULE presses
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "engine/oracle.hpp"
#include "engine/saved_sequence.hpp"
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

/// A score of one's own that depends on everything it is shown.
class Mixed : public engine::OwnScore {
public:
  std::string name() const override { return "mixed"; }
  bool is_static() const override { return true; }
  void score(const engine::LayerSlots& slots, std::span<float> scores) const override {
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const float* key = slots.keys.data() + i * slots.head_dim;
      const float* value = slots.values.data() + (i + 1) * slots.head_dim;
      scores[i] = key[0] * value[-1] - slots.key_norms[i] +
                  static_cast<float>((slots.positions[i] + static_cast<int>(slots.layer)) % 3);
    }
  }
};

std::string describe(const Press& press) {
  return press.name() + ", " + std::string(engine::trigger_name(press.trigger)) + ", " +
         std::string(engine::positions_name(press.positions)) + ", keep " + press.budget_text() +
         ", order " + std::string(engine::order_name(press.order)) + ", P " +
         std::to_string(press.prune_after) + ", sinks " + std::to_string(press.sinks) +
         ", recent " + std::to_string(press.recent);
}

/// Three rules for every pair of score and trigger, all else drawn independently.
std::vector<Press> presses() {
  std::vector<Press> all;
  tests::Numbers numbers(20);
  for (int score = 0; score < static_cast<int>(engine::score_count); ++score) {
    for (int trigger = 0; trigger < 12; ++trigger) {
      Press press;
      press.score = static_cast<Score>(score);
      if (press.score == Score::own) press.own = std::make_shared<Mixed>();
      press.trigger = static_cast<Trigger>(trigger % 4);
      press.interval = press.trigger == Trigger::every ? 1 + numbers.below(9) : 0;
      press.positions = static_cast<Positions>(numbers.below(3));
      press.skip_layers.clear();
      if (press.positions != Positions::rerotate && numbers.below(2) == 0) press.skip_layers = {1};
      static constexpr const char* ratios[] = {"0.5", "0.9", "0.03", "0.75", "1"};
      const auto budget = [&] {
        engine::Budget drawn;
        drawn.keep_ratio = engine::KeepRatio::parse(ratios[numbers.below(5)]);
        if (numbers.below(4) == 0) drawn.slots = 1 + numbers.below(30);
        if (numbers.below(6) == 0) drawn.bytes = 1 + numbers.below(20000);
        return drawn;
      };
      press.order = static_cast<engine::Order>(
          press.score != Score::tova && press.score != Score::snapkv && numbers.below(5) == 0);
      press.budget = budget();
      if (numbers.below(4) == 0) press.layer_budgets = {budget(), budget(), budget()};
      press.window = 1 + numbers.below(12);
      press.pool = 1 + 2 * numbers.below(4);
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
  BOOST_CHECK_GT(cuts, 1000u);
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
  const std::size_t count = std::getenv("NEOXREF_SLOW_MACHINE") != nullptr ? 3000 : 100000;
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

BOOST_AUTO_TEST_CASE(scores_that_rank_by_attention_need_it_from_the_first_token_on) {
  tests::Shape shape;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape);
  Model model = Model::load(folder.path(), {"", engine::Backend::serial, 1});
  Press press;
  press.score = Score::snapkv;
  press.window = 8;
  press.prune_after = 20;
  press.budget.keep_ratio = engine::KeepRatio::parse("0.5");
  const std::size_t rotary_dims = model.config().rotary_dims;
  Sequence blind = model.sequence(40);
  BOOST_CHECK_THROW(blind.set_press(press, rotary_dims), engine::Error);
  Sequence narrow = model.sequence(40, press);
  press.window = 9;
  BOOST_CHECK_THROW(narrow.set_press(press, rotary_dims), engine::Error);
  press.window = 8;
  // A press that does not look ends the noting.
  Press other = press;
  other.score = Score::knorm;
  narrow.set_press(other, rotary_dims);
  BOOST_CHECK_THROW(narrow.set_press(press, rotary_dims), engine::Error);
  // One ranking for all heads, after heads were ranked apart.
  other.score = Score::tova;
  other.skip_layers = {};
  Press apart = other;
  apart.score = Score::snapkv;
  Sequence ranked = model.sequence(40, apart);
  const auto tokens = tests::random_tokens(30, shape.vocab, 4);
  std::vector<float> logits(shape.vocab);
  Step step{&ranked, tokens, LogitRows::last, logits.data()};
  BOOST_REQUIRE(model.forward({&step, 1}));
  BOOST_CHECK_GT(ranked.cuts.size(), 0u);
  BOOST_CHECK_THROW(ranked.set_press(other, rotary_dims), engine::Error);
}

BOOST_AUTO_TEST_CASE(an_own_score_that_fails_stops_its_sequence) {
  class Broken : public engine::OwnScore {
  public:
    std::string name() const override { return "broken"; }
    bool is_static() const override { return true; }
    void score(const engine::LayerSlots&, std::span<float> scores) const override {
      std::fill(scores.begin(), scores.end(), std::numeric_limits<float>::quiet_NaN());
    }
  };
  tests::Shape shape;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape);
  Model model = Model::load(folder.path(), {"", engine::Backend::serial, 1});
  Press press;
  press.score = Score::own;
  press.prune_after = 20;
  press.budget.keep_ratio = engine::KeepRatio::parse("0.5");
  BOOST_CHECK_THROW(model.sequence(40, press), engine::Error);
  press.own = std::make_shared<Broken>();
  Sequence sequence = model.sequence(40, press);
  const auto tokens = tests::random_tokens(30, shape.vocab, 4);
  std::vector<float> logits(shape.vocab);
  Step step{&sequence, tokens, LogitRows::last, logits.data()};
  BOOST_CHECK_EXCEPTION(model.forward({&step, 1}), engine::Error, [](const engine::Error& error) {
    return std::string(error.what()).find("broken") != std::string::npos;
  });
  BOOST_CHECK(sequence.stopped);
  BOOST_CHECK(sequence.cuts.empty());
  BOOST_CHECK_THROW(model.forward({&step, 1}), engine::Error);
}

BOOST_AUTO_TEST_CASE(a_watcher_sees_the_softmax) {
  class Watcher : public engine::AttentionWatcher {
  public:
    void see(std::size_t layer, std::size_t head, std::size_t first_position, std::size_t queries,
             std::size_t first_slots, const float* weights,
             std::size_t weights_stride) noexcept override {
      for (std::size_t i = 0; i < queries; ++i) {
        double sum = 0.0;
        for (std::size_t j = 0; j < first_slots + i; ++j) {
          sum += static_cast<double>(weights[i * weights_stride + j]);
        }
        far_from_one += sum < 0.999 || sum > 1.001;
        out_of_order += layer == 0 && head == 0 && first_position + i != next++;
      }
    }
    std::size_t next = 0;
    std::size_t far_from_one = 0;
    std::size_t out_of_order = 0;
  };
  tests::Shape shape;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape);
  Model model = Model::load(folder.path(), {"", engine::Backend::serial, 1});
  const auto tokens = tests::random_tokens(90, shape.vocab, 4);
  std::vector<float> logits(shape.vocab);
  std::vector<float> seen(shape.vocab);
  Sequence plain = model.sequence(90);
  Step step{&plain, tokens, LogitRows::last, logits.data()};
  BOOST_REQUIRE(model.forward({&step, 1}));
  Watcher watcher;
  Sequence watched = model.sequence(90);
  watched.watcher = &watcher;
  Step again{&watched, tokens, LogitRows::last, seen.data()};
  BOOST_REQUIRE(model.forward({&again, 1}));
  BOOST_CHECK_EQUAL(watcher.next, 90u);
  BOOST_CHECK_EQUAL(watcher.far_from_one, 0u);
  BOOST_CHECK_EQUAL(watcher.out_of_order, 0u);
  BOOST_CHECK(std::equal(logits.begin(), logits.end(), seen.begin(), tests::same_bits));
}

BOOST_AUTO_TEST_CASE(a_saved_sequence_goes_on_as_if_nothing_had_happened) {
  tests::Shape shape;
  shape.layers = 3;
  shape.heads = 3;
  shape.head_dim = 20;
  shape.rotary_pct = 0.3;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape);
  Model model = Model::load(folder.path(), {"", engine::Backend::tbb, 2});
  const auto tokens = tests::random_tokens(tokens_in_all, shape.vocab, 11);
  const std::span<const std::int32_t> all(tokens);
  std::vector<std::optional<Press>> rules{std::nullopt};
  for (const Press& press : presses()) rules.emplace_back(press);
  std::size_t cut_before = 0;
  for (const std::optional<Press>& press : rules) {
    const auto feed = [&](Sequence& sequence, std::size_t first, std::size_t count) {
      std::vector<float> logits(count * shape.vocab);
      Step step{&sequence, all.subspan(first, count), LogitRows::all, logits.data()};
      BOOST_REQUIRE(model.forward({&step, 1}));
      return logits;
    };
    constexpr std::size_t saved_at = 41;
    Sequence sequence = model.sequence(tokens.size(), press);
    feed(sequence, 0, prompt);
    sequence.end_prompt();
    feed(sequence, prompt, saved_at - prompt);
    const std::string bytes = engine::save_sequence(model, sequence);
    cut_before += sequence.cuts.size();
    const auto expected = feed(sequence, saved_at, tokens.size() - saved_at);
    Sequence loaded = engine::load_sequence(model, std::as_bytes(std::span(bytes)), "saved",
                                            tokens.size() + 40, press);
    const auto found = feed(loaded, saved_at, tokens.size() - saved_at);
    const std::string what = press ? describe(*press) : "no press";
    BOOST_CHECK_MESSAGE(std::equal(found.begin(), found.end(), expected.begin(), tests::same_bits),
                        what);
    BOOST_CHECK_MESSAGE(loaded.cuts.size() == sequence.cuts.size(), what);
    const std::string again = engine::save_sequence(model, loaded);
    BOOST_CHECK_MESSAGE(again == engine::save_sequence(model, sequence), what);
  }
  BOOST_CHECK_GT(cut_before, 100u);

  Sequence sequence = model.sequence(30);
  Step step{&sequence, all.first(20), LogitRows::none, nullptr};
  BOOST_REQUIRE(model.forward({&step, 1}));
  const std::string good = engine::save_sequence(model, sequence);
  const auto load = [&](const std::string& bytes, std::size_t capacity,
                        const std::optional<Press>& press) {
    engine::load_sequence(model, std::as_bytes(std::span(bytes)), "saved", capacity, press);
  };
  load(good, 20, {});
  BOOST_CHECK_THROW(load(good, 15, {}), engine::Error);
  BOOST_CHECK_THROW(load(good, 30, Press{}), engine::Error);
  BOOST_CHECK_THROW(load(good.substr(0, good.size() - 1), 30, {}), engine::Error);
  std::string broken = good;
  // No cuts, so the file ends with positions, which must ascend.
  broken[broken.size() - 1] = '\x7f';
  BOOST_CHECK_THROW(load(broken, 30, {}), engine::Error);
  tests::Shape other = shape;
  other.layers = 2;
  const tests::TemporaryFolder other_folder;
  tests::write_checkpoint(other_folder.path(), other);
  const Model stranger = Model::load(other_folder.path(), {"", engine::Backend::serial, 1});
  BOOST_CHECK_THROW(
      engine::load_sequence(stranger, std::as_bytes(std::span(good)), "saved", 30, {}),
      engine::Error);
}
