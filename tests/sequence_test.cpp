// SPDX-License-Identifier: Apache-2.0
// What a sequence carries besides its cache: attention that was noted, scores of one's own, watchers;
// and the same sequence, saved and loaded.
#define BOOST_TEST_MODULE sequence
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "engine/saved_sequence.hpp"
#include "tests/checkpoints.hpp"
#include "tests/press_rules.hpp"

namespace {

using namespace neoxref;
using engine::LogitRows;
using engine::Model;
using engine::Press;
using engine::Score;
using engine::Sequence;
using engine::Step;

constexpr std::size_t prompt = 23;
constexpr std::size_t tokens_in_all = 75;

}  // namespace

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
  for (const Press& press : tests::presses()) rules.emplace_back(press);
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
    const std::string what = press ? tests::describe(*press) : "no press";
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
