// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/sweep.hpp"

namespace neoxref::eval {

/// 95 % interval of a row's log_ratio, the mean of d_t = nll - full nll over its scored tokens.
/// Definitions: docs/protocols.md, "Intervals".
struct Interval {
  enum class Over : std::uint8_t {
    documents,  ///< Student's t on the ratio of sums, documents as units: at least 10 of them
    windows,    ///< the same over stretches of max_tokens tokens of the texts: at least 10
    blocks      ///< percentiles of a moving-block bootstrap within each document
  };
  double low = 0.0;
  double high = 0.0;
  Over over = Over::documents;
  std::size_t units = 0;  ///< documents, windows, or blocks drawn in a resample
  std::size_t block = 0;  ///< of `blocks`: tokens of the longest
};
std::string_view interval_name(Interval::Over over);

/// Fewer units than this have no interval of their own.
inline constexpr std::size_t least_units = 10;

/// A sum over some values that belong together, and how many they are.
struct Cluster {
  double sum = 0.0;
  std::size_t size = 0;
};
/// Student's t on the ratio of the sums of both, its variance by linearization. At least least_units
/// clusters.
Interval clusters_interval(std::span<const Cluster> clusters, Interval::Over over);

/// None where the texts are too short for any of the three.
/// seed  of the bootstrap: the same figures everywhere.
std::optional<Interval> log_ratio_interval(std::span<const TextScore> texts, std::size_t max_tokens,
                                           std::uint64_t seed = 0);

/// Scored tokens with something in common.
struct Bucket {
  std::size_t first = 0;  ///< smallest and largest position, distance or number in it
  std::size_t last = 0;
  std::size_t tokens = 0;
  double log_ratio = 0.0;  ///< means over them
  double nll = 0.0;
  double full_nll = 0.0;
  double kl = 0.0;
};
enum class By : std::uint8_t { position, since_cut, cuts };
/// Buckets that hold a token, ascending: positions by 64; distances and numbers of cuts 0, 1, 2-3,
/// 4-7, 8-15 and so on (0: no cut yet).
std::vector<Bucket> buckets(const Row& row, By by);

/// Slots of one layer after each token of a window has entered and its cuts are made: the saw.
std::vector<std::size_t> length_over_time(const WindowScore& window, std::size_t layer);

/// The controls of a budget beside each other.
struct ControlSpread {
  engine::Score score;
  std::string label;  ///< of the budget
  std::size_t prune_after;
  std::size_t schedule;
  std::size_t seeds;
  double least;  ///< log_ratio
  double mean;
  double most;
};
/// Of every score with several seeds among the control rows.
std::vector<ControlSpread> control_spreads(const Sweep& sweep);

}  // namespace neoxref::eval
