// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "tools/compare_pictures.hpp"
#include "tools/compare_report.hpp"
#include "tools/html.hpp"

namespace neoxref::tools {
namespace {

using eval::CompareReport;
using eval::TensorReport;

constexpr const char* style = R"(
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c1f24; --soft: #5b626d; --rule: #dfe2e7;
  --card: #f7f8fa; --good: #007d5c; --bad: #b3261e; --link: #0072b2; --none: #e9ebef;
  --m0: #d9ecd9; --m1: #f6efc4; --m2: #f7d08a; --m3: #ee9b5a; --m4: #d1603d; --m5: #a3243b; --m6: #5c0f3c; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e8eb;
  --soft: #a0a7b1; --rule: #343a43; --card: #1b1f25; --good: #2ecc9a; --bad: #ff8a80; --link: #56aee8;
  --none: #23282f; --m0: #1f4d3a; --m1: #5d5b1f; --m2: #8a6a1c; --m3: #b06a24; --m4: #cf5a35;
  --m5: #e2476b; --m6: #ff8fd0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(0.75rem, 3vw, 2rem) 3rem; max-width: 80rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; overflow-wrap: anywhere; }
h1.good { color: var(--good); } h1.bad { color: var(--bad); }
h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; padding-top: 0.75rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.25rem 0 0.25rem; }
p, li { max-width: 60rem; overflow-wrap: anywhere; }
nav a { margin-right: 1rem; color: var(--link); }
code { font-family: ui-monospace, monospace; font-size: 0.85em; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.2rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th:first-child, td.text { text-align: left; }
thead th { color: var(--soft); } tbody th { font-weight: 500; }
tr.bad th, tr.bad td.verdict { color: var(--bad); font-weight: 600; }
figure { margin: 0.5rem 0; padding: 0.5rem; background: var(--card); border-radius: 0.4rem; }
figcaption, .note { font-size: 0.85rem; color: var(--soft); }
svg { display: block; width: 100%; height: auto; font: 9px system-ui, sans-serif; fill: var(--ink); }
svg.map rect { shape-rendering: crispEdges; }
svg .soft { fill: var(--soft); } svg .bar { fill: var(--link); } svg .over { fill: var(--bad); }
.n { fill: var(--none); } .m0 { fill: var(--m0); } .m1 { fill: var(--m1); } .m2 { fill: var(--m2); }
.m3 { fill: var(--m3); } .m4 { fill: var(--m4); } .m5 { fill: var(--m5); } .m6 { fill: var(--m6); }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; font-size: 0.85rem; margin: 0.4rem 0; }
.legend svg { display: inline-block; width: 1em; height: 1em; vertical-align: -0.15em; margin-right: 0.3em; }
.grid { display: grid; gap: 0.75rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; } }
)";

std::string entry(const std::string& name, const std::string& inside) {
  return "<dt>" + name + "</dt><dd>" + inside + "</dd>\n";
}

std::string cell(double value, const char* format) {
  return "<td>" +
         (std::isfinite(value) ? html_number(value, fmt::format(fmt::runtime(format), value))
                               : std::string("&infin;")) +
         "</td>";
}

std::string tensor_row(const TensorReport& tensor) {
  const eval::ErrorFigures& f = tensor.figures;
  std::string row = tensor.fails ? "<tr class=\"bad\">" : "<tr>";
  row += "<th scope=\"row\">" + html_text(tensor.label()) + "</th><td class=\"verdict\">" +
         (tensor.fails ? "fails" : "ok") + "</td>";
  row += cell(tensor.verdict.ratio, "{:.3g}");
  row +=
      "<td class=\"text\">" + std::string(eval::yardstick_name(tensor.verdict.yardstick)) + "</td>";
  row += cell(f.max_abs, "{:.2e}") + fmt::format("<td>{}, {}</td>", f.max_token, f.max_channel);
  row += cell(f.relative_rms(), "{:.2e}") + cell(f.cosine, "{:.8f}");
  if (tensor.unit) {
    row += cell(tensor.unit->rms_own, "{:.2e}") + cell(tensor.unit->rms_inherited, "{:.2e}");
  } else {
    row += "<td>-</td><td>-</td>";
  }
  row += "<td class=\"text\">" + html_text(tensor.type) + "</td><td class=\"text\">" +
         html_name(tensor.other_name) + "</td></tr>\n";
  return row;
}

std::string tensors_section(const CompareReport& report) {
  std::string rows;
  for (const TensorReport& tensor : report.tensors) rows += tensor_row(tensor);
  return "<section id=\"tensors\">\n<h2>Tensors</h2>\n<div class=\"scroll\"><table><thead><tr>"
         "<th>tensor</th><th>verdict</th><th>ratio</th><th>to</th><th>max abs</th><th>token, "
         "channel</th><th>relative RMS</th><th>cosine</th><th>own RMS</th><th>inherited RMS</th>"
         "<th>dtype</th><th>name there</th></tr></thead>\n<tbody>\n" +
         rows + "</tbody></table></div>\n</section>\n";
}

std::string logits_section(const CompareReport& report) {
  if (!report.logits) return {};
  const eval::LogitFigures& logits = *report.logits;
  std::string body = "<dl>\n";
  body += entry("tokens", std::to_string(logits.tokens));
  body += entry("KL divergence",
                fmt::format("mean {:.4g}, median {:.3g}, 90 % {:.3g}, 99 % {:.3g}, "
                            "99.9 % {:.3g}, max {:.4g} after token {}",
                            logits.kl_mean, logits.kl_quantiles[0], logits.kl_quantiles[1],
                            logits.kl_quantiles[2], logits.kl_quantiles[3], logits.kl_max,
                            logits.kl_max_token));
  body += entry("agreement", fmt::format("same arg-max {:.3f} %, five best {:.3f} %",
                                         100 * logits.top1, 100 * logits.top5));
  body += "</dl>\n";
  body += "<figure>" + kl_picture(logits) +
          "<figcaption>KL(reference || other) after each token, logarithmic; a cross: another "
          "arg-max</figcaption></figure>\n";
  if (!logits.flips.empty()) {
    body += "<h3 id=\"flips\">Tokens that flipped</h3>\n";
    if (report.logit_error_999) {
      body += fmt::format(
          "<p class=\"note\">Explained: the margin is below 2 &times; {:.3g}, the 99.9 % "
          "quantile of the logit error that runs of this profile have.</p>\n",
          *report.logit_error_999);
    }
    body +=
        "<div class=\"scroll\"><table><thead><tr><th>after token</th><th>expected</th><th>found"
        "</th><th>margin</th><th>explained</th></tr></thead><tbody>\n";
    constexpr std::size_t most = 200;
    for (std::size_t i = 0; i < std::min(most, logits.flips.size()); ++i) {
      const eval::Flip& flip = logits.flips[i];
      body +=
          fmt::format("<tr{}><th scope=\"row\">{}</th><td>{}</td><td>{}</td>{}<td>{}</td></tr>\n",
                      flip.explained == false ? " class=\"bad\"" : "", flip.token,
                      flip.reference_id, flip.other_id, cell(flip.margin, "{:.4g}"),
                      flip.explained ? (*flip.explained ? "yes" : "no") : "not judged");
    }
    body += "</tbody></table></div>\n";
    if (logits.flips.size() > most) {
      body += fmt::format("<p class=\"note\">and {} more</p>\n", logits.flips.size() - most);
    }
  }
  return "<section id=\"logits\">\n<h2>Logits</h2>\n" + body + "</section>\n";
}

std::string list(const std::string& title, const std::vector<std::string>& items) {
  if (items.empty()) return {};
  std::string body = "<h3>" + title + "</h3>\n<ul>\n";
  for (const std::string& item : items) body += "<li>" + html_text(item) + "</li>\n";
  return body + "</ul>\n";
}

std::string coverage_section(const CompareReport& report) {
  std::string body = fmt::format("<p>{} of {} tensors were compared.</p>\n", report.tensors.size(),
                                 report.tensors.size() + report.missing.size());
  body += list("Required, but missing", grouped(report.required));
  body += list("Not in the file", grouped(report.missing));
  body += list("Names that no map knows", report.unknown);
  body += list("Found", report.findings);
  return "<section id=\"coverage\">\n<h2>Coverage</h2>\n" + body + "</section>\n";
}

std::string header(const CompareReport& report, const CompareContext& context) {
  std::string body = fmt::format("<header>\n<h1 class=\"{}\">", report.agrees() ? "good" : "bad") +
                     html_text(compare_headline(report)) + "</h1>\n";
  if (report.first_diverging) {
    const TensorReport& first = report.tensors[*report.first_diverging];
    const eval::ErrorFigures& f = first.figures;
    body += "<p>" + html_text(first.why);
    body +=
        fmt::format(". Largest difference {:.4g} at token {}, channel {}: {:.9g}, expected {:.9g}.",
                    f.max_abs, f.max_token, f.max_channel, static_cast<double>(f.other_at_max),
                    static_cast<double>(f.reference_at_max));
    if (first.unit && first.id) {
      body += " Look at: " + html_text(eval::describe(first.unit->unit)) + ".";
    }
    body += "</p>\n";
  }
  for (CauseList& causes : cause_lists(report)) {
    causes.title[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(causes.title[0])));
    body += list(causes.title, causes.items);
  }
  body += "<dl>\n";
  body += entry("golden", html_name(context.golden) + ", model " + html_name(context.model));
  body += entry("other", html_name(context.other) + ", " + html_text(report.format) + ", names " +
                             (report.map == "none" ? "of docs/tensors.md" : html_text(report.map)));
  body += entry("input", html_text(token_range_text(report)));
  body += entry("profile", html_text(report.profile));
  if (!context.command.empty()) {
    body += entry("command", "<code>" + html_text(context.command) + "</code>");
  }
  body += "</dl>\n<nav><a href=\"#maps\">Maps</a><a href=\"#tensors\">Tensors</a>";
  if (report.logits) body += "<a href=\"#logits\">Logits</a>";
  return body +
         "<a href=\"#ulps\">Histograms</a><a href=\"#coverage\">Coverage</a></nav>\n</header>\n";
}

}  // namespace

std::string compare_page(const CompareReport& report, const CompareContext& context) {
  std::string body = header(report, context);
  if (!report.tensors.empty()) {
    body += maps_section(report) + tensors_section(report) + logits_section(report) +
            histograms_section(report);
  }
  body += coverage_section(report);
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
         "<title>neoxref compare</title>\n<style>" +
         std::string(style) + "</style>\n</head>\n<body>\n" + body + "</body>\n</html>\n";
}

}  // namespace neoxref::tools
