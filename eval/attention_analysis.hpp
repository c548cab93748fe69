// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/model.hpp"
#include "eval/statistics.hpp"
#include "eval/sweep.hpp"

namespace neoxref::eval {

/// Queries before this position see too few slots to say anything.
inline constexpr std::size_t first_analysed_query = 32;

/// How the order of a score stands to the attention of one head over one window. Definitions, orders
/// of sums and ties: docs/analysis.md. All are means over the queries.
struct HeadFigures {
  double alr = 0.0;         ///< loss in the order of the score over that in the ideal order
  double random_alr = 0.0;  ///< the same of a random order, in closed form
  double relative = 0.0;    ///< alr / random_alr: 0 ideal, 1 no better than random; 1 where
                            ///< random_alr is 0, because all orders are as good then
  double spearman = 0.0;    ///< rank correlation of score and attention
};

struct AnalysedWindow {
  std::size_t text = 0;   ///< index among the texts
  std::size_t begin = 0;  ///< index in the text of its first token
  std::size_t tokens = 0;
  std::size_t queries = 0;
  std::vector<HeadFigures> figures;  ///< [scores, layers, heads]
};

/// A mean over windows, and its 95 % interval: over texts where there are at least 10, else over
/// windows where there are, else none (docs/protocols.md, "Intervals").
struct Estimate {
  double mean = 0.0;
  std::optional<Interval> interval;
};

struct Analysis {
  std::vector<std::string> scores;
  std::vector<bool> is_static;  ///< the others were taken once, of the cache with all tokens
  std::size_t layers = 0;
  std::size_t heads = 0;
  std::vector<AnalysedWindow> windows;
  std::vector<std::string> left_out;  ///< texts that are too short

  const HeadFigures& at(const AnalysedWindow& window, std::size_t score, std::size_t layer,
                        std::size_t head) const {
    return window.figures[(score * layers + layer) * heads + head];
  }
  Estimate head(std::size_t score, std::size_t layer, std::size_t head,
                double HeadFigures::*figure) const;
  /// Of the means over the heads of a layer.
  Estimate layer(std::size_t score, std::size_t layer, double HeadFigures::*figure) const;
  /// Of the means over all heads of all layers.
  Estimate all(std::size_t score, double HeadFigures::*figure) const;

private:
  Estimate estimate(std::size_t score, std::size_t first, std::size_t count,
                    double HeadFigures::*figure) const;
};

struct AnalysisOptions {
  std::size_t max_tokens = 1024;  ///< of a window, a token put first included
  std::size_t windows = 1;        ///< most per text, side by side; all but the first must be full
  std::optional<std::int32_t> first_token{};  ///< put before every window
  /// With the share done, from 0 to 1.
  std::function<void(double)> progress{};
};

/// False for scores that are made of attention or drawn anew at each cut.
bool can_analyse(engine::Score score);

/// Runs every window without a press, once to learn the scores of its slots and once to watch its
/// attention. scores: of each press its score, own score, seed are looked at.
/// Errors: Error for a score that cannot be analysed, for tokens or
/// settings that the model refuses, for values that are not finite, and when no text has more than
/// first_analysed_query tokens.
Analysis analyse(engine::Model& model, std::span<const Text> texts,
                 std::span<const engine::Press> scores, const AnalysisOptions& options);

}  // namespace neoxref::eval
