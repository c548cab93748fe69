// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE analysis
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "eval/attention_analysis.hpp"
#include "eval/future_attention.hpp"
#include "eval/ranks.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using engine::Model;
using engine::Press;
using engine::Score;
using engine::Sequence;
using engine::Step;
using Floats = std::vector<float>;

/// Weights of one query: positive, adding up to about 1, `levels` different values at most.
Floats random_weights(std::size_t slots, std::size_t levels, tests::Numbers& numbers) {
  Floats weights;
  for (std::size_t i = 0; i < slots; ++i) {
    const auto level = static_cast<float>(numbers.below(levels));
    weights.push_back(level * level * level + 1.0f);
  }
  const float sum = std::accumulate(weights.begin(), weights.end(), 0.0f);
  for (float& weight : weights) weight /= sum;
  return weights;
}

Floats random_scores(std::size_t slots, std::size_t levels, tests::Numbers& numbers) {
  Floats scores;
  for (std::size_t i = 0; i < slots; ++i) {
    scores.push_back(static_cast<float>(numbers.below(levels)) - 3.0f);
  }
  return scores;
}

// The definitions of docs/analysis.md once more, with sets and sums written out.

/// Mean over m = 1 .. slots - 1 of the weight of the first m slots of this order.
double mean_loss(const std::vector<std::size_t>& order, const Floats& weights) {
  double mean = 0.0;
  for (std::size_t m = 1; m < order.size(); ++m) {
    double lost = 0.0;
    for (std::size_t i = 0; i < m; ++i) lost += static_cast<double>(weights[order[i]]);
    mean += lost / static_cast<double>(order.size() - 1);
  }
  return mean;
}

/// Lowest value first; of equal ones the higher slot, because a press keeps the lower.
std::vector<std::size_t> worst_first(const Floats& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.rbegin(), order.rend(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  return order;
}

std::vector<double> midranks(const Floats& values) {
  std::vector<double> ranks;
  for (const float value : values) {
    const auto lower =
        std::count_if(values.begin(), values.end(), [&](float v) { return v < value; });
    const auto equal = std::count(values.begin(), values.end(), value);
    ranks.push_back(static_cast<double>(lower) + (static_cast<double>(equal) + 1.0) / 2.0);
  }
  return ranks;
}

/// Pearson's correlation of midranks.
double plain_spearman(const Floats& a, const Floats& b) {
  const std::vector<double> x = midranks(a);
  const std::vector<double> y = midranks(b);
  const double mean = (static_cast<double>(x.size()) + 1.0) / 2.0;
  double xy = 0.0;
  double xx = 0.0;
  double yy = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx == 0.0 || yy == 0.0 ? 0.0 : xy / std::sqrt(xx * yy);
}

eval::ScoreRanks ranks_of(const Floats& scores) {
  eval::ScoreRanks ranks(scores.size());
  for (const float score : scores) ranks.enter(score);
  return ranks;
}

/// Sums of at most n products of numbers up to n, divided by n - 1: n roundings of values up to 1.
double rounding(std::size_t slots) {
  return 4.0 * static_cast<double>(slots) * 0x1p-53;
}

/// All that every query gave: [layers * heads][queries][slots].
class Recorder : public engine::AttentionWatcher {
public:
  explicit Recorder(const engine::Config& config)
      : heads_(config.heads), weights(config.layers * config.heads) {}
  void see(std::size_t layer, std::size_t head, std::size_t, std::size_t queries,
           std::size_t first_slots, const float* given, std::size_t stride) noexcept override {
    for (std::size_t i = 0; i < queries; ++i) {
      weights[layer * heads_ + head].emplace_back(given + i * stride,
                                                  given + i * stride + first_slots + i);
    }
  }

private:
  std::size_t heads_;

public:
  std::vector<std::vector<Floats>> weights;
};

struct Fixture {
  Fixture() {
    shape.max_positions = 256;
    tests::write_checkpoint(folder.path(), shape);
  }
  Model load(std::size_t threads = 2) const {
    return Model::load(folder.path(), {"", engine::Backend::tbb, threads});
  }
  tests::TemporaryFolder folder;
  tests::Shape shape;
};

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

BOOST_AUTO_TEST_CASE(losses_and_ranks_are_those_of_the_definition) {
  tests::Numbers numbers(1);
  for (std::size_t slots = 2; slots < 70; slots += 1 + slots / 9) {
    for (const std::size_t levels :
         {std::size_t{1}, std::size_t{2}, std::size_t{5}, std::size_t{1000}}) {
      const Floats weights = random_weights(slots, levels, numbers);
      const Floats scores = random_scores(slots, 1 + numbers.below(40), numbers);
      const eval::ScoreRanks ranks = ranks_of(scores);
      eval::AttentionRanks attention(slots);
      attention.rank(weights);
      const double bound = rounding(slots);
      BOOST_CHECK_SMALL(eval::score_loss(ranks, weights) - mean_loss(worst_first(scores), weights),
                        bound);
      BOOST_CHECK_SMALL(attention.ideal_loss() - mean_loss(worst_first(weights), weights), bound);
      BOOST_CHECK_SMALL(
          eval::spearman(ranks.balance(), attention.balance()) - plain_spearman(scores, weights),
          1e-14);
      for (std::size_t slot = 0; slot < slots; ++slot) {
        BOOST_CHECK_EQUAL(ranks.balance()[slot],
                          2 * midranks(scores)[slot] - static_cast<double>(slots + 1));
        BOOST_CHECK_EQUAL(attention.balance()[slot],
                          2 * midranks(weights)[slot] - static_cast<double>(slots + 1));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(spearman_without_ties_is_the_formula_of_differences) {
  tests::Numbers numbers(2);
  Floats a(37);
  std::iota(a.begin(), a.end(), 0.0f);
  Floats b = a;
  for (std::size_t i = b.size(); i > 1; --i) std::swap(b[i - 1], b[numbers.below(i)]);
  double squares = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    squares += static_cast<double>((a[i] - b[i]) * (a[i] - b[i]));
  }
  const auto n = static_cast<double>(a.size());
  eval::AttentionRanks attention(b.size());
  attention.rank(b);
  BOOST_CHECK_SMALL(eval::spearman(ranks_of(a).balance(), attention.balance()) -
                        (1.0 - 6.0 * squares / (n * (n * n - 1.0))),
                    1e-14);
  const Floats reversed(b.rbegin(), b.rend());
  BOOST_CHECK_EQUAL(eval::spearman(ranks_of(b).balance(), attention.balance()), 1.0);
  Floats minus = b;
  for (float& x : minus) x = -x;
  BOOST_CHECK_EQUAL(eval::spearman(ranks_of(minus).balance(), attention.balance()), -1.0);
  BOOST_CHECK_EQUAL(eval::spearman(ranks_of(Floats(37, 2.0f)).balance(), attention.balance()), 0.0);
}

BOOST_AUTO_TEST_CASE(a_random_order_loses_half_on_the_average) {
  tests::Numbers numbers(3);
  const Floats weights = random_weights(40, 12, numbers);
  eval::AttentionRanks attention(weights.size());
  attention.rank(weights);
  std::vector<std::size_t> order(weights.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  constexpr std::size_t permutations = 20000;
  double sum = 0.0;
  for (std::size_t i = 0; i < permutations; ++i) {
    for (std::size_t j = order.size(); j > 1; --j) std::swap(order[j - 1], order[numbers.below(j)]);
    sum += mean_loss(order, weights);
  }
  // A loss lies between 0 and 1. Hoeffding: further off than this once in 10^9 times.
  const double bound = std::sqrt(std::log(2e9) / (2.0 * permutations));
  BOOST_CHECK_SMALL(sum / permutations - attention.random_loss(), bound);
  BOOST_CHECK_CLOSE(attention.random_loss(), 0.5, 1e-4);
}

BOOST_AUTO_TEST_CASE(the_ideal_order_loses_least_and_its_reverse_most) {
  tests::Numbers numbers(4);
  const Floats weights = random_weights(50, 9, numbers);
  eval::AttentionRanks attention(weights.size());
  attention.rank(weights);
  Floats reverse = weights;
  for (float& weight : reverse) weight = -weight;
  const double least = eval::score_loss(ranks_of(weights), weights);
  const double most = eval::score_loss(ranks_of(reverse), weights);
  BOOST_CHECK_SMALL(least - attention.ideal_loss(), rounding(weights.size()));
  // What one order loses, the other keeps.
  BOOST_CHECK_SMALL(most + least - 2.0 * attention.random_loss(), rounding(weights.size()));
  for (std::size_t i = 0; i < 200; ++i) {
    const double some = eval::score_loss(ranks_of(random_scores(50, 30, numbers)), weights);
    BOOST_CHECK_LE(some, most + rounding(weights.size()));
    BOOST_CHECK_GE(some, least - rounding(weights.size()));
  }
}

BOOST_FIXTURE_TEST_CASE(figures_are_the_means_over_the_queries_of_a_run, Fixture) {
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

BOOST_FIXTURE_TEST_CASE(threads_and_company_change_no_bit, Fixture) {
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

BOOST_FIXTURE_TEST_CASE(random_scores_are_no_better_than_random, Fixture) {
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

BOOST_FIXTURE_TEST_CASE(intervals_are_over_texts_else_windows_else_none, Fixture) {
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

BOOST_FIXTURE_TEST_CASE(what_cannot_be_analysed_is_refused, Fixture) {
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

BOOST_FIXTURE_TEST_CASE(the_reference_keeps_what_the_uncompressed_run_attends_to, Fixture) {
  Model model = load();
  const auto tokens = tests::random_tokens(120, shape.vocab, 12);
  Recorder recorder(model.config());
  Sequence full = model.sequence(tokens.size());
  full.watcher = &recorder;
  Step step{&full, tokens, engine::LogitRows::none, nullptr};
  BOOST_REQUIRE(model.forward({&step, 1}));

  for (const engine::Trigger trigger : {engine::Trigger::after_prompt, engine::Trigger::every}) {
    constexpr std::size_t prompt = 70;
    Press press = by(Score::own);
    press.own = std::make_shared<eval::FutureReference>();
    press.budget.keep_ratio = engine::KeepRatio::parse("0.3");
    press.trigger = trigger;
    press.interval = 70;
    press.sinks = 2;
    press.recent = 3;
    const std::size_t untouched = trigger == engine::Trigger::every ? 0 : prompt;
    press.own = std::make_shared<eval::FutureReference>()->of(model, tokens, press, untouched);
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

BOOST_FIXTURE_TEST_CASE(the_reference_is_for_one_cut, Fixture) {
  Model model = load();
  const auto tokens = tests::random_tokens(120, shape.vocab, 13);
  Press press = by(Score::own);
  const auto reference = std::make_shared<eval::FutureReference>();
  press.own = reference;
  press.budget.keep_ratio = engine::KeepRatio::parse("0.5");
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
