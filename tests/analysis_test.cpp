// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE analysis
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "eval/attention_analysis.hpp"
#include "tests/checkpoints.hpp"
#include "tests/plain_ranks.hpp"

namespace {

using namespace neoxref;
using engine::Model;
using engine::Press;
using engine::Score;
using engine::Sequence;
using engine::Step;
using tests::Floats;
using tests::mean_loss;
using tests::plain_spearman;
using tests::Recorder;
using tests::worst_first;

Press by(Score score, std::uint64_t seed = 0) {
  Press press;
  press.score = score;
  press.seed = seed;
  return press;
}

/// Prefers tokens by a hash of their positions, with ties.
class Jumble : public engine::OwnScore {
public:
  std::string name() const override { return "jumble"; }
  bool is_static() const override { return true; }
  static float of(std::int32_t position) { return static_cast<float>(position * 7 % 5); }
  void score(const engine::LayerSlots& slots, std::span<float> scores) const override {
    std::transform(slots.positions.begin(), slots.positions.end(), scores.begin(), of);
  }
};

}  // namespace

BOOST_FIXTURE_TEST_CASE(figures_are_the_means_over_the_queries_of_a_run, tests::SmallModel) {
  Model model = load();
  const eval::Text text{"text", tests::random_tokens(90, shape.vocab, 5)};
  const std::size_t tokens = text.tokens.size();
  Press own = by(Score::own);
  own.own = std::make_shared<Jumble>();
  const std::vector<Press> presses = {by(Score::knorm), by(Score::vnorm), by(Score::recent), own};
  eval::AnalysisOptions options;
  options.max_tokens = 256;
  const std::vector<eval::Text> texts = {text};
  const eval::Analysis analysis = eval::analyse(model, texts, presses, options);
  BOOST_REQUIRE_EQUAL(analysis.windows.size(), 1u);
  const eval::AnalysedWindow& window = analysis.windows.front();
  BOOST_CHECK_EQUAL(window.tokens, 90u);
  BOOST_CHECK_EQUAL(window.queries, 58u);

  Recorder recorder(model.config());
  Sequence sequence = model.sequence(tokens);
  sequence.watcher = &recorder;
  Step step{&sequence, text.tokens, engine::LogitRows::none, nullptr};
  BOOST_REQUIRE(model.forward({&step, 1}));
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    for (std::size_t head = 0; head < shape.heads; ++head) {
      std::vector<Floats> scores(presses.size());
      for (std::size_t slot = 0; slot < tokens; ++slot) {
        const float* value =
            sequence.cache.values(layer, head) + slot * sequence.cache.value_stride();
        double square = 0.0;
        for (std::size_t d = 0; d < shape.head_dim; ++d) {
          square += static_cast<double>(value[d]) * static_cast<double>(value[d]);
        }
        scores[0].push_back(-sequence.cache.norms(layer, head)[slot]);
        scores[1].push_back(static_cast<float>(std::sqrt(square)));
        scores[2].push_back(static_cast<float>(slot));
        scores[3].push_back(Jumble::of(static_cast<std::int32_t>(slot)));
      }
      for (std::size_t i = 0; i < presses.size(); ++i) {
        double alr = 0.0;
        double random_alr = 0.0;
        double correlation = 0.0;
        for (std::size_t t = 32; t < tokens; ++t) {
          const auto before = static_cast<std::ptrdiff_t>(t);
          const Floats& all = recorder.weights[layer * shape.heads + head][t];
          BOOST_REQUIRE_EQUAL(all.size(), t + 1);
          const Floats given(all.begin(), all.begin() + before);
          const Floats ranked(scores[i].begin(), scores[i].begin() + before);
          const double ideal = mean_loss(worst_first(given), given);
          alr += mean_loss(worst_first(ranked), given) - ideal;
          random_alr += std::accumulate(given.begin(), given.end(), 0.0) / 2.0 - ideal;
          correlation += plain_spearman(ranked, given);
        }
        const eval::HeadFigures& figures = analysis.at(window, i, layer, head);
        BOOST_CHECK_SMALL(figures.alr - alr / 58.0, 1e-12);
        BOOST_CHECK_SMALL(figures.random_alr - random_alr / 58.0, 1e-12);
        BOOST_CHECK_SMALL(figures.relative - alr / random_alr, 1e-10);
        BOOST_CHECK_SMALL(figures.spearman - correlation / 58.0, 1e-12);
      }
    }
  }
}

BOOST_FIXTURE_TEST_CASE(threads_and_company_change_no_bit, tests::SmallModel) {
  const std::vector<eval::Text> texts = {{"one", tests::random_tokens(150, shape.vocab, 6)},
                                         {"short", tests::random_tokens(32, shape.vocab, 7)},
                                         {"two", tests::random_tokens(33, shape.vocab, 8)}};
  const std::vector<Press> presses = {by(Score::knorm), by(Score::keydiff), by(Score::random)};
  eval::AnalysisOptions options;
  options.max_tokens = 70;
  options.windows = 3;
  Model one = load(1);
  Model three = load(3);
  const eval::Analysis a = eval::analyse(one, texts, presses, options);
  const eval::Analysis b = eval::analyse(three, texts, {presses.data() + 1, 1}, options);
  // 150 tokens have two full windows of 70 and a rest.
  BOOST_REQUIRE_EQUAL(a.windows.size(), 3u);
  BOOST_CHECK_EQUAL(a.windows[1].begin, 70u);
  BOOST_CHECK_EQUAL(a.windows[2].queries, 1u);
  BOOST_CHECK(a.left_out == std::vector<std::string>{"short"});
  BOOST_CHECK((a.is_static == std::vector<bool>{true, false, true}));
  for (std::size_t i = 0; i < a.windows.size(); ++i) {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      for (std::size_t head = 0; head < shape.heads; ++head) {
        const eval::HeadFigures& x = a.at(a.windows[i], 1, layer, head);
        const eval::HeadFigures& y = b.at(b.windows[i], 0, layer, head);
        BOOST_CHECK(x.alr == y.alr && x.relative == y.relative && x.spearman == y.spearman);
      }
    }
  }
}

BOOST_FIXTURE_TEST_CASE(random_scores_are_no_better_than_random, tests::SmallModel) {
  Model model = load();
  const std::vector<eval::Text> texts = {{"text", tests::random_tokens(120, shape.vocab, 9)}};
  std::vector<Press> presses;
  for (std::uint64_t seed = 0; seed < 400; ++seed) presses.push_back(by(Score::random, seed));
  eval::AnalysisOptions options;
  options.max_tokens = 120;
  const eval::Analysis analysis = eval::analyse(model, texts, presses, options);
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    for (std::size_t head = 0; head < shape.heads; ++head) {
      double sum = 0.0;
      double random_alr = 0.0;
      for (std::size_t seed = 0; seed < presses.size(); ++seed) {
        sum += analysis.at(analysis.windows.front(), seed, layer, head).alr;
        random_alr = analysis.at(analysis.windows.front(), seed, layer, head).random_alr;
      }
      // One ALR lies between 0 and 2 * random_alr: Hoeffding, once in 10^9 times.
      const double bound = 2.0 * random_alr * std::sqrt(std::log(2e9) / (2.0 * 400));
      BOOST_CHECK_SMALL(sum / 400.0 - random_alr, bound);
    }
  }
}

BOOST_FIXTURE_TEST_CASE(intervals_are_over_texts_else_windows_else_none, tests::SmallModel) {
  Model model = load();
  const std::vector<Press> presses = {by(Score::knorm)};
  eval::AnalysisOptions options;
  options.max_tokens = 40;
  std::vector<eval::Text> texts;
  for (std::uint64_t i = 0; i < 10; ++i) {
    texts.push_back({"text", tests::random_tokens(120, shape.vocab, 10 + i)});
  }
  const auto figure = &eval::HeadFigures::spearman;
  const eval::Analysis ten = eval::analyse(model, texts, presses, options);
  const eval::Estimate estimate = ten.head(0, 1, 0, figure);
  double sum = 0.0;
  double squares = 0.0;
  for (const eval::AnalysedWindow& window : ten.windows) sum += ten.at(window, 0, 1, 0).spearman;
  for (const eval::AnalysedWindow& window : ten.windows) {
    squares += std::pow(ten.at(window, 0, 1, 0).spearman - sum / 10.0, 2.0);
  }
  BOOST_CHECK_SMALL(estimate.mean - sum / 10.0, 1e-15);
  BOOST_REQUIRE(estimate.interval.has_value());
  BOOST_CHECK(estimate.interval->over == eval::Interval::Over::documents);
  // 2.26216: Student's t for 9 degrees of freedom.
  BOOST_CHECK_SMALL(estimate.interval->high - (sum / 10.0 + 2.26216 * std::sqrt(squares / 90.0)),
                    1e-5);
  const double layer = (ten.head(0, 1, 0, figure).mean + ten.head(0, 1, 1, figure).mean) / 2.0;
  BOOST_CHECK_SMALL(ten.layer(0, 1, figure).mean - layer, 1e-15);
  BOOST_CHECK_SMALL(ten.all(0, figure).mean - (ten.layer(0, 0, figure).mean + layer) / 2.0, 1e-15);

  options.windows = 9;
  texts.resize(4);
  const eval::Analysis twelve = eval::analyse(model, texts, presses, options);
  BOOST_CHECK_EQUAL(twelve.windows.size(), 12u);
  BOOST_REQUIRE(twelve.all(0, figure).interval.has_value());
  BOOST_CHECK(twelve.all(0, figure).interval->over == eval::Interval::Over::windows);
  BOOST_CHECK_EQUAL(twelve.all(0, figure).interval->units, 12u);
  texts.resize(3);
  BOOST_CHECK(!eval::analyse(model, texts, presses, options).all(0, figure).interval.has_value());
}

BOOST_FIXTURE_TEST_CASE(what_cannot_be_analysed_is_refused, tests::SmallModel) {
  Model model = load();
  const std::vector<eval::Text> texts = {{"text", tests::random_tokens(60, shape.vocab, 11)}};
  const auto refuses = [&](const Press& press, const eval::AnalysisOptions& options,
                           const std::vector<eval::Text>& some, const std::string& why) {
    BOOST_CHECK_EXCEPTION(eval::analyse(model, some, {&press, 1}, options), engine::Error,
                          [&](const engine::Error& error) {
                            return std::string(error.what()).find(why) != std::string::npos;
                          });
  };
  for (const Score score : {Score::observed, Score::observed_sum, Score::tova, Score::snapkv}) {
    refuses(by(score), {.max_tokens = 60}, texts, "made of the attention");
  }
  refuses(by(Score::random_fresh), {.max_tokens = 60}, texts, "drawn anew");
  refuses(by(Score::own), {.max_tokens = 60}, texts, "own");
  refuses(by(Score::knorm), {.max_tokens = 257}, texts, "33 to 256");
  refuses(by(Score::knorm), {.max_tokens = 32}, texts, "33 to 256");
  refuses(by(Score::knorm), {.max_tokens = 60}, {{"short", {1, 2, 3}}}, "long enough");
  refuses(by(Score::knorm), {.max_tokens = 60}, {{"odd", std::vector<std::int32_t>(60, 61)}},
          "vocabulary");
}
