// SPDX-License-Identifier: Apache-2.0
#include "tools/eval_cells.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "tools/html.hpp"

namespace neoxref::tools {
namespace {

/// Distinct values in the order of their first appearance.
template <class Value, class Get>
std::vector<Value> distinct(const std::vector<Cell>& cells, Get get) {
  std::vector<Value> values;
  for (const Cell& cell : cells) {
    const Value value = get(cell);
    if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
  return values;
}

}  // namespace

Cells::Cells(const eval::Sweep& sweep) : sweep_(sweep), all_(cells_of(sweep)) {
  // Controls stand behind what is studied, in every legend alike.
  std::stable_partition(all_.begin(), all_.end(), [](const Cell& cell) { return !cell.control; });
  scores_ = distinct<std::string>(all_, [](const Cell& cell) { return cell.score; });
  labels_ = distinct<std::string>(all_, [](const Cell& cell) { return cell.label; });
  full_rows_ = distinct<std::size_t>(all_, [](const Cell& cell) { return cell.full_row; });
  std::sort(full_rows_.begin(), full_rows_.end());
  std::size_t studied = 0;
  std::size_t controls = 0;
  for (const std::string& score : scores_) {
    const auto cell = std::find_if(all_.begin(), all_.end(),
                                   [&](const Cell& each) { return each.score == score; });
    std::size_t& number = cell->control ? controls : studied;
    const std::size_t first = cell->control ? 8 : 0;
    const std::size_t own = cell->control ? 4 : 8;
    const std::size_t points = std::size(point_glyphs) - 1;
    strokes_.push_back({first + number % own, 1 + (number + (cell->control ? 5 : 0)) % points,
                        cell->control ? 2 + number % 3 : 1 + number / own});
    ++number;
  }
}

const Stroke& Cells::stroke(const std::string& score) const {
  const auto place = std::find(scores_.begin(), scores_.end(), score) - scores_.begin();
  return strokes_[static_cast<std::size_t>(place)];
}

std::vector<const Cell*> Cells::of(std::size_t full_row, const std::string& label) const {
  std::vector<const Cell*> found;
  for (const Cell& cell : all_) {
    if (cell.full_row == full_row && (label.empty() || cell.label == label)) found.push_back(&cell);
  }
  return found;
}

std::string Cells::setting(std::size_t full_row) const {
  if (full_rows_.size() < 2) return {};
  return fmt::format(", prune_after {}", sweep_.rows[full_row].arm.press.prune_after);
}

std::string legend_item(const Stroke& stroke, const std::string& name) {
  return fmt::format("<li><span class=\"swatch d{}\" style=\"color:var(--c{})\">{}</span> {}</li>",
                     stroke.dash, stroke.colour, point_glyphs[stroke.point], html_text(name));
}

std::string legend(const std::string& items) {
  return "<ul class=\"legend\">" + items + "</ul>\n";
}

std::string legend(const Cells& cells) {
  std::string items;
  for (const std::string& score : cells.scores()) items += legend_item(cells.stroke(score), score);
  return legend(items);
}

std::string figure(const std::string& svg, const std::string& caption) {
  return "<figure>\n" + svg + "<figcaption>" + caption + "</figcaption>\n</figure>\n";
}

std::string section(const std::string& id, const std::string& title, const std::string& text,
                    const std::string& body) {
  return fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n<p>{}</p>\n{}</section>\n", id,
                     html_text(title), text, body);
}

std::string grid(const std::string& figures, bool maps) {
  return std::string(maps ? "<div class=\"grid maps\">\n" : "<div class=\"grid\">\n") + figures +
         "</div>\n";
}

std::string heat_legend(const std::string& low, const std::string& high) {
  std::string stops;
  for (const std::string_view colour : heat_colours) stops += fmt::format(", {}", colour);
  return fmt::format(
      "<p class=\"heatscale\">{} <span class=\"gradient\" style=\"background:linear-gradient(90deg"
      "{})\"></span> {}</p>\n",
      html_text(low), stops, html_text(high));
}

}  // namespace neoxref::tools
