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

std::string alr_section(const std::vector<double>& values, std::size_t layers, std::size_t heads,
                        const std::string& tokens) {
  if (values.empty() || values.size() != layers * heads) {
    throw engine::Error("ALR map", "its shape does not match",
                        std::to_string(layers) + " layers of " + std::to_string(heads) + " heads",
                        std::to_string(values.size()) + " values");
  }
  HeatMap map{"ALR of each head, layer by head", "head", "layer", layers, heads, 1.0, true, values};
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  map.low = std::min(0.0, *low);
  map.high = *high;
  const std::string body =
      heat_legend(fmt::format("{:.4g}", map.low), fmt::format("{:.4g}", map.high)) +
      figure(draw(map, "alr0"), html_text(tokens));
  return section(
      "alr", "Attention that ranking by key norm loses",
      "ALR of each head: how much more attention is lost by dropping the keys of highest "
      "norm than by dropping those that draw least. 0: the norm ranks as attention does.",
      body);
}

}  // namespace neoxref::tools
