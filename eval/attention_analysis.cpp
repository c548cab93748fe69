// SPDX-License-Identifier: Apache-2.0
#include "eval/attention_analysis.hpp"

#include <algorithm>
#include <map>

#include "engine/error.hpp"
#include "engine/selection.hpp"
#include "eval/ranks.hpp"
#include "simd/float_environment.hpp"

namespace neoxref::eval {
namespace {

using engine::Model;
using engine::Press;
using engine::Score;
using engine::Sequence;

/// Holds the attention of a window against scores that are known beforehand.
class Judge : public engine::AttentionWatcher {
public:
  /// scores [scores, layers, heads, tokens]
  Judge(const engine::Config& config, std::size_t tokens, std::size_t scores,
        std::span<const float> values)
      : layers_(config.layers), heads_(config.heads), tokens_(tokens), values_(values) {
    const Head fresh{AttentionRanks(tokens), std::vector<ScoreRanks>(scores, ScoreRanks(tokens)),
                     std::vector<HeadFigures>(scores)};
    states_.assign(layers_ * heads_, fresh);
    // A copied vector has no room to spare, and see() must not ask for any.
    for (Head& head : states_) {
      head.attention = AttentionRanks(tokens);
      for (ScoreRanks& ranks : head.scores) ranks = ScoreRanks(tokens);
    }
  }

  void see(std::size_t layer, std::size_t head, std::size_t first_position, std::size_t queries,
           std::size_t, const float* weights, std::size_t weights_stride) noexcept override {
    Head& state = states_[layer * heads_ + head];
    for (std::size_t i = 0; i < queries; ++i) {
      const std::size_t position = first_position + i;
      // The query's own slot cannot have been cut before the query came.
      const std::span<const float> given(weights + i * weights_stride, position);
      if (position >= first_analysed_query) state.attention.rank(given);
      for (std::size_t score = 0; score < state.scores.size(); ++score) {
        ScoreRanks& ranks = state.scores[score];
        if (position >= first_analysed_query) {
          const double ideal = state.attention.ideal_loss();
          HeadFigures& sums = state.sums[score];
          sums.alr += score_loss(ranks, given) - ideal;
          sums.random_alr += state.attention.random_loss() - ideal;
          sums.spearman += spearman(ranks.balance(), state.attention.balance());
        }
        ranks.enter(values_[((score * layers_ + layer) * heads_ + head) * tokens_ + position]);
      }
    }
  }

  std::vector<HeadFigures> figures() const {
    const auto queries = static_cast<double>(tokens_ - first_analysed_query);
    std::vector<HeadFigures> all;
    for (std::size_t score = 0; score < states_.front().sums.size(); ++score) {
      for (const Head& head : states_) {
        HeadFigures figures = head.sums[score];
        figures.relative = figures.random_alr == 0.0 ? 1.0 : figures.alr / figures.random_alr;
        figures.alr /= queries;
        figures.random_alr /= queries;
        figures.spearman /= queries;
        all.push_back(figures);
      }
    }
    return all;
  }

private:
  struct Head {
    AttentionRanks attention;
    std::vector<ScoreRanks> scores;
    std::vector<HeadFigures> sums;
  };
  std::size_t layers_;
  std::size_t heads_;
  std::size_t tokens_;
  std::span<const float> values_;
  std::vector<Head> states_;
};

void run(Model& model, Sequence& sequence, std::span<const std::int32_t> tokens,
         const std::string& text) {
  engine::Step step{&sequence, tokens, engine::LogitRows::none, nullptr};
  if (model.forward({&step, 1})) return;
  throw engine::Error(text, "stopped at position " + std::to_string(step.failure->token) + ", " +
                                engine::describe(*step.failure));
}

/// Scores of all slots of all heads of a sequence that was never cut: [layers, heads, slots].
void take_scores(const Model& model, const Sequence& sequence, const Press& press,
                 std::span<float> to) {
  const engine::Config& config = model.config();
  const std::size_t slots = sequence.position;
  std::vector<double> work(std::max(slots, config.head_dim));
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    float* scores = to.data() + layer * config.heads * slots;
    if (press.score == Score::own) {
      engine::score_layer(*press.own, sequence.cache, layer, slots, scores);
      continue;
    }
    const engine::Linear& qkv = model.weights().layers[layer].query_key_value;
    for (std::size_t head = 0; head < config.heads; ++head) {
      const float* bias = qkv.bias_from(head * qkv.group_stride() + config.head_dim);
      engine::score_slots(press,
                          {&sequence.cache, nullptr, layer, head, slots, config.rotary_dims, bias,
                           0, sequence.position},
                          work.data(), scores + head * slots);
    }
  }
}

void check(const Press& press, const engine::Config& config) {
  press.check(config.layers, config.head_dim, config.rotary_dims);
  if (can_analyse(press.score)) return;
  const std::string where = "score " + press.name();
  if (press.score == Score::random_fresh) {
    throw engine::Error(where, "is drawn anew at each cut, and nothing is cut here",
                        "random, which is drawn once", press.name());
  }
  throw engine::Error(where, "is made of the attention that it would be held against",
                      "a score of keys, values or positions", press.name());
}

struct Place {
  std::size_t text;
  std::size_t begin;
  std::size_t tokens;  ///< of the text
};

std::vector<Place> places(std::span<const Text> texts, const AnalysisOptions& options,
                          std::vector<std::string>& left_out) {
  std::vector<Place> all;
  const std::size_t put_first = options.first_token ? 1 : 0;
  const std::size_t most = options.max_tokens - put_first;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::size_t tokens = texts[i].tokens.size();
    if (std::min(tokens, most) + put_first <= first_analysed_query) {
      left_out.push_back(texts[i].name);
      continue;
    }
    all.push_back({i, 0, std::min(tokens, most)});
    for (std::size_t window = 1; window < options.windows; ++window) {
      if ((window + 1) * most > tokens) break;
      all.push_back({i, window * most, most});
    }
  }
  return all;
}

}  // namespace

bool can_analyse(Score score) {
  switch (score) {
    case Score::random_fresh:
    case Score::observed:
    case Score::observed_sum:
    case Score::tova:
    case Score::snapkv:
      return false;
    default:
      return true;
  }
}

Analysis analyse(Model& model, std::span<const Text> texts, std::span<const Press> scores,
                 const AnalysisOptions& options) {
  const simd::FloatEnvironment environment;
  const engine::Config& config = model.config();
  if (options.max_tokens > config.max_positions || options.max_tokens <= first_analysed_query) {
    throw engine::Error(
        "max_tokens", "not usable",
        std::to_string(first_analysed_query + 1) + " to " + std::to_string(config.max_positions),
        std::to_string(options.max_tokens));
  }
  Analysis analysis;
  analysis.layers = config.layers;
  analysis.heads = config.heads;
  for (const Press& press : scores) {
    check(press, config);
    analysis.scores.push_back(press.name());
    analysis.is_static.push_back(press.score == Score::own ? press.own->is_static()
                                                           : press.score != Score::keydiff);
  }
  const std::vector<Place> all = places(texts, options, analysis.left_out);
  if (all.empty()) {
    throw engine::Error("texts", "none is long enough",
                        std::to_string(first_analysed_query + 1) + " tokens or more", "");
  }
  std::vector<float> values;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (options.progress) {
      options.progress(static_cast<double>(i) / static_cast<double>(all.size()));
    }
    const Text& text = texts[all[i].text];
    const std::size_t put_first = options.first_token ? 1 : 0;
    std::vector<std::int32_t> ids(put_first + all[i].tokens, options.first_token.value_or(0));
    std::copy_n(text.tokens.begin() + static_cast<std::ptrdiff_t>(all[i].begin), all[i].tokens,
                ids.begin() + static_cast<std::ptrdiff_t>(put_first));

    const std::size_t floats = config.layers * config.heads * ids.size();
    values.resize(scores.size() * floats);
    {
      Sequence sequence = model.sequence(ids.size());
      run(model, sequence, ids, text.name);
      for (std::size_t score = 0; score < scores.size(); ++score) {
        take_scores(model, sequence, scores[score],
                    std::span<float>(values).subspan(score * floats, floats));
      }
    }
    Judge judge(config, ids.size(), scores.size(), values);
    Sequence watched = model.sequence(ids.size());
    watched.watcher = &judge;
    run(model, watched, ids, text.name);
    analysis.windows.push_back({all[i].text, all[i].begin, ids.size(),
                                ids.size() - first_analysed_query, judge.figures()});
  }
  if (options.progress) options.progress(1.0);
  return analysis;
}

Estimate Analysis::estimate(std::size_t score, std::size_t first, std::size_t count,
                            double HeadFigures::*figure) const {
  std::vector<Cluster> of_windows;
  std::map<std::size_t, Cluster> by_text;
  Cluster sum;
  for (const AnalysedWindow& window : windows) {
    double value = 0.0;
    for (std::size_t i = 0; i < count; ++i) {
      value += window.figures[score * layers * heads + first + i].*figure;
    }
    value /= static_cast<double>(count);
    of_windows.push_back({value, 1});
    for (Cluster* cluster : {&by_text[window.text], &sum}) {
      cluster->sum += value;
      ++cluster->size;
    }
  }
  std::vector<Cluster> of_texts;
  for (const auto& [text, cluster] : by_text) of_texts.push_back(cluster);
  Estimate estimate{sum.sum / static_cast<double>(sum.size), {}};
  if (of_texts.size() >= least_units) {
    estimate.interval = clusters_interval(of_texts, Interval::Over::documents);
  } else if (of_windows.size() >= least_units) {
    estimate.interval = clusters_interval(of_windows, Interval::Over::windows);
  }
  return estimate;
}

Estimate Analysis::head(std::size_t score, std::size_t layer, std::size_t head,
                        double HeadFigures::*figure) const {
  return estimate(score, layer * heads + head, 1, figure);
}

Estimate Analysis::layer(std::size_t score, std::size_t layer, double HeadFigures::*figure) const {
  return estimate(score, layer * heads, heads, figure);
}

Estimate Analysis::all(std::size_t score, double HeadFigures::*figure) const {
  return estimate(score, 0, layers * heads, figure);
}

}  // namespace neoxref::eval
