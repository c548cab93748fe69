// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE ranks
#include "eval/ranks.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numeric>
#include <vector>

#include "tests/checkpoints.hpp"
#include "tests/plain_ranks.hpp"

namespace {

using namespace neoxref;
using tests::Floats;
using tests::mean_loss;
using tests::midranks;
using tests::plain_spearman;
using tests::worst_first;

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

eval::ScoreRanks ranks_of(const Floats& scores) {
  eval::ScoreRanks ranks(scores.size());
  for (const float score : scores) ranks.enter(score);
  return ranks;
}

/// Sums of at most n products of numbers up to n, divided by n - 1: n roundings of values up to 1.
double rounding(std::size_t slots) {
  return 4.0 * static_cast<double>(slots) * 0x1p-53;
}

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
