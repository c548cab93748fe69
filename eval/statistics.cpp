// SPDX-License-Identifier: Apache-2.0
#include "eval/statistics.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "engine/sampler.hpp"

namespace neoxref::eval {
namespace {

constexpr std::size_t resamples = 10000;

double difference(const TokenScore& score) {
  return static_cast<double>(score.nll) - static_cast<double>(score.full_nll);
}

/// The 97.5 % point of Student's t, by the expansion in 1 / freedom (Abramowitz and Stegun 26.7.5):
/// off by less than 1e-5 from 9 degrees on.
double student(std::size_t freedom) {
  const double z = 1.959963984540054;
  const double z2 = z * z;
  const double n = static_cast<double>(freedom);
  const double g1 = z * (z2 + 1) / 4;
  const double g2 = z * ((5 * z2 + 16) * z2 + 3) / 96;
  const double g3 = z * (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384;
  const double g4 = z * ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / 92160;
  return z + (g1 + (g2 + (g3 + g4 / n) / n) / n) / n;
}

/// A document whose blocks are drawn anew.
struct Blocks {
  std::vector<double> sums;  ///< sums[i]: of the first i differences
  std::size_t length;        ///< of a block
  std::size_t tokens() const { return sums.size() - 1; }
};

Blocks make_blocks(const TextScore& text) {
  Blocks blocks{{0.0}, 0};
  for (const TokenScore& score : text.scores) {
    blocks.sums.push_back(blocks.sums.back() + difference(score));
    blocks.length = std::max<std::size_t>(blocks.length, score.since_cut);
  }
  const auto root = std::ceil(std::sqrt(static_cast<double>(text.scores.size())));
  blocks.length = std::max(blocks.length, static_cast<std::size_t>(root));
  return blocks;
}

std::optional<Interval> over_blocks(const std::vector<Blocks>& documents, std::uint64_t seed) {
  Interval interval;
  interval.over = Interval::Over::blocks;
  double tokens = 0.0;
  bool varies = false;
  for (const Blocks& document : documents) {
    tokens += static_cast<double>(document.tokens());
    interval.block = std::max(interval.block, document.length);
    interval.units += (document.tokens() + document.length - 1) / document.length;
    varies = varies || document.tokens() >= 2 * document.length;
  }
  if (!varies) return std::nullopt;
  std::vector<double> ratios;
  for (std::size_t resample = 0; resample < resamples; ++resample) {
    double sum = 0.0;
    for (std::size_t d = 0; d < documents.size(); ++d) {
      const Blocks& document = documents[d];
      const std::size_t most = std::min(document.length, document.tokens());
      const std::size_t starts = document.tokens() - most + 1;
      std::size_t drawn = 0;
      for (std::uint32_t block = 0; drawn < document.tokens(); ++block) {
        const std::uint32_t word = engine::philox(
            {block, static_cast<std::uint32_t>(resample), static_cast<std::uint32_t>(d), 0},
            {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)})[0];
        const auto start =
            static_cast<std::size_t>((static_cast<std::uint64_t>(word) * starts) >> 32);
        const std::size_t length = std::min(most, document.tokens() - drawn);
        sum += document.sums[start + length] - document.sums[start];
        drawn += length;
      }
    }
    ratios.push_back(sum / tokens);
  }
  std::sort(ratios.begin(), ratios.end());
  interval.low = ratios[resamples / 40];
  interval.high = ratios[resamples - 1 - resamples / 40];
  return interval;
}

std::size_t key_of(const TokenScore& score, By by) {
  switch (by) {
    case By::position:
      return score.position / 64;
    case By::since_cut:
      return static_cast<std::size_t>(std::bit_width(score.since_cut));
    case By::cuts:
      return static_cast<std::size_t>(std::bit_width(score.cuts));
  }
  return 0;
}

}  // namespace

std::string_view interval_name(Interval::Over over) {
  static constexpr std::string_view names[] = {"documents", "windows", "blocks"};
  return names[static_cast<std::size_t>(over)];
}

Interval clusters_interval(std::span<const Cluster> clusters, Interval::Over over) {
  double sum = 0.0;
  double size = 0.0;
  for (const Cluster& cluster : clusters) {
    sum += cluster.sum;
    size += static_cast<double>(cluster.size);
  }
  const double ratio = sum / size;
  double squares = 0.0;
  for (const Cluster& cluster : clusters) {
    const double rest = cluster.sum - ratio * static_cast<double>(cluster.size);
    squares += rest * rest;
  }
  const auto count = static_cast<double>(clusters.size());
  const double error = std::sqrt(squares * count / (count - 1)) / size;
  const double half = student(clusters.size() - 1) * error;
  return {ratio - half, ratio + half, over, clusters.size(), 0};
}

std::optional<Interval> log_ratio_interval(std::span<const TextScore> texts, std::size_t max_tokens,
                                           std::uint64_t seed) {
  std::vector<Cluster> documents;
  std::vector<Cluster> stretches;
  std::vector<Blocks> blocks;
  for (const TextScore& text : texts) {
    if (text.scored == 0) continue;
    documents.push_back({text.nll - text.full_nll, text.scored});
    std::map<std::size_t, Cluster> of_text;
    for (const WindowScore& window : text.windows) {
      for (std::size_t i = 0; i < window.scored; ++i) {
        const TokenScore& score = text.scores[window.first_token + i];
        Cluster& cluster = of_text[(window.window.begin + score.position) / max_tokens];
        cluster.sum += difference(score);
        ++cluster.size;
      }
    }
    for (const auto& [place, cluster] : of_text) stretches.push_back(cluster);
  }
  if (documents.size() >= least_units)
    return clusters_interval(documents, Interval::Over::documents);
  if (stretches.size() >= least_units) return clusters_interval(stretches, Interval::Over::windows);
  for (const TextScore& text : texts) {
    if (text.scored > 0) blocks.push_back(make_blocks(text));
  }
  return over_blocks(blocks, seed);
}

std::vector<Bucket> buckets(const Row& row, By by) {
  std::map<std::size_t, Bucket> found;
  for (const TextScore& text : row.texts) {
    for (const TokenScore& score : text.scores) {
      Bucket& bucket = found[key_of(score, by)];
      ++bucket.tokens;
      bucket.log_ratio += difference(score);
      bucket.nll += static_cast<double>(score.nll);
      bucket.full_nll += static_cast<double>(score.full_nll);
      bucket.kl += score.kl;
    }
  }
  std::vector<Bucket> all;
  for (auto& [key, bucket] : found) {
    if (by == By::position) {
      bucket.first = key * 64;
      bucket.last = bucket.first + 63;
    } else if (key > 0) {
      bucket.first = std::size_t{1} << (key - 1);
      bucket.last = 2 * bucket.first - 1;
    }
    const auto tokens = static_cast<double>(bucket.tokens);
    for (double* sum : {&bucket.log_ratio, &bucket.nll, &bucket.full_nll, &bucket.kl}) {
      *sum /= tokens;
    }
    all.push_back(bucket);
  }
  return all;
}

std::vector<std::size_t> length_over_time(const WindowScore& window, std::size_t layer) {
  std::vector<std::size_t> lengths;
  std::size_t now = 0;
  auto cut = window.log.begin();
  for (std::size_t token = 0; token + 1 < window.window.tokens; ++token) {
    ++now;
    for (; cut != window.log.end() && cut->position == token; ++cut) {
      if (cut->layer == layer) now -= cut->before - cut->after;
    }
    lengths.push_back(now);
  }
  return lengths;
}

std::vector<ControlSpread> control_spreads(const Sweep& sweep) {
  std::vector<ControlSpread> spreads;
  for (const Row& row : sweep.rows) {
    if (!row.arm.control || row.scored == 0) continue;
    const double ratio = row.log_ratio();
    const auto same =
        std::find_if(spreads.begin(), spreads.end(), [&](const ControlSpread& spread) {
          return spread.schedule == row.arm.schedule && spread.score == row.arm.press.score;
        });
    if (same == spreads.end()) {
      const engine::Press& press = row.arm.press;
      spreads.push_back({press.score, row.arm.label, press.prune_after, row.arm.schedule, 1, ratio,
                         ratio, ratio});
      continue;
    }
    ++same->seeds;
    same->least = std::min(same->least, ratio);
    same->most = std::max(same->most, ratio);
    same->mean += ratio;  // a sum until the end
  }
  for (ControlSpread& spread : spreads) spread.mean /= static_cast<double>(spread.seeds);
  std::erase_if(spreads, [](const ControlSpread& spread) { return spread.seeds < 2; });
  return spreads;
}

}  // namespace neoxref::eval
