// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "engine/attended.hpp"
#include "engine/config.hpp"
#include "engine/model.hpp"
#include "tests/checkpoints.hpp"

namespace neoxref::tests {

using Floats = std::vector<float>;

// The definitions of docs/analysis.md once more, with sets and sums written out.

/// Mean over m = 1 .. slots - 1 of the weight of the first m slots of this order.
inline double mean_loss(const std::vector<std::size_t>& order, const Floats& weights) {
  double mean = 0.0;
  for (std::size_t m = 1; m < order.size(); ++m) {
    double lost = 0.0;
    for (std::size_t i = 0; i < m; ++i) lost += static_cast<double>(weights[order[i]]);
    mean += lost / static_cast<double>(order.size() - 1);
  }
  return mean;
}

/// Lowest value first; of equal ones the higher slot, because a press keeps the lower.
inline std::vector<std::size_t> worst_first(const Floats& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.rbegin(), order.rend(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  return order;
}

inline std::vector<double> midranks(const Floats& values) {
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
inline double plain_spearman(const Floats& a, const Floats& b) {
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

/// A random checkpoint with room for 256 tokens, and models of it.
struct SmallModel {
  SmallModel() {
    shape.max_positions = 256;
    write_checkpoint(folder.path(), shape);
  }
  engine::Model load(std::size_t threads = 2) const {
    return engine::Model::load(folder.path(), {"", engine::Backend::tbb, threads});
  }
  TemporaryFolder folder;
  Shape shape;
};

}  // namespace neoxref::tests
