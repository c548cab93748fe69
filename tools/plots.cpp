// SPDX-License-Identifier: Apache-2.0
#include "tools/plots.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#include "engine/error.hpp"
#include "tools/html.hpp"

extern char** environ;

namespace neoxref::tools {
namespace {

constexpr const char* where = "gnuplot";

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

/// A file without a name. Plain files instead of pipes: nobody waits for anybody.
File temporary_file() {
  File file(std::tmpfile());
  if (!file) throw engine::Error(where, "no temporary file", "", std::strerror(errno));
  fcntl(fileno(file.get()), F_SETFD, FD_CLOEXEC);
  return file;
}

std::string contents(std::FILE* file) {
  std::rewind(file);
  std::string text;
  char piece[65536];
  while (const std::size_t count = std::fread(piece, 1, sizeof piece, file)) {
    text.append(piece, count);
  }
  if (std::ferror(file) != 0) {
    throw engine::Error(where, "its output cannot be read", "", std::strerror(errno));
  }
  return text;
}

/// The complaint among what gnuplot says: it repeats the line and points at it first.
std::string complaint(const std::string& text) {
  std::string last;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    if (line.find_first_not_of(" \t^") != std::string::npos) last = line;
    begin = end + 1;
  }
  return last.empty() ? "nothing said" : last;
}

/// Colours that stand for a variable of the page: gnuplot passes them on as rgb(RED,GREEN,BLUE).
std::string colour_of(std::size_t number) {
  return fmt::format("rgb '#0100{:02x}'", number);
}
constexpr const char* ink = "rgb '#020000'";
constexpr const char* rule = "rgb '#020001'";

std::string variable_of(int red, int green, int blue) {
  if (red == 1 && green == 0) return fmt::format("var(--c{})", blue);
  if (red == 2 && green == 0) return blue == 0 ? "var(--ink)" : "var(--rule)";
  return fmt::format("rgb({},{},{})", red, green, blue);
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  std::size_t at = 0;
  while ((at = text.find(from, at)) != std::string::npos) {
    text.replace(at, from.size(), to);
    at += to.size();
  }
  return text;
}

std::string with_variables(const std::string& svg) {
  std::string result;
  std::size_t begin = 0;
  for (;;) {
    const std::size_t at = svg.find("rgb(", begin);
    if (at == std::string::npos) return result + svg.substr(begin);
    result += svg.substr(begin, at - begin);
    const char* next = svg.data() + at + 4;
    const char* const end = svg.data() + svg.size();
    int channels[3] = {};
    for (int& channel : channels) {
      while (next != end && (*next == ' ' || *next == ',')) ++next;
      next = std::from_chars(next, end, channel).ptr;
    }
    result += variable_of(channels[0], channels[1], channels[2]);
    begin = static_cast<std::size_t>(next - svg.data()) + 1;
  }
}

/// Takes gnuplot's file apart: what is left is the element for a page.
std::string embedded(const std::string& svg, const std::string& id, const std::string& description,
                     const std::string& more) {
  const std::size_t root = svg.find("<svg");
  const std::size_t view = svg.find("viewBox=", root);
  const std::size_t body = svg.find("<g id=\"gnuplot_canvas\">", root);
  if (root == std::string::npos || view == std::string::npos || body == std::string::npos) {
    throw engine::Error(where, "what it drew is no SVG", "<svg viewBox=", svg.substr(0, 40));
  }
  const std::string box = svg.substr(view, svg.find('\n', view) - view);
  std::string drawing = with_variables(svg.substr(body));
  // Groups have names that repeat; nothing refers to them. Shapes are referred to.
  drawing = replaced(std::move(drawing), " id=\"gnuplot_", " class=\"gnuplot_");
  // Points stand free of their error bars: gnuplot paints paper around them.
  drawing = replaced(std::move(drawing), "color='white'", "color='var(--card)'");
  drawing = replaced(std::move(drawing), "color=\"white\"", "color=\"var(--card)\"");
  drawing = replaced(std::move(drawing), "id='", "id='" + id + "-");
  drawing = replaced(std::move(drawing), "xlink:href='#", "href='#" + id + "-");
  drawing = replaced(std::move(drawing), "url(#", "url(#" + id + "-");
  return fmt::format("<svg {} role=\"img\" aria-label=\"{}\"{}>\n{}", box, html_text(description),
                     more, drawing);
}

std::string prologue(int width, int height) {
  return fmt::format(
      "set encoding utf8\n"
      "set terminal svg size {},{} dynamic noenhanced font 'sans-serif,13' rounded\n"
      "set border 3 linecolor {} linewidth 0.8\n"
      "set grid linecolor {} linewidth 0.8 dashtype 1\n"
      "set tics nomirror textcolor {} scale 0.5\n"
      "unset key\n",
      width, height, ink, rule, ink);
}

std::string number(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : "*";
}

/// 1, 2, 5 of every decade, finer where there is less than one.
std::vector<Tic> logarithmic_tics(double low, double high) {
  const std::vector<double> coarse = {1, 2, 5};
  const std::vector<double> fine = {1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8};
  std::vector<Tic> tics;
  for (double decade = std::pow(10.0, std::floor(std::log10(low))); decade <= high; decade *= 10) {
    for (const double step : high < 10 * low ? fine : coarse) {
      const double at = step * decade;
      if (at >= low && at <= high) tics.push_back({at, fmt::format("{:.6g}", at)});
    }
  }
  return tics;
}

std::string axis_script(const Axis& axis, const char* name) {
  std::string script =
      fmt::format("set {0}label {1} offset {5} textcolor {2}\nset {0}range [{3}:{4}]\n", name,
                  gnuplot_text(axis.label), ink, number(axis.low), number(axis.high),
                  *name == 'x' ? "0,0.4" : "-0.5,0");
  if (axis.logarithmic) script += fmt::format("set logscale {}\n", name);
  const bool own = axis.tics.empty() && axis.logarithmic && axis.low > 0.0;
  const std::vector<Tic> tics = own ? logarithmic_tics(axis.low, axis.high) : axis.tics;
  for (std::size_t i = 0; i < tics.size(); ++i) {
    script += (i == 0 ? fmt::format("set {}tics (", name) : std::string(", ")) +
              gnuplot_text(tics[i].text) + " " + number(tics[i].at);
  }
  return script + (tics.empty() ? fmt::format("set {}tics autofreq\n", name) : ")\n");
}

/// gnuplot's point types in the order of point_glyphs.
int point_type(std::size_t point) {
  static constexpr int types[] = {0, 7, 5, 9, 13, 11, 6, 4, 8, 12, 10};
  return types[point % std::size(types)];
}

std::string data_of(std::string_view name, const std::vector<Point>& points) {
  std::string block = fmt::format("${} << END\n", name);
  for (const Point& point : points) {
    block += fmt::format("{} {} {} {}\n", point.x, point.y, point.low, point.high);
  }
  return block + "END\n";
}

}  // namespace

std::string run_gnuplot(const std::string& script) {
  const File in = temporary_file();
  const File out = temporary_file();
  const File err = temporary_file();
  const bool written = std::fwrite(script.data(), 1, script.size(), in.get()) == script.size();
  if (!written || std::fflush(in.get()) != 0) {
    throw engine::Error(where, "its script cannot be written", "", std::strerror(errno));
  }
  std::rewind(in.get());
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fileno(in.get()), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fileno(out.get()), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fileno(err.get()), STDERR_FILENO);
  char program[] = "gnuplot";
  char defaults[] = "-d";
  char standard_input[] = "-";
  char* arguments[] = {program, defaults, standard_input, nullptr};
  pid_t child = 0;
  const int error = posix_spawnp(&child, program, &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error == ENOENT) {
    throw engine::Error(where, "is not installed, and it draws the pictures of a page",
                        "the package gnuplot-nox (apt-get install gnuplot-nox)",
                        "no such program on the PATH");
  }
  if (error != 0) throw engine::Error(where, "cannot be started", "", std::strerror(error));
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) throw engine::Error(where, "is lost", "", std::strerror(errno));
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw engine::Error(where, "failed", "", complaint(contents(err.get())));
  }
  return contents(out.get());
}

std::string gnuplot_version() {
  const std::string version = run_gnuplot(
      "set terminal svg\nset print '-'\n"
      "print sprintf('gnuplot %g patchlevel %s', GPVAL_VERSION, GPVAL_PATCHLEVEL)\n");
  return version.substr(0, version.find('\n'));
}

std::string gnuplot_text(std::string_view text) {
  std::string result = "'";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    result += byte < 0x20 || byte == 0x7f ? ' ' : c;
    if (c == '\'') result += c;
  }
  return result + "'";
}

std::string draw(const Chart& chart, const std::string& id) {
  const bool bars = !chart.bars.empty();
  std::string script = prologue(440, bars ? 390 : 320);
  std::string plots;
  for (std::size_t i = 0; i < chart.curves.size(); ++i) {
    const Curve& curve = chart.curves[i];
    script += data_of("curve" + std::to_string(i), curve.points);
    const std::string look =
        fmt::format("linecolor {} linewidth 1.6 ", colour_of(curve.stroke.colour));
    const bool spread = std::any_of(curve.points.begin(), curve.points.end(),
                                    [](const Point& point) { return std::isfinite(point.low); });
    if (spread) {
      plots += fmt::format(", $curve{} using 1:2:3:4 with yerrorbars {} pointtype 0", i, look);
    }
    plots +=
        fmt::format(", $curve{} using 1:2 with lines {} dashtype {}", i, look, curve.stroke.dash);
    if (curve.stroke.point > 0) {
      plots += fmt::format(", $curve{} using 1:2 with points {} pointtype {} pointsize 0.7", i,
                           look, point_type(curve.stroke.point));
    }
  }
  if (bars) script += data_of("bars", chart.bars);
  script += axis_script(chart.x, "x") + axis_script(chart.y, "y") + "set bars 0.6\n";
  script += "set lmargin at screen 0.165\nset rmargin at screen 0.965\n";
  if (std::isfinite(chart.level)) {
    script += fmt::format(
        "set arrow from graph 0, first {0} to graph 1, first {0} nohead back linecolor {1} "
        "linewidth 1 dashtype 2\n",
        chart.level, ink);
  }
  const bool free = !std::isfinite(chart.y.low) && !chart.y.logarithmic;
  if (free) script += "set offsets 0, 0, graph 0.05, graph 0.05\n";
  if (bars) {
    script += "set multiplot\nset tmargin at screen 0.97\nset bmargin at screen 0.43\n";
    script += "unset xlabel\nset format x ''\n";
    if (!chart.x.tics.empty()) {
      Axis unnamed = chart.x;
      for (Tic& tic : unnamed.tics) tic.text.clear();
      unnamed.label.clear();
      script += axis_script(unnamed, "x");
    }
  } else {
    script += "set tmargin at screen 0.97\nset bmargin at screen 0.165\n";
  }
  script += "plot " + plots.substr(2) + "\n";
  if (bars) {
    script += "set tmargin at screen 0.37\nset bmargin at screen 0.135\nunset arrow\nset offsets\n";
    script += "unset logscale y\nset format x '%g'\n" + axis_script(chart.x, "x");
    double most = 1.0;
    for (const Point& bar : chart.bars) most = std::max(most, bar.y);
    Axis counts{chart.bars_label, false, 0.0, most * 1.1};
    const double decade = std::pow(10.0, std::floor(std::log10(most)));
    const double step = most < 2 * decade ? decade / 2 : most < 5 * decade ? decade : 2 * decade;
    for (double at = 0.0; at <= most; at += step)
      counts.tics.push_back({at, fmt::format("{}", at)});
    script += axis_script(counts, "y");
    script += fmt::format(
        "set boxwidth 0.7\nset style fill solid 0.6 noborder\n"
        "plot $bars using 1:2 with boxes linecolor {}\nunset multiplot\n",
        colour_of(8));
  }
  return embedded(run_gnuplot(script), id, chart.description, "");
}

std::string draw(const HeatMap& map, const std::string& id) {
  // Rows as high as a finger where there are few, never lower than a line.
  const int row = std::clamp(160 / static_cast<int>(map.rows), 10, 22);
  const int height = 66 + row * static_cast<int>(map.rows);
  std::string script = prologue(440, height);
  script += "$cells << END\n";
  for (std::size_t r = 0; r < map.rows; ++r) {
    for (std::size_t c = 0; c < map.columns;) {
      const double value = map.values[r * map.columns + c];
      std::size_t next = c + 1;
      while (next < map.columns && map.values[r * map.columns + next] == value) ++next;
      if (std::isfinite(value)) {
        const double shift = map.centred ? -0.5 : 0.0;
        const double left = (static_cast<double>(c) + shift) * map.column_width;
        const double right = (static_cast<double>(next) + shift) * map.column_width;
        const auto y = static_cast<double>(r);
        script += fmt::format("{} {} {} {} {} {} {}\n", (left + right) / 2, y, left, right, y - 0.5,
                              y + 0.5, value);
      }
      c = next;
    }
  }
  script += "END\nset palette defined (";
  for (std::size_t i = 0; i < std::size(heat_colours); ++i) {
    script += fmt::format("{}{} '{}'", i == 0 ? "" : ", ", i, heat_colours[i]);
  }
  const double shift = map.centred ? -0.5 : 0.0;
  const auto columns = static_cast<double>(map.columns);
  script += fmt::format(")\nset cbrange [{}:{}]\nunset colorbox\nunset grid\n", map.low,
                        map.high > map.low ? map.high : map.low + 1.0);
  script += axis_script(
      {map.x_label, false, shift * map.column_width, (columns + shift) * map.column_width}, "x");
  Axis y{map.y_label, false, static_cast<double>(map.rows) - 0.5, -0.5};
  const std::size_t step = map.rows > 16 ? 4 : map.rows > 8 ? 2 : 1;
  for (std::size_t r = 0; r < map.rows; r += step) {
    y.tics.push_back({static_cast<double>(r), std::to_string(r)});
  }
  script += axis_script(y, "y");
  script += fmt::format(
      "set tics out\nset lmargin at screen 0.13\nset rmargin at screen 0.965\n"
      "set tmargin at screen {}\nset bmargin at screen {}\n",
      1.0 - 8.0 / height, 58.0 / height);
  script +=
      "plot $cells using 1:2:3:4:5:6:7 with boxxyerror linecolor palette fillstyle solid "
      "noborder\n";
  return embedded(run_gnuplot(script), id, map.description, " class=\"heat\"");
}

}  // namespace neoxref::tools
