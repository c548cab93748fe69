// SPDX-License-Identifier: Apache-2.0
#include "tools/analyze_report.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tools/eval_files.hpp"
#include "tools/eval_report.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using eval::Analysis;
using eval::Estimate;
using eval::HeadFigures;
using Figure = double HeadFigures::*;

struct Named {
  const char* name;
  Figure figure;
};
constexpr Named figures[] = {{"alr", &HeadFigures::alr},
                             {"random_alr", &HeadFigures::random_alr},
                             {"relative", &HeadFigures::relative},
                             {"spearman", &HeadFigures::spearman}};

std::string interval_text(const std::optional<eval::Interval>& interval, bool ratio) {
  if (!interval) return "-";
  const auto shown = [&](double value) { return ratio ? std::exp(value) : value; };
  return fmt::format("{:.4f} to {:.4f}", shown(interval->low), shown(interval->high));
}

/// Heads whose mean is below 1.
std::size_t better_than_random(const Analysis& analysis, std::size_t score) {
  std::size_t count = 0;
  for (std::size_t layer = 0; layer < analysis.layers; ++layer) {
    for (std::size_t head = 0; head < analysis.heads; ++head) {
      if (analysis.head(score, layer, head, &HeadFigures::relative).mean < 1.0) ++count;
    }
  }
  return count;
}

void show_line(const std::string& name, std::size_t width, const Estimate& alr,
               const Estimate& relative, const Estimate& spearman) {
  print(fmt::format("{:>{}} {:>8.5f} {:>9.4f} {:>17} {:>9.4f} {:>18}", name, width, alr.mean,
                    relative.mean, interval_text(relative.interval, false), spearman.mean,
                    interval_text(spearman.interval, false)));
}

void show_heading(const char* name, std::size_t width) {
  print(fmt::format("{:>{}} {:>8} {:>9} {:>17} {:>9} {:>18}", name, width, "ALR", "relative",
                    "95 % interval", "Spearman", "95 % interval"));
}

void show_scores(const Analysis& analysis) {
  std::size_t width = 5;
  for (const std::string& name : analysis.scores) width = std::max(width, name.size());
  print(
      "Mean over all heads. Relative ALR: 0 ideal order, 1 no better than random, above 1 "
      "worse.\n");
  show_heading("score", width);
  print("   heads below 1\n");
  for (std::size_t score = 0; score < analysis.scores.size(); ++score) {
    show_line(analysis.scores[score], width, analysis.all(score, &HeadFigures::alr),
              analysis.all(score, &HeadFigures::relative),
              analysis.all(score, &HeadFigures::spearman));
    print(fmt::format("   {} of {}\n", better_than_random(analysis, score),
                      analysis.layers * analysis.heads));
  }
  for (std::size_t score = 0; score < analysis.scores.size(); ++score) {
    print(fmt::format("\n{}, mean over the heads of a layer{}\n", analysis.scores[score],
                      analysis.is_static[score] ? "" : " (taken once, of the whole cache)"));
    show_heading("layer", 5);
    print("\n");
    for (std::size_t layer = 0; layer < analysis.layers; ++layer) {
      show_line(std::to_string(layer), 5, analysis.layer(score, layer, &HeadFigures::alr),
                analysis.layer(score, layer, &HeadFigures::relative),
                analysis.layer(score, layer, &HeadFigures::spearman));
      print("\n");
    }
  }
  std::size_t queries = 0;
  for (const eval::AnalysedWindow& window : analysis.windows) queries += window.queries;
  print(fmt::format("\n{} queries in {} windows", queries, analysis.windows.size()));
  if (!analysis.left_out.empty()) {
    print(fmt::format("; {} texts are too short", analysis.left_out.size()));
  }
  const auto interval = analysis.all(0, &HeadFigures::relative).interval;
  print(interval ? fmt::format(". Intervals: Student's t over {} {}.\n", interval->units,
                               eval::interval_name(interval->over))
                 : fmt::format(". No intervals: fewer than {} texts or windows (--windows).\n",
                               eval::least_units));
}

void show_future(const eval::Sweep& sweep) {
  const std::vector<Rival> all = rivals(sweep);
  std::size_t width = 4;
  for (const Rival& rival : all) width = std::max(width, row_name(sweep, *rival.row).size());
  print(
      "One cut behind the prompt. future-attention keeps what the uncompressed run will attend to\n"
      "most: a reference, not a bound.\n");
  print(fmt::format("{:>{}} {:>10} {:>8} {:>17} {:>13} {:>17}\n", "keep", width, "perplexity",
                    "ratio", "95 % interval", "to reference", "95 % interval"));
  for (const Rival& rival : all) {
    const eval::Row& row = *rival.row;
    if (row.scored == 0) {
      print(fmt::format("{:>{}} no token was scored\n", row_name(sweep, row), width));
      continue;
    }
    const auto interval = eval::log_ratio_interval(row.texts, sweep.layout.max_tokens);
    print(fmt::format("{:>{}} {:>10.7g} {:>8.4f} {:>17}", row_name(sweep, row), width,
                      row.perplexity(), std::exp(row.log_ratio()), interval_text(interval, true)));
    if (&row != rival.reference) {
      print(fmt::format(" {:>13.4f} {:>17}{}", std::exp(rival.log_ratio),
                        interval_text(rival.interval, true),
                        rival.log_ratio < 0.0 ? "  better" : ""));
    }
    print("\n");
  }
}

Json estimate_json(const Estimate& estimate) {
  return {{"mean", estimate.mean}, {"interval", interval_json(estimate.interval)}};
}

/// [layers][heads]
Json matrix_json(const Analysis& analysis, std::size_t score, Figure figure,
                 double (*pick)(const Estimate&)) {
  Json rows = Json::array();
  for (std::size_t layer = 0; layer < analysis.layers; ++layer) {
    Json row = Json::array();
    for (std::size_t head = 0; head < analysis.heads; ++head) {
      const double value = pick(analysis.head(score, layer, head, figure));
      row.push_back(std::isfinite(value) ? Json(value) : Json());
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

Json score_json(const Analysis& analysis, std::size_t score) {
  Json entry{{"score", analysis.scores[score]}, {"static", bool{analysis.is_static[score]}}};
  for (const Named& named : figures) {
    entry[named.name] = estimate_json(analysis.all(score, named.figure));
  }
  entry["heads_below_random"] = better_than_random(analysis, score);
  Json layers = Json::array();
  for (std::size_t layer = 0; layer < analysis.layers; ++layer) {
    Json of_layer{{"layer", layer}};
    for (const Named& named : figures) {
      of_layer[named.name] = estimate_json(analysis.layer(score, layer, named.figure));
    }
    layers.push_back(std::move(of_layer));
  }
  entry["layers"] = std::move(layers);
  Json heads;
  for (const Named& named : figures) {
    const std::string name = named.name;
    heads[name] =
        matrix_json(analysis, score, named.figure, [](const Estimate& e) { return e.mean; });
    heads[name + "_low"] = matrix_json(analysis, score, named.figure, [](const Estimate& e) {
      return e.interval ? e.interval->low : std::nan("");
    });
    heads[name + "_high"] = matrix_json(analysis, score, named.figure, [](const Estimate& e) {
      return e.interval ? e.interval->high : std::nan("");
    });
  }
  entry["heads"] = std::move(heads);
  return entry;
}

Json future_json(const eval::Sweep& sweep, const engine::Model& model) {
  std::vector<std::optional<eval::Interval>> intervals = intervals_of(sweep);
  const ReportContext context{model, sweep, "", "", nullptr, intervals};
  Json document = sweep_json(context);
  document.erase("machine");
  for (const Rival& rival : rivals(sweep)) {
    Json& row = document["rows"][static_cast<std::size_t>(rival.row - sweep.rows.data())];
    row["log_ratio_to_reference"] = std::isfinite(rival.log_ratio) ? Json(rival.log_ratio) : Json();
    row["log_ratio_to_reference_interval"] = interval_json(rival.interval);
    row["better_than_reference"] = rival.log_ratio < 0.0;
  }
  return document;
}

}  // namespace

std::vector<Rival> rivals(const eval::Sweep& sweep) {
  std::vector<Rival> all;
  for (const eval::Row& row : sweep.rows) {
    if (!row.compressed) continue;
    const auto reference =
        std::find_if(sweep.rows.begin(), sweep.rows.end(), [&](const eval::Row& other) {
          return other.arm.press.score == engine::Score::own &&
                 other.arm.schedule == row.arm.schedule;
        });
    // The reference in the place of the uncompressed run.
    std::vector<eval::TextScore> texts = row.texts;
    double sum = 0.0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      texts[i].full_nll = reference->texts[i].nll;
      sum += texts[i].nll - texts[i].full_nll;
      for (std::size_t token = 0; token < texts[i].scores.size(); ++token) {
        texts[i].scores[token].full_nll = reference->texts[i].scores[token].nll;
      }
    }
    all.push_back({&row, &*reference, sum / static_cast<double>(row.scored),
                   eval::log_ratio_interval(texts, sweep.layout.max_tokens)});
  }
  return all;
}

void show_analysis(const AnalysisReport& report) {
  if (report.analysis) show_scores(*report.analysis);
  if (report.analysis && report.future) print("\n");
  if (report.future) show_future(*report.future);
  print(fmt::format("\n{}, at most {} tokens of each window\n{}\n", report.settings,
                    report.max_tokens, machine_text(report.model)));
}

Json analysis_json(const AnalysisReport& report) {
  Json document{{"max_tokens", report.max_tokens}, {"first_query", eval::first_analysed_query}};
  if (report.analysis) {
    const Analysis& analysis = *report.analysis;
    Json scores = Json::array();
    for (std::size_t score = 0; score < analysis.scores.size(); ++score) {
      scores.push_back(score_json(analysis, score));
    }
    document["scores"] = std::move(scores);
    Json windows = Json::array();
    for (const eval::AnalysedWindow& window : analysis.windows) {
      windows.push_back({{"text", report.texts[window.text].name},
                         {"begin", window.begin},
                         {"tokens", window.tokens},
                         {"queries", window.queries}});
    }
    document["windows"] = std::move(windows);
    document["left_out"] = analysis.left_out;
  }
  if (report.future) document["future"] = future_json(*report.future, report.model);
  document["machine"] = machine_json(report.model);
  return document;
}

void write_analysis_csv(const std::string& path, const AnalysisReport& report) {
  OutputFile file(path);
  file.write("text,begin,tokens,queries,score,layer,head,alr,random_alr,relative,spearman\n");
  const Analysis& analysis = *report.analysis;
  for (const eval::AnalysedWindow& window : analysis.windows) {
    for (std::size_t score = 0; score < analysis.scores.size(); ++score) {
      for (std::size_t layer = 0; layer < analysis.layers; ++layer) {
        for (std::size_t head = 0; head < analysis.heads; ++head) {
          std::string line = fmt::format(
              "{},{},{},{},{},{},{}", csv_field(report.texts[window.text].name), window.begin,
              window.tokens, window.queries, csv_field(analysis.scores[score]), layer, head);
          const HeadFigures& found = analysis.at(window, score, layer, head);
          for (const Named& named : figures) line += fmt::format(",{}", found.*named.figure);
          file.write(line + "\n");
        }
      }
    }
  }
  file.commit();
}

}  // namespace neoxref::tools
