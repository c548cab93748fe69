// SPDX-License-Identifier: Apache-2.0
// The pictures of the page of `eval --html` that show what compression costs.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "tools/eval_cells.hpp"
#include "tools/eval_page.hpp"
#include "tools/html.hpp"

namespace neoxref::tools {
namespace {

using eval::Bucket;
using eval::By;
using eval::Row;
using eval::Sweep;

/// Which tokens a picture is about.
std::string tokens_text(const PageContext& context, const Row& row) {
  std::size_t texts = 0;
  for (const eval::TextScore& text : row.texts) texts += text.scored > 0 ? 1 : 0;
  return fmt::format("{} scored tokens of {} text{}, {} protocol", row.scored, texts,
                     texts == 1 ? "" : "s",
                     eval::protocol_name(context.report.sweep.layout.protocol));
}

struct Unit {
  double size;
  const char* name;
};
Unit unit_of(double bytes) {
  if (bytes >= 1073741824.0) return {1073741824.0, "GiB"};
  if (bytes >= 1048576.0) return {1048576.0, "MiB"};
  return {1024.0, "KiB"};
}

/// Room around logarithmic data, and at least a little.
void fit_logarithmic(Axis& axis, double low, double high) {
  axis.logarithmic = true;
  axis.low = low / std::pow(high / low, 0.06);
  axis.high = high * std::pow(high / low, 0.06);
}

/// Ratio over what `place` says of a cell; places of one budget are set side by side.
template <class Place>
Chart ratio_chart(const PageContext& context, const Cells& cells, std::size_t full_row, Axis x,
                  double full_place, Place place) {
  const Sweep& sweep = context.report.sweep;
  const std::vector<const Cell*> here = cells.of(full_row);
  Chart chart;
  chart.level = 1.0;
  double least = 1.0;
  double most = 1.0;
  double leftmost = full_place;
  for (const Cell* cell : here) {
    if (const auto at = place(*cell)) leftmost = std::min(leftmost, *at);
  }
  x.logarithmic = leftmost * 20 < full_place;
  const double width = full_place - leftmost;
  const double step = (x.logarithmic ? std::log(full_place / leftmost) : width) * 0.009;
  const double middle = static_cast<double>(cells.scores().size() - 1) / 2;
  for (std::size_t s = 0; s < cells.scores().size(); ++s) {
    Curve curve{cells.stroke(cells.scores()[s]), {}};
    for (const Cell* cell : here) {
      const auto at = place(*cell);
      if (cell->score != cells.scores()[s] || !at) continue;
      const double shift = (static_cast<double>(s) - middle) * step;
      Point point{x.logarithmic ? *at * std::exp(shift) : *at + shift,
                  std::exp(cell->log_ratio(sweep))};
      least = std::min(least, point.y);
      most = std::max(most, point.y);
      if (const auto spread = cell->spread(context.report)) {
        point.low = std::exp(spread->first);
        point.high = std::exp(spread->second);
        least = std::min(least, point.low);
        most = std::max(most, point.high);
      }
      curve.points.push_back(point);
    }
    if (curve.points.empty()) continue;
    std::sort(curve.points.begin(), curve.points.end(),
              [](const Point& a, const Point& b) { return a.x < b.x; });
    chart.curves.push_back(std::move(curve));
  }
  chart.curves.push_back({{11, 1, 1}, {{full_place, 1.0}}});
  if (x.logarithmic) {
    fit_logarithmic(x, leftmost, full_place);
  } else {
    x.high = full_place + 0.05 * width;
    if (!std::isfinite(x.low)) x.low = std::max(0.0, leftmost - 0.1 * width);
  }
  chart.x = std::move(x);
  chart.y = {"perplexity ratio (1 = uncompressed)"};
  if (most > 3 * least) {
    chart.y.label += ", log scale";
    fit_logarithmic(chart.y, least, most);
  } else {
    const double room = std::max(most - least, 0.001) * 0.06;
    chart.y.low = least - room;
    chart.y.high = most + room;
  }
  return chart;
}

}  // namespace

std::string ratio_section(const PageContext& context) {
  const Sweep& sweep = context.report.sweep;
  const Cells cells(sweep);
  std::string figures;
  std::size_t number = 0;
  for (const std::size_t full_row : cells.full_rows()) {
    const Row& full = sweep.rows[full_row];
    const auto here = cells.of(full_row);
    const bool shares = std::any_of(here.begin(), here.end(),
                                    [](const Cell* cell) { return cell->keep_ratio.has_value(); });
    const std::string tokens = html_text(tokens_text(context, full) + cells.setting(full_row));
    if (shares) {
      Chart chart = ratio_chart(context, cells, full_row,
                                {"keep_ratio: share of slots a cut keeps", false, 0.0}, 1.0,
                                [](const Cell& cell) { return cell.keep_ratio; });
      chart.description = "Perplexity ratio against keep_ratio";
      figures += figure(draw(chart, fmt::format("ratio{}", number++)),
                        "<b>Against keep_ratio.</b> " + tokens + ".");
    }
    const Unit unit = unit_of(full.mean_bytes);
    Chart chart = ratio_chart(context, cells, full_row,
                              {fmt::format("mean size of the cache, {}", unit.name)},
                              full.mean_bytes / unit.size, [&](const Cell& cell) {
                                return std::optional<double>(cell.mean_bytes(sweep) / unit.size);
                              });
    chart.description = "Perplexity ratio against mean bytes";
    figures +=
        figure(draw(chart, fmt::format("ratio{}", number++)),
               "<b>Against measured memory.</b> Keys and values of all layers and heads, mean "
               "over the scored tokens. " +
                   tokens + ".");
  }
  return section(
      "ratio", "Perplexity against what is kept",
      "Ratio to the uncompressed run over the same tokens: exp of the mean difference in "
      "nll. Bars: 95 % interval, as said below the first table; for a control with several "
      "seeds, its mean and the least and most of the seeds. The grey dot is the "
      "uncompressed run. Points of one budget are set side by side so that bars can be "
      "seen.",
      legend(cells) + grid(figures));
}

std::string length_section(const PageContext& context) {
  const Sweep& sweep = context.report.sweep;
  const Cells cells(sweep);
  std::string figures;
  for (const std::size_t full_row : cells.full_rows()) {
    Chart chart{"Slots of the cache over time", {"tokens that have entered"}, {"slots of a layer"}};
    const auto add = [&](const std::vector<double>& lengths, const Stroke& stroke) {
      Curve curve{stroke, {}};
      for (std::size_t i = 0; i < lengths.size(); ++i) {
        // Of a straight climb the ends are enough.
        const bool inside = i > 0 && i + 1 < lengths.size() && lengths[i + 1] - lengths[i] == 1.0 &&
                            lengths[i] - lengths[i - 1] == 1.0;
        if (!inside) curve.points.push_back({static_cast<double>(i + 1), lengths[i]});
      }
      chart.curves.push_back(std::move(curve));
      chart.x.high = std::max(static_cast<double>(lengths.size()), chart.x.high);
    };
    chart.x.low = 0;
    chart.y.low = 0;
    const Stroke plain{11, 0, 3};
    std::string items = legend_item(plain, "uncompressed");
    chart.x.high = 1;
    add(mean_length_over_time(sweep.rows[full_row]), plain);
    const double most = chart.x.high;
    for (std::size_t b = 0; b < cells.labels().size(); ++b) {
      const auto here = cells.of(full_row, cells.labels()[b]);
      if (here.empty()) continue;
      const Stroke stroke{b % 8, 0, 1 + b / 8};
      add(mean_length_over_time(sweep.rows[here.front()->rows.front()]), stroke);
      items += legend_item(stroke, "keep " + cells.labels()[b]);
    }
    chart.y.high = most * 1.02;
    figures +=
        "<div>\n" + legend(items) +
        figure(draw(chart, fmt::format("length{}", full_row)),
               html_text(fmt::format("The longest window{}. Mean over the layers that are cut.",
                                     cells.setting(full_row)))) +
        "</div>\n";
  }
  return section(
      "length", "Length of the cache over time",
      "Slots after each token has entered and its cuts are made. All scores of a budget are "
      "cut at the same tokens to the same length.",
      grid(figures));
}

namespace {

std::string bucket_name(const Bucket& bucket, const char* none) {
  if (bucket.last == 0) return none;
  if (bucket.first == bucket.last) return std::to_string(bucket.first);
  return fmt::format("{} to {}", bucket.first, bucket.last);
}

std::string bucket_figures(const PageContext& context, const Cells& cells, By by, const char* id,
                           const char* axis, const char* none) {
  const Sweep& sweep = context.report.sweep;
  std::string figures;
  std::size_t number = 0;
  for (const std::size_t full_row : cells.full_rows()) {
    for (const std::string& label : cells.labels()) {
      const auto here = cells.of(full_row, label);
      if (here.empty()) continue;
      Chart chart{fmt::format("nll difference against {}", axis), {axis}, {"nll difference, nats"}};
      chart.level = 0.0;
      chart.bars_label = "tokens";
      const std::vector<Bucket> first = here.front()->buckets(sweep, by);
      std::string table = "<tr><th>bucket</th><th>tokens</th>";
      std::vector<std::string> lines;
      for (std::size_t b = 0; b < first.size(); ++b) {
        const auto x = static_cast<double>(b);
        chart.x.tics.push_back({x, first[b].last == 0 ? "none" : std::to_string(first[b].first)});
        chart.bars.push_back({x, static_cast<double>(first[b].tokens)});
        lines.push_back(fmt::format("<tr><td>{}</td><td>{}</td>", bucket_name(first[b], none),
                                    first[b].tokens));
      }
      chart.x.low = -0.6;
      chart.x.high = static_cast<double>(first.size()) - 0.4;
      for (const Cell* cell : here) {
        table += "<th>" + html_text(cell->score) + "</th>";
        Curve curve{cells.stroke(cell->score), {}};
        const std::vector<Bucket> buckets = cell->buckets(sweep, by);
        for (std::size_t b = 0; b < buckets.size(); ++b) {
          curve.points.push_back({static_cast<double>(b), buckets[b].log_ratio});
          if (b < lines.size()) {
            lines[b] +=
                "<td>" +
                html_number(buckets[b].log_ratio, fmt::format("{:.4f}", buckets[b].log_ratio)) +
                "</td>";
          }
        }
        chart.curves.push_back(std::move(curve));
      }
      table += "</tr>\n";
      for (const std::string& line : lines) table += line + "</tr>\n";
      figures +=
          figure(draw(chart, fmt::format("{}{}", id, number++)),
                 "<b>keep " + html_text(label) + "</b>" + html_text(cells.setting(full_row)) +
                     ". Below: tokens in each bucket.\n<details><summary>Numbers</summary><div "
                     "class=\"scroll\"><table>\n" +
                     table + "</table></div></details>");
    }
  }
  return legend(cells) + grid(figures);
}

}  // namespace

std::string bucket_sections(const PageContext& context) {
  const Cells cells(context.report.sweep);
  return section("since-cut", "Loss against the distance since the cut",
                 "Mean of nll minus uncompressed nll over scored tokens, by how many tokens had "
                 "entered since the last cut; a bucket goes from its number to below the next.",
                 bucket_figures(context, cells, By::since_cut, "since", "tokens since the last cut",
                                "no cut yet")) +
         section("cuts", "Loss against the number of cuts",
                 "The same by how many cuts there had been. Buckets double; later ones also lie "
                 "further on in the text.",
                 bucket_figures(context, cells, By::cuts, "cuts", "cuts so far", "no cut yet"));
}

}  // namespace neoxref::tools
