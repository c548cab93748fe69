// SPDX-License-Identifier: Apache-2.0
#include "tools/eval_series.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tools/eval_files.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using eval::Bucket;
using eval::By;
using eval::Row;
using eval::Sweep;

constexpr std::size_t most_bins = 64;
constexpr std::pair<By, const char*> kinds[] = {
    {By::position, "position"}, {By::since_cut, "since_cut"}, {By::cuts, "cuts"}};

void add(std::vector<std::uint64_t>& sums, const std::vector<std::uint64_t>& more) {
  sums.resize(std::max(sums.size(), more.size()));
  for (std::size_t i = 0; i < more.size(); ++i) sums[i] += more[i];
}

double share(std::uint64_t part, std::uint64_t whole) {
  return static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

SurvivalBins survival_bins(const eval::Survival& survival) {
  SurvivalBins bins;
  bins.layers = survival.layers;
  while (survival.positions > bins.width * most_bins) bins.width *= 2;
  const std::size_t count = (survival.positions + bins.width - 1) / bins.width;
  bins.entered.resize(count);
  bins.held.resize(survival.layers * count);
  bins.held_by_age.resize(survival.layers * count);
  for (std::size_t position = 0; position < survival.positions; ++position) {
    const std::size_t bin = position / bins.width;
    bins.entered[bin] += survival.entered[position];
    for (std::size_t layer = 0; layer < survival.layers; ++layer) {
      const std::size_t from = layer * survival.positions + position;
      bins.held[layer * count + bin] += survival.held[from];
      bins.held_by_age[layer * count + bin] += survival.held_by_age[from];
    }
  }
  return bins;
}

std::vector<double> mean_length_over_time(const Row& row) {
  const eval::WindowScore* longest = nullptr;
  for (const eval::TextScore& text : row.texts) {
    for (const eval::WindowScore& window : text.windows) {
      const bool longer = longest == nullptr || window.window.tokens > longest->window.tokens;
      if (window.scored > 0 && longer) longest = &window;
    }
  }
  std::vector<double> mean;
  if (longest == nullptr) return mean;
  std::size_t layers = 0;
  const auto add_layer = [&](std::size_t layer) {
    const std::vector<std::size_t> lengths = eval::length_over_time(*longest, layer);
    mean.resize(lengths.size());
    for (std::size_t i = 0; i < lengths.size(); ++i) mean[i] += static_cast<double>(lengths[i]);
    ++layers;
  };
  for (std::size_t layer = 0; layer < longest->lengths.size(); ++layer) {
    if (!row.arm.press.skips(layer)) add_layer(layer);
  }
  if (layers == 0) add_layer(0);
  for (double& slots : mean) slots /= static_cast<double>(layers);
  return mean;
}

double Cell::log_ratio(const Sweep& sweep) const {
  double sum = 0.0;
  for (const std::size_t row : rows) sum += sweep.rows[row].log_ratio();
  return sum / static_cast<double>(rows.size());
}

double Cell::mean_bytes(const Sweep& sweep) const {
  double sum = 0.0;
  for (const std::size_t row : rows) sum += sweep.rows[row].mean_bytes;
  return sum / static_cast<double>(rows.size());
}

std::optional<std::pair<double, double>> Cell::spread(const ReportContext& context) const {
  if (rows.size() == 1) {
    const auto& interval = context.intervals[rows.front()];
    if (!interval) return std::nullopt;
    return std::pair{interval->low, interval->high};
  }
  std::vector<double> ratios;
  for (const std::size_t row : rows) ratios.push_back(context.sweep.rows[row].log_ratio());
  const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  return std::pair{*least, *most};
}

SurvivalBins Cell::survival(const Sweep& sweep) const {
  SurvivalBins all;
  for (const std::size_t row : rows) {
    SurvivalBins bins = survival_bins(sweep.rows[row].survival);
    all.width = bins.width;
    all.layers = bins.layers;
    add(all.entered, bins.entered);
    add(all.held, bins.held);
    add(all.held_by_age, bins.held_by_age);
  }
  return all;
}

std::vector<Bucket> Cell::buckets(const Sweep& sweep, By by) const {
  // Seeds of a control are cut at the same steps: their buckets hold the same tokens.
  std::vector<Bucket> all = eval::buckets(sweep.rows[rows.front()], by);
  for (std::size_t i = 1; i < rows.size(); ++i) {
    const std::vector<Bucket> more = eval::buckets(sweep.rows[rows[i]], by);
    for (std::size_t b = 0; b < all.size(); ++b) {
      all[b].log_ratio += more[b].log_ratio;
      all[b].nll += more[b].nll;
      all[b].full_nll += more[b].full_nll;
      all[b].kl += more[b].kl;
    }
  }
  const auto count = static_cast<double>(rows.size());
  for (Bucket& bucket : all) {
    for (double* sum : {&bucket.log_ratio, &bucket.nll, &bucket.full_nll, &bucket.kl}) {
      *sum /= count;
    }
  }
  return all;
}

std::vector<Cell> cells_of(const Sweep& sweep) {
  std::vector<Cell> cells;
  for (std::size_t i = 0; i < sweep.rows.size(); ++i) {
    const Row& row = sweep.rows[i];
    if (!row.compressed || row.scored == 0) continue;
    const Json arm = arm_json(sweep, row);
    const std::string score = arm["press"];
    const auto same = std::find_if(cells.begin(), cells.end(), [&](const Cell& cell) {
      return row.arm.control && cell.control && cell.score == score &&
             cell.label == row.arm.label && cell.full_row == row.full_row;
    });
    if (same != cells.end()) {
      same->rows.push_back(i);
      continue;
    }
    Cell cell{score, row.arm.label, row.arm.control, row.full_row};
    if (arm["keep_ratio"].is_number()) cell.keep_ratio = arm["keep_ratio"];
    cell.rows = {i};
    cells.push_back(std::move(cell));
  }
  for (Cell& cell : cells) {
    if (!cell.control) continue;
    cell.score += cell.rows.size() > 1 ? fmt::format(", {} seeds", cell.rows.size()) : ", control";
  }
  return cells;
}

void add_series(Json& entry, const Row& row) {
  const SurvivalBins bins = survival_bins(row.survival);
  const auto by_layer = [&](const std::vector<std::uint64_t>& held) {
    Json layers = Json::array();
    for (std::size_t layer = 0; layer < bins.layers; ++layer) {
      Json shares = Json::array();
      for (std::size_t bin = 0; bin < bins.bins(); ++bin) {
        shares.push_back(share(held[layer * bins.bins() + bin], bins.entered[bin]));
      }
      layers.push_back(std::move(shares));
    }
    return layers;
  };
  entry["survival"] = {{"positions", row.survival.positions},
                       {"bin", bins.width},
                       {"entered", bins.entered},
                       {"share", by_layer(bins.held)},
                       {"share_by_age", by_layer(bins.held_by_age)}};
}

void write_series(const std::string& path, const Sweep& sweep) {
  OutputFile file(path);
  file.write("row,press,budget,prune_after,series,layer,first,last,count,value\n");
  for (std::size_t i = 0; i < sweep.rows.size(); ++i) {
    const Row& row = sweep.rows[i];
    const std::string press = arm_json(sweep, row)["press"];
    const std::string head = fmt::format("{},{},{},{}", i, csv_field(press),
                                         csv_field(row.arm.label), row.arm.press.prune_after);
    std::string block;
    for (const auto& [by, name] : kinds) {
      for (const Bucket& bucket : eval::buckets(row, by)) {
        block += fmt::format(
            "{0},log_ratio_by_{1},,{2},{3},{4},{5}\n{0},kl_by_{1},,{2},{3},{4},{6}\n", head, name,
            bucket.first, bucket.last, bucket.tokens, bucket.log_ratio, bucket.kl);
      }
    }
    const SurvivalBins bins = survival_bins(row.survival);
    for (std::size_t layer = 0; layer < bins.layers; ++layer) {
      for (std::size_t bin = 0; bin < bins.bins(); ++bin) {
        const std::size_t at = layer * bins.bins() + bin;
        const std::size_t first = bin * bins.width;
        const std::size_t last = std::min(first + bins.width, row.survival.positions) - 1;
        block += fmt::format(
            "{0},held_by_position,{1},{2},{3},{4},{5}\n{0},held_by_age,{1},{2},{3},{4},{6}\n", head,
            layer, first, last, bins.entered[bin], share(bins.held[at], bins.entered[bin]),
            share(bins.held_by_age[at], bins.entered[bin]));
      }
    }
    const std::vector<double> lengths = mean_length_over_time(row);
    for (std::size_t token = 0; token < lengths.size(); ++token) {
      block += fmt::format("{0},length,,{1},{1},1,{2}\n", head, token, lengths[token]);
    }
    file.write(block);
  }
  file.commit();
}

}  // namespace neoxref::tools
