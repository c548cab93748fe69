// SPDX-License-Identifier: Apache-2.0
#include "tools/eval_page.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/mapped_file.hpp"
#include "engine/model_path.hpp"
#include "eval/digest.hpp"
#include "tools/html.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;

/// The colours c0 to c7 are those of Okabe and Ito, darker on white and lighter on black, so that they
/// are told apart without colour vision and seen on either; c8 to c11 are greys.
constexpr const char* style = R"(
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #1c1f24; --soft: #5b626d; --rule: #dfe2e7; --card: #f7f8fa;
  --c0: #0072b2; --c1: #d55e00; --c2: #007d5c; --c3: #b04a88; --c4: #b07a00; --c5: #3b97cf;
  --c6: #7a3b00; --c7: #4b3fa0; --c8: #565d68; --c9: #7f6f86; --c10: #3c424b; --c11: #9aa0a9; }
@media screen and (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --ink: #e6e8eb; --soft: #a0a7b1; --rule: #343a43; --card: #1b1f25;
  --c0: #56aee8; --c1: #ff8b45; --c2: #2ecc9a; --c3: #e590c4; --c4: #f0be3c; --c5: #9bd8ff;
  --c6: #d9a066; --c7: #a99cf5; --c8: #98a0ab; --c9: #78808c; --c10: #b6bcc5; --c11: #7f8792; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(0.75rem, 3vw, 2rem) 3rem; max-width: 76rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.25rem; padding-top: 0.75rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 0.5rem; }
p { margin: 0.25rem 0 0.75rem; max-width: 48rem; }
code, .digest { font-family: ui-monospace, monospace; font-size: 0.85em; }
code { overflow-wrap: anywhere; }
nav a { margin-right: 1rem; white-space: nowrap; color: var(--c0); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.25rem 1rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.grid { display: grid; gap: 1rem; margin: 0.75rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.maps { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; padding: 0.5rem; background: var(--card); border-radius: 0.4rem;
  break-inside: avoid; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { font-size: 0.85rem; color: var(--soft); padding: 0.25rem 0.5rem; }
figcaption b { color: var(--ink); }
svg.heat polygon { shape-rendering: crispEdges; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; list-style: none; padding: 0;
  margin: 0.5rem 0; font-size: 0.9rem; }
.swatch { display: inline-block; width: 2.2rem; height: 1.2em; line-height: 1.2em; font-size: 0.9em;
  text-align: center; vertical-align: -0.2em;
  background: linear-gradient(currentColor, currentColor) 0 58% / 100% 2px no-repeat;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.d2 { background: repeating-linear-gradient(90deg, currentColor 0 6px, transparent 6px 10px)
  0 58% / 100% 2px no-repeat; }
.d3 { background: repeating-linear-gradient(90deg, currentColor 0 2px, transparent 2px 5px)
  0 58% / 100% 2px no-repeat; }
.d4 { background: repeating-linear-gradient(90deg, currentColor 0 7px, transparent 7px 10px,
  currentColor 10px 12px, transparent 12px 15px) 0 58% / 100% 2px no-repeat; }
.heatscale { font-size: 0.9rem; color: var(--soft); }
.gradient { display: inline-block; width: 8rem; max-width: 30vw; height: 0.9em; margin: 0 0.4rem;
  vertical-align: -0.1em; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
thead th { vertical-align: bottom; white-space: normal; color: var(--soft); font-weight: 600; }
th:first-child { text-align: left; }
tbody th { font-weight: 500; }
tr.control { color: var(--soft); }
.note { font-size: 0.85rem; color: var(--soft); margin-top: 0.4rem; }
summary { cursor: pointer; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  .grid { grid-template-columns: 1fr 1fr; } .maps { grid-template-columns: 1fr 1fr 1fr; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; } th, td { padding: 0.1rem 0.3rem; }
  figure { background: none; border: 1px solid var(--rule); } }
)";

constexpr std::pair<const char*, const char*> contents[] = {
    {"ratio", "Perplexity"}, {"length", "Length"},           {"survival", "Held positions"},
    {"age", "Age"},          {"since-cut", "Since the cut"}, {"cuts", "Number of cuts"},
    {"alr", "Attention"},    {"tables", "Tables"},           {"origin", "Origin"}};

std::string entry(const std::string& name, const std::string& inside) {
  return "<dt>" + name + "</dt><dd>" + inside + "</dd>\n";
}

std::string origin_section(const PageContext& context) {
  std::string body = entry("command", "<code>" + html_text(context.command) + "</code>");
  body += entry("program",
                html_text(std::string("neoxref ") + NEOXREF_VERSION + ", " + NEOXREF_COMPILER));
  body += entry("machine", html_text(machine_text(context.report.model)));
  body += entry("pictures", html_text(context.gnuplot));
  body += entry("model", html_name(context.model));
  for (const Json& file : context.files) {
    body += entry(
        "", html_name(file["name"].get<std::string>()) +
                fmt::format(", {} bytes, <span class=\"digest\">{}</span>",
                            file["bytes"].get<std::size_t>(), file["digest"].get<std::string>()));
  }
  return "<section id=\"origin\">\n<h2>How this page came about</h2>\n<dl>\n" + body +
         "</dl>\n<p class=\"note\">Digests of files: XXH3-128, as xxh128sum prints it. Digests of "
         "the "
         "logits are in the table above. All numbers of the pictures: --json and --series.</p>\n"
         "</section>\n";
}

/// True where there is something to draw.
bool has_pictures(const PageContext& context) {
  const auto& rows = context.report.sweep.rows;
  return std::any_of(rows.begin(), rows.end(),
                     [](const eval::Row& row) { return row.compressed && row.scored > 0; });
}

std::string header(const PageContext& context) {
  const eval::Sweep& sweep = context.report.sweep;
  const eval::Layout& layout = sweep.layout;
  const eval::Row& full = sweep.rows.front();
  std::string links;
  const bool pictures = has_pictures(context);
  for (const auto& [id, title] : contents) {
    const bool always = std::string_view(id) == "tables" || std::string_view(id) == "origin";
    if (!pictures && !always) continue;
    if (std::string_view(id) == "alr" && !context.analysis) continue;
    links += fmt::format("<a href=\"#{}\">{}</a> ", id, title);
  }
  std::string settings = context.report.settings;
  std::replace(settings.begin(), settings.end(), '\n', ' ');
  std::string protocol =
      fmt::format("{}, max_tokens {}", eval::protocol_name(layout.protocol), layout.max_tokens);
  if (layout.stride > 0) protocol += fmt::format(", stride {}", layout.stride);
  if (layout.bos) protocol += ", &lt;|endoftext|&gt; first";
  const std::string texts = full.texts.size() == 1 ? html_name(full.texts.front().name)
                                                   : fmt::format("{} texts", full.texts.size());
  return "<header>\n<h1>Perplexity against a shorter KV cache</h1>\n<dl>\n" +
         entry("model", html_name(context.model)) +
         entry("texts",
               texts +
                   fmt::format(", {} tokens, {} scored, uncompressed perplexity ", full.tokens,
                               full.scored) +
                   html_number(full.perplexity(), fmt::format("{:.5g}", full.perplexity()))) +
         entry("protocol", protocol) + entry("press", html_text(settings)) + "</dl>\n<nav>" +
         links + "</nav>\n</header>\n";
}

}  // namespace

Json model_files_json(const std::string& model) {
  const auto folder = engine::resolve_model(model);
  std::vector<std::filesystem::path> paths;
  for (const auto& each : std::filesystem::directory_iterator(folder)) {
    const std::string name = each.path().filename().string();
    const bool read = name == "config.json" || name == "tokenizer.json" ||
                      name == "model.safetensors.index.json" || name.ends_with(".safetensors");
    if (read && each.is_regular_file()) paths.push_back(each.path());
  }
  std::sort(paths.begin(), paths.end());
  Json files = Json::array();
  for (const auto& path : paths) {
    const engine::MappedFile file(path);
    file.advise_sequential();
    files.push_back({{"name", path.filename().string()},
                     {"bytes", file.bytes().size()},
                     {"digest", eval::bytes_digest(file.bytes())}});
  }
  return files;
}

void write_page(const std::string& path, const PageContext& context) {
  std::string body = header(context);
  if (has_pictures(context)) {
    body += ratio_section(context) + length_section(context) + survival_section(context) +
            age_section(context) + bucket_sections(context);
    if (context.analysis) body += alr_section(*context.analysis);
  }
  body += tables_section(context) + origin_section(context);
  OutputFile file(path);
  file.write(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>neoxref eval</title>\n<style>");
  file.write(style);
  file.write("</style>\n</head>\n<body>\n");
  file.write(body);
  file.write("</body>\n</html>\n");
  file.commit();
}

}  // namespace neoxref::tools
