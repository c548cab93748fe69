// SPDX-License-Identifier: Apache-2.0
// The pictures of the page of `eval --html` that show which positions are held.
#include <fmt/core.h>

#include <algorithm>

#include "engine/error.hpp"
#include "tools/eval_cells.hpp"
#include "tools/eval_page.hpp"
#include "tools/html.hpp"

namespace neoxref::tools {

using eval::Sweep;

std::string survival_section(const PageContext& context) {
  const Sweep& sweep = context.report.sweep;
  const Cells cells(sweep);
  std::string body = heat_legend("0 %: gone in every head", "100 %: held in every head");
  for (const std::size_t full_row : cells.full_rows()) {
    for (const std::string& label : cells.labels()) {
      std::string figures;
      for (const Cell* cell : cells.of(full_row, label)) {
        const SurvivalBins bins = cell->survival(sweep);
        HeatMap map{"Share of heads that hold a position, layer by position, " + cell->score,
                    "position in the text",
                    "layer",
                    bins.layers,
                    bins.bins(),
                    static_cast<double>(bins.width),
                    false,
                    {}};
        for (std::size_t i = 0; i < bins.held.size(); ++i) {
          map.values.push_back(static_cast<double>(bins.held[i]) /
                               static_cast<double>(bins.entered[i % bins.bins()]));
        }
        figures += figure(draw(map, fmt::format("held{}", cell->rows.front())),
                          "<b>" + html_text(cell->score) + "</b>, keep " + html_text(label) +
                              html_text(cells.setting(full_row)));
      }
      if (!figures.empty()) body += grid(figures, true);
    }
  }
  return section(
      "survival", "What is still held at the end",
      "Share of (windows &#215; heads) that still hold a position when the last token of its "
      "window is scored, in bins of positions; of a control with several seeds, over all of "
      "them. Layers that are skipped hold all.",
      body);
}

std::string age_section(const PageContext& context) {
  const Sweep& sweep = context.report.sweep;
  const Cells cells(sweep);
  std::string figures;
  for (const std::size_t full_row : cells.full_rows()) {
    for (const std::string& label : cells.labels()) {
      Chart chart{
          "Share held against age", {"age: tokens that entered after it"}, {"share still held"}};
      chart.y.low = 0.0;
      chart.y.high = 1.02;
      chart.x.low = 0.0;
      for (const Cell* cell : cells.of(full_row, label)) {
        const SurvivalBins bins = cell->survival(sweep);
        Curve curve{cells.stroke(cell->score), {}};
        curve.stroke.point = 0;
        chart.x.high = static_cast<double>(bins.width * bins.bins());
        for (std::size_t bin = 0; bin < bins.bins(); ++bin) {
          double held = 0.0;
          std::size_t layers = 0;
          for (std::size_t layer = 0; layer < bins.layers; ++layer) {
            if (sweep.rows[cell->rows.front()].arm.press.skips(layer)) continue;
            held += static_cast<double>(bins.held_by_age[layer * bins.bins() + bin]);
            ++layers;
          }
          if (layers == 0) continue;
          curve.points.push_back(
              {(static_cast<double>(bin) + 0.5) * static_cast<double>(bins.width),
               held / static_cast<double>(layers) / static_cast<double>(bins.entered[bin])});
        }
        if (!curve.points.empty()) chart.curves.push_back(std::move(curve));
      }
      if (chart.curves.empty()) continue;
      figures +=
          figure(draw(chart, fmt::format("age{}x{}", full_row, figures.size())),
                 "<b>keep " + html_text(label) + "</b>" + html_text(cells.setting(full_row)) +
                     ": when the last token of a window is scored, over all windows, heads "
                     "and layers that are cut.");
    }
  }
  return section(
      "age", "Survival against age",
      "A score that keeps the young falls to zero at once; one that draws anew at each cut "
      "decays with every cut; one that is fixed when a token enters keeps its choice.",
      legend(cells) + grid(figures));
}

std::string alr_section(const eval::Analysis& analysis) {
  constexpr auto relative = &eval::HeadFigures::relative;
  std::vector<HeatMap> maps;
  double most = 1.0;
  for (std::size_t score = 0; score < analysis.scores.size(); ++score) {
    HeatMap map{"Relative ALR of each head, layer by head, " + analysis.scores[score],
                "head",
                "layer",
                analysis.layers,
                analysis.heads,
                1.0,
                true,
                {}};
    for (std::size_t layer = 0; layer < analysis.layers; ++layer) {
      for (std::size_t head = 0; head < analysis.heads; ++head) {
        map.values.push_back(analysis.head(score, layer, head, relative).mean);
        most = std::max(most, map.values.back());
      }
    }
    maps.push_back(std::move(map));
  }
  std::string figures;
  for (std::size_t score = 0; score < maps.size(); ++score) {
    maps[score].high = most;
    const eval::Estimate all = analysis.all(score, relative);
    std::string caption = "<b>" + html_text(analysis.scores[score]) + "</b>, mean " +
                          html_number(all.mean, fmt::format("{:.3f}", all.mean));
    if (all.interval) {
      caption +=
          fmt::format(" (95 % interval {:.3f} to {:.3f})", all.interval->low, all.interval->high);
    }
    if (!analysis.is_static[score]) caption += "; taken once, of the whole cache";
    figures += figure(draw(maps[score], fmt::format("alr{}", score)), caption);
  }
  std::size_t queries = 0;
  for (const eval::AnalysedWindow& window : analysis.windows) queries += window.queries;
  return section(
      "alr", "Does the score rank slots as attention does?",
      fmt::format(
          "Relative ALR of each head in the uncompressed run, over {} queries of {} windows: how "
          "much more attention is lost by dropping the slots that the score ranks last than "
          "by dropping those that draw least, against dropping at random. 0: the score ranks "
          "as attention does; 1: no better than drawing lots; above 1: worse.",
          queries, analysis.windows.size()),
      heat_legend("0: as attention does", fmt::format("{:.2f}", most)) + grid(figures, true));
}

}  // namespace neoxref::tools
