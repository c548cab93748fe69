// SPDX-License-Identifier: Apache-2.0
#include "tools/compare_pictures.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "tools/html.hpp"

namespace neoxref::tools {
namespace {

using eval::CompareReport;
using eval::TensorReport;

/// Columns of a map: more tokens share one, of which the largest value counts.
constexpr std::size_t most_columns = 256;
constexpr std::size_t classes = 7;

/// What a map shows of a tensor, and where its classes begin.
struct Scale {
  std::array<double, classes - 1> limits;  ///< class i is below limits[i]
  std::array<const char*, classes> names;
  std::function<const std::vector<double>*(const TensorReport&)> values;
};

std::size_t class_of(double value, const Scale& scale) {
  std::size_t c = 0;
  while (c < scale.limits.size() && !(value < scale.limits[c])) ++c;
  return c;
}

/// The part of a name that a reader needs beside the layer's number.
std::string short_name(const TensorReport& tensor) {
  std::string name = tensor.label();
  if (name.starts_with("gpt_neox.")) name = name.substr(9);
  if (name.starts_with("layers.")) name = name.substr(7);
  const bool is_output = tensor.id && tensor.id->tensor == engine::Tensor::layer_output;
  return is_output ? name + " (output)" : name;
}

std::string map_row(const TensorReport& tensor, const Scale& scale, std::size_t tokens, double top,
                    double height, double left, double width) {
  const std::vector<double>* const values = scale.values(tensor);
  std::string row;
  const std::size_t columns = std::min(tokens, most_columns);
  const double step = width / static_cast<double>(columns);
  constexpr std::size_t none = classes;
  std::vector<std::size_t> shown(columns, none);
  for (std::size_t i = 0; values != nullptr && i < values->size(); ++i) {
    const std::size_t token = tensor.first_token + i;
    if (token >= tokens) break;
    std::size_t& here = shown[token * columns / tokens];
    const std::size_t c = class_of((*values)[i], scale);
    here = here == none ? c : std::max(here, c);
  }
  for (std::size_t i = 0; i < columns;) {
    std::size_t end = i + 1;
    while (end < columns && shown[end] == shown[i]) ++end;
    const std::size_t first = (i * tokens + columns - 1) / columns;
    const std::size_t last = (end * tokens + columns - 1) / columns - 1;
    row += fmt::format(
        "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" "
        "height=\"{:.1f}\"><title>{}, "
        "token {}{}: {}</title></rect>",
        shown[i] == none ? "n" : fmt::format("m{}", shown[i]), left + step * static_cast<double>(i),
        top, step * static_cast<double>(end - i), height, html_text(tensor.label()), first,
        last > first ? fmt::format(" to {}", last) : "",
        shown[i] == none ? "nothing measured" : scale.names[shown[i]]);
    i = end;
  }
  return row + "\n";
}

std::string map_picture(const CompareReport& report, const Scale& scale) {
  const std::size_t tokens = std::max<std::size_t>(report.alignment.count, 1);
  constexpr double left = 215, width = 760, height = 11;
  double top = 4;
  std::string rows;
  std::optional<std::size_t> layer;
  for (const TensorReport& tensor : report.tensors) {
    const bool per_layer = tensor.id && engine::exists_per_layer(tensor.id->tensor);
    const std::optional<std::size_t> here =
        per_layer ? std::optional(tensor.id->layer) : std::nullopt;
    if (here != layer) top += 4;
    layer = here;
    rows += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\"{}>{}</text>", left - 6,
                        top + height - 2.5, tensor.fails ? " class=\"over\"" : "",
                        html_text(short_name(tensor)));
    rows += map_row(tensor, scale, tokens, top, height - 1, left, width);
    top += height;
  }
  std::string axis;
  for (std::size_t i = 0; i <= 4; ++i) {
    const std::size_t token = (tokens - 1) * i / 4;
    if (i > 0 && token == (tokens - 1) * (i - 1) / 4) continue;
    const double x =
        left + width * (static_cast<double>(token) + 0.5) / static_cast<double>(tokens);
    axis += fmt::format(
        "<text class=\"soft\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>", x,
        top + 12, token);
  }
  return fmt::format("<svg class=\"map\" viewBox=\"0 0 {} {:.0f}\" role=\"img\">\n{}{}</svg>\n",
                     left + width + 15, top + 18, rows, axis);
}

std::string legend(const Scale& scale) {
  std::string body = "<div class=\"legend\">";
  for (std::size_t i = 0; i <= classes; ++i) {
    body += fmt::format(
        "<span><svg viewBox=\"0 0 10 10\"><rect class=\"{}\" width=\"10\" "
        "height=\"10\"/></svg>{}</span>",
        i == classes ? std::string("n") : fmt::format("m{}", i),
        i == classes ? "nothing measured" : html_text(scale.names[i]));
  }
  return body + "</div>\n";
}

/// Bars of one histogram: the share of elements in each class of distances.
std::string histogram(const std::array<std::uint64_t, eval::ulp_classes>& counts) {
  std::uint64_t total = 0;
  std::size_t last = 4;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    total += counts[i];
    if (counts[i] > 0) last = std::max(last, i);
  }
  constexpr double width = 300, height = 80;
  const double step = width / static_cast<double>(eval::ulp_classes);
  std::string bars;
  for (std::size_t i = 0; i < counts.size() && total > 0; ++i) {
    if (counts[i] == 0) continue;
    const double share = static_cast<double>(counts[i]) / static_cast<double>(total);
    const double high = std::max(1.0, share * height);
    const std::string what = i == 0   ? "equal"
                             : i == 1 ? "1"
                                      : fmt::format("{} to {}", std::uint64_t{1} << (i - 1),
                                                    (std::uint64_t{1} << i) - 1);
    bars += fmt::format(
        "<rect class=\"bar\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" "
        "height=\"{:.1f}\"><title>{}: {:.4g} %</title></rect>",
        static_cast<double>(i) * step, height + 4 - high, step - 1, high, what, 100 * share);
  }
  for (const std::size_t i :
       {std::size_t{0}, std::size_t{1}, std::size_t{5}, std::size_t{9}, std::size_t{13},
        std::size_t{17}, std::size_t{21}, std::size_t{25}, std::size_t{29}}) {
    const std::string text = i == 0 ? "0" : i == 1 ? "1" : fmt::format("2^{}", i - 1);
    bars +=
        fmt::format("<text class=\"soft\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                    (static_cast<double>(i) + 0.5) * step, height + 15, text);
  }
  return fmt::format("<svg viewBox=\"-4 0 {} {}\" role=\"img\">{}</svg>", width + 8, height + 18,
                     bars);
}

}  // namespace

std::string maps_section(const CompareReport& report) {
  const Scale own{{0.1, 0.5, 1.0, 10.0, 1000.0, 1e6},
                  {"below 0.1", "0.1 to 0.5", "0.5 to 1", "1 to 10", "10 to 1000", "1000 to 10^6",
                   "10^6 and more"},
                  [](const TensorReport& tensor) {
                    return tensor.unit ? &tensor.unit->ratio_of_tokens : nullptr;
                  }};
  std::map<const TensorReport*, std::vector<double>> relative;
  for (const TensorReport& tensor : report.tensors) {
    std::vector<double>& values = relative[&tensor];
    for (std::size_t i = 0; i < tensor.figures.rms_of_tokens.size(); ++i) {
      const double error = tensor.figures.rms_of_tokens[i];
      values.push_back(error == 0.0 ? 0.0 : error / tensor.figures.reference_rms_of_tokens[i]);
    }
  }
  const Scale whole{{1e-7, 1e-6, 1e-5, 1e-3, 1e-2, 1e-1},
                    {"below 10^-7", "10^-7 to 10^-6", "10^-6 to 10^-5", "10^-5 to 10^-3",
                     "10^-3 to 0.01", "0.01 to 0.1", "0.1 and more"},
                    [&](const TensorReport& tensor) { return &relative[&tensor]; }};
  std::string body = "<section id=\"maps\">\n<h2>Where</h2>\n";
  body +=
      "<figure><h3>Own error over its bound</h3>" + legend(own) + map_picture(report, own) +
      "<figcaption>What each step adds by itself: the other backend's output against binary64 on "
      "the other backend's input, the worst channel of each token. Rows in the order of "
      "execution, columns are tokens; above 1 no rounding of the profile can do it.</figcaption>"
      "</figure>\n";
  body +=
      "<figure><h3>Difference from the reference</h3>" + legend(whole) +
      map_picture(report, whole) +
      "<figcaption>RMS of the difference over RMS of the reference, token by token: what was made "
      "before comes along.</figcaption></figure>\n";
  return body + "</section>\n";
}

std::string histograms_section(const CompareReport& report) {
  // One picture for each kind of tensor, all layers together, in the order of execution.
  std::vector<std::pair<std::string, std::array<std::uint64_t, eval::ulp_classes>>> kinds;
  for (const TensorReport& tensor : report.tensors) {
    std::string kind = tensor.label();
    if (tensor.id && engine::exists_per_layer(tensor.id->tensor)) {
      const std::size_t at = std::string("gpt_neox.layers.").size();
      kind.replace(at, std::to_string(tensor.id->layer).size(), "*");
    }
    auto found = std::find_if(kinds.begin(), kinds.end(),
                              [&](const auto& each) { return each.first == kind; });
    if (found == kinds.end()) found = kinds.insert(kinds.end(), {kind, {}});
    for (std::size_t i = 0; i < eval::ulp_classes; ++i) {
      found->second[i] += tensor.figures.ulps[i];
    }
  }
  std::string body;
  for (const auto& [kind, counts] : kinds) {
    body += "<figure>" + histogram(counts) + "<figcaption>" + html_text(kind) +
            "</figcaption></figure>\n";
  }
  return "<section id=\"ulps\">\n<h2>Distances in units in the last place</h2>\n<p "
         "class=\"note\">Steps "
         "of binary32 between the two values; share of all elements.</p>\n<div class=\"grid\">\n" +
         body + "</div>\n</section>\n";
}

std::string kl_picture(const eval::LogitFigures& logits) {
  constexpr double width = 960, height = 140, left = 44, least = -16.0;
  double most = -6.0;
  for (const double kl : logits.kl_of_tokens) {
    if (std::isfinite(kl) && kl > 0.0) most = std::max(most, std::ceil(std::log10(kl)));
  }
  const double count = static_cast<double>(std::max<std::size_t>(logits.tokens, 1));
  const auto x = [&](std::size_t i) {
    return left + width * (static_cast<double>(i) + 0.5) / count;
  };
  const auto y = [&](double kl) {
    const double exponent = kl > 0.0 ? std::clamp(std::log10(kl), least, most) : least;
    return 6 + height * (most - exponent) / (most - least);
  };
  std::string body;
  for (double exponent = least; exponent <= most; exponent += 4) {
    const double at = y(std::pow(10.0, exponent));
    body += fmt::format(
        "<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"var(--rule)\"/>"
        "<text class=\"soft\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">10^{:.0f}</text>",
        left, left + width, at, at, left - 4, at + 3, exponent);
  }
  for (std::size_t i = 0; i < logits.kl_of_tokens.size(); ++i) {
    body += fmt::format("<circle class=\"bar\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"1.6\"/>", x(i),
                        y(logits.kl_of_tokens[i]));
  }
  for (const eval::Flip& flip : logits.flips) {
    const std::size_t i = flip.token - logits.first_token;
    body += fmt::format(
        "<text class=\"over\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">&#215;"
        "<title>after token {}: {} instead of {}</title></text>",
        x(i), y(logits.kl_of_tokens[i]) + 3, flip.token, flip.other_id, flip.reference_id);
  }
  return fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\">{}</svg>", left + width + 8,
                     height + 14, body);
}

}  // namespace neoxref::tools
