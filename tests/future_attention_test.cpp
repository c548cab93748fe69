// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE future_attention
#include "eval/future_attention.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "eval/digest.hpp"
#include "eval/sweep.hpp"
#include "tests/checkpoints.hpp"
#include "tests/plain_ranks.hpp"

namespace {

using namespace neoxref;
using engine::Model;
using engine::Press;
using engine::Score;
using engine::Sequence;
using engine::Step;
using tests::Recorder;

Press reference_press(const char* keep_ratio) {
  Press press;
  press.score = Score::own;
  press.own = std::make_shared<eval::FutureReference>();
  press.budget.keep_ratio = engine::KeepRatio::parse(keep_ratio);
  return press;
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(the_reference_keeps_what_the_uncompressed_run_attends_to,
                        tests::SmallModel) {
  Model model = load();
  const auto tokens = tests::random_tokens(120, shape.vocab, 12);
  Recorder recorder(model.config());
  Sequence full = model.sequence(tokens.size());
  full.watcher = &recorder;
  Step step{&full, tokens, engine::LogitRows::none, nullptr};
  BOOST_REQUIRE(model.forward({&step, 1}));

  for (const engine::Trigger trigger : {engine::Trigger::after_prompt, engine::Trigger::every}) {
    constexpr std::size_t prompt = 70;
    Press press = reference_press("0.3");
    press.trigger = trigger;
    press.interval = 70;
    press.sinks = 2;
    press.recent = 3;
    const std::size_t untouched = trigger == engine::Trigger::every ? 0 : prompt;
    press.own = eval::FutureReference().of(model, tokens, press, untouched);
    BOOST_CHECK_EQUAL(press.name(), "future-attention");
    Sequence sequence = model.sequence(tokens.size());
    sequence.log_dropped = true;
    const std::span<const std::int32_t> all(tokens);
    Step first{&sequence, all.first(untouched), engine::LogitRows::none, nullptr};
    if (untouched > 0) BOOST_REQUIRE(model.forward({&first, 1}));
    sequence.set_press(press, model.config().rotary_dims);
    sequence.end_prompt();
    Step rest{&sequence, all.subspan(untouched), engine::LogitRows::none, nullptr};
    BOOST_REQUIRE(model.forward({&rest, 1}));
    BOOST_REQUIRE_EQUAL(sequence.cuts.size(), shape.layers - 1);
    const engine::Cut& cut = sequence.cuts.front();
    BOOST_CHECK_EQUAL(cut.before, prompt);
    for (std::size_t head = 0; head < shape.heads; ++head) {
      std::vector<double> future(prompt, 0.0);
      for (std::size_t t = prompt; t < tokens.size(); ++t) {
        for (std::size_t slot = 0; slot < prompt; ++slot) {
          future[slot] +=
              static_cast<double>(recorder.weights[cut.layer * shape.heads + head][t][slot]);
        }
      }
      std::vector<std::size_t> order(prompt - 5);
      std::iota(order.begin(), order.end(), std::size_t{2});
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return static_cast<float>(future[a]) > static_cast<float>(future[b]);
      });
      std::vector<std::int32_t> dropped;
      for (std::size_t i = cut.after - 5; i < order.size(); ++i) {
        dropped.push_back(static_cast<std::int32_t>(order[i]));
      }
      std::sort(dropped.begin(), dropped.end());
      const auto from =
          cut.dropped.begin() + static_cast<std::ptrdiff_t>(head * (cut.before - cut.after));
      BOOST_CHECK_EQUAL_COLLECTIONS(dropped.begin(), dropped.end(), from,
                                    from + static_cast<std::ptrdiff_t>(dropped.size()));
    }
  }
}

BOOST_FIXTURE_TEST_CASE(the_reference_is_for_one_cut, tests::SmallModel) {
  Model model = load();
  const auto tokens = tests::random_tokens(120, shape.vocab, 13);
  Press press = reference_press("0.5");
  const auto reference = std::make_shared<eval::FutureReference>();
  press.prune_after = 40;
  BOOST_CHECK_EXCEPTION(reference->of(model, tokens, press, 0), engine::Error,
                        [](const engine::Error& error) {
                          return std::string(error.what()).find("once") != std::string::npos;
                        });
  press.prune_after = 90;
  const auto once = reference->of(model, tokens, press, 0);
  // Another cut than that it has looked at, and none of its own without having looked.
  for (const std::shared_ptr<const engine::OwnScore>& own :
       {once, std::shared_ptr<const engine::OwnScore>(reference)}) {
    press.own = own;
    press.prune_after = own == once ? 60 : 90;
    Sequence sequence = model.sequence(tokens.size(), press);
    Step step{&sequence, tokens, engine::LogitRows::none, nullptr};
    BOOST_CHECK_THROW(model.forward({&step, 1}), engine::Error);
  }
}

BOOST_FIXTURE_TEST_CASE(a_sweep_asks_for_the_score_of_each_window, tests::SmallModel) {
  Model model = load();
  const std::vector<eval::Text> texts = {{"one", tests::random_tokens(120, shape.vocab, 14)},
                                         {"two", tests::random_tokens(90, shape.vocab, 15)}};
  eval::Arm arm{"0.3", reference_press("0.3")};
  arm.press.trigger = engine::Trigger::after_prompt;
  arm.press.prune_after = 60;
  eval::SweepOptions options;
  options.layout.max_tokens = 256;
  const eval::Sweep sweep = eval::evaluate(model, texts, {&arm, 1}, options);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const eval::TextScore& text = sweep.rows[1].texts[i];
    // The last token never enters; of 90 tokens, 45 are the prompt.
    const std::size_t prompt = i == 0 ? 60 : 45;
    const std::span<const std::int32_t> entering(texts[i].tokens.data(),
                                                 texts[i].tokens.size() - 1);
    Press press = arm.press;
    press.own = eval::FutureReference().of(model, entering, press, prompt);
    Sequence sequence = model.sequence(entering.size());
    const std::size_t vocab = model.config().vocab;
    std::vector<float> logits((entering.size() - prompt + 1) * vocab);
    Step first{&sequence, entering.first(prompt), engine::LogitRows::last, logits.data()};
    BOOST_REQUIRE(model.forward({&first, 1}));
    sequence.set_press(press, model.config().rotary_dims);
    sequence.end_prompt();
    Step rest{&sequence, entering.subspan(prompt), engine::LogitRows::all, logits.data() + vocab};
    BOOST_REQUIRE(model.forward({&rest, 1}));
    BOOST_REQUIRE_EQUAL(text.windows.front().log.size(), sequence.cuts.size());
    BOOST_CHECK_EQUAL(sequence.cuts.front().before, prompt);
    // The same slots are left, or the logits that scored would be others.
    eval::Digest digest;
    digest.add(logits);
    BOOST_CHECK_EQUAL(text.scored, entering.size() - prompt + 1);
    BOOST_CHECK_EQUAL(text.digest, digest.hex());
  }
}
