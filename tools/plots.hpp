// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace neoxref::tools {

/// "gnuplot 5.4 patchlevel 4". Errors: Error naming the package where gnuplot is missing, or what it
/// said where it cannot draw SVG.
std::string gnuplot_version();

/// Runs gnuplot, without a shell and without anybody's start-up files, on a script; what it wrote to
/// standard output. Errors: Error with the first line that gnuplot complained of.
std::string run_gnuplot(const std::string& script);

/// A string of a gnuplot script: between single quotes, those inside doubled, control characters as
/// blanks.
std::string gnuplot_text(std::string_view text);

/// How a line is told from others: the same numbers give the classes of a legend in the page.
struct Stroke {
  std::size_t colour = 0;  ///< CSS variable --cN, N from 0 to colours - 1
  std::size_t point = 0;   ///< index in point_glyphs; the first is no point
  std::size_t dash = 1;    ///< gnuplot dash type, 1: solid
};
/// 0 to 7 for what is studied, 8 to 11 for what it is compared with.
inline constexpr std::size_t colours = 12;
inline constexpr std::string_view point_glyphs[] = {"",  "●", "■", "▲", "◆", "▼",
                                                    "○", "□", "△", "◇", "▽"};

struct Point {
  double x;
  double y;
  double low = std::numeric_limits<double>::quiet_NaN();  ///< ends of an error bar; NaN: none
  double high = std::numeric_limits<double>::quiet_NaN();
};

struct Curve {
  Stroke stroke{};
  std::vector<Point> points{};
};

struct Tic {
  double at;
  std::string text;
};

struct Axis {
  std::string label{};
  bool logarithmic = false;
  double low = std::numeric_limits<double>::quiet_NaN();  ///< NaN: as the data are
  double high = std::numeric_limits<double>::quiet_NaN();
  std::vector<Tic> tics{};  ///< empty: as gnuplot likes
};

/// Curves over one pair of axes, and if there are bars, these below on the same x.
struct Chart {
  std::string description{};  ///< for those who do not see it
  Axis x{};
  Axis y{};
  std::vector<Curve> curves{};
  double level = std::numeric_limits<double>::quiet_NaN();  ///< a thin line across; NaN: none
  std::vector<Point> bars{};
  std::string bars_label{};
};

/// A rectangle of values, [rows][columns], NaN where there is none; row 0 at the top.
struct HeatMap {
  std::string description;
  std::string x_label;
  std::string y_label;
  std::size_t rows;
  std::size_t columns;
  double column_width;  ///< on the x axis, which begins at 0
  bool centred;         ///< a column's number stands in its middle (else at its left edge)
  std::vector<double> values{};
  double low = 0.0;  ///< values of the ends of the colours
  double high = 1.0;
};

/// An <svg> element to put into a page: colours are variables of its style sheet, ids begin with
/// `id`, nothing is loaded from elsewhere. Errors: as run_gnuplot().
std::string draw(const Chart& chart, const std::string& id);
std::string draw(const HeatMap& map, const std::string& id);

/// The colours of heat maps, from low to high: readable without colour vision and in grey
/// (cividis: Nunez, Anderton, Renslow 2018).
inline constexpr std::string_view heat_colours[] = {"#00224e", "#35456c", "#666970",
                                                    "#948e77", "#c8b866", "#fee838"};

}  // namespace neoxref::tools
