// SPDX-License-Identifier: Apache-2.0
// The tables of the page of `eval --html`.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "tools/eval_page.hpp"
#include "tools/html.hpp"

namespace neoxref::tools {
namespace {

using eval::Row;
using eval::Sweep;
using eval::TextScore;

/// Texts of a longer list are left to --json and --csv.
constexpr std::size_t most_texts = 200;

std::string cell(const std::string& inside) {
  return "<td>" + inside + "</td>";
}

std::string cell(double value, int digits) {
  return cell(html_number(value, fmt::format("{:.{}f}", value, digits)));
}

std::string count(std::size_t value) {
  return cell(std::to_string(value));
}

std::string name_cell(const std::string& name) {
  return "<th scope=\"row\">" + html_name(name) + "</th>";
}

std::string mebibytes(double bytes) {
  return cell(html_number(bytes, fmt::format("{:.2f}", bytes / 1048576.0)));
}

double mean(double sum, std::size_t number) {
  return sum / static_cast<double>(number);
}

std::string table(const std::string& id, const std::string& caption,
                  const std::vector<std::string>& titles, const std::string& body,
                  const std::string& note) {
  std::string head;
  for (const std::string& title : titles) head += "<th scope=\"col\">" + title + "</th>";
  return fmt::format(
      "<h3>{}</h3>\n<div class=\"scroll\"><table id=\"{}\">\n<thead><tr>{}</tr></thead>\n"
      "<tbody>\n{}</tbody>\n</table></div>\n<p class=\"note\">{}</p>\n",
      caption, id, head, body, note);
}

std::string interval_note(const PageContext& context) {
  for (const auto& interval : context.report.intervals) {
    if (!interval) continue;
    switch (interval->over) {
      case eval::Interval::Over::documents:
        return fmt::format("Intervals: Student&#39;s t over {} documents. ", interval->units);
      case eval::Interval::Over::windows:
        return fmt::format(
            "Intervals: Student&#39;s t over {} windows of {} tokens, for there are fewer than 10 "
            "documents. ",
            interval->units, context.report.sweep.layout.max_tokens);
      case eval::Interval::Over::blocks:
        return "Intervals: moving-block bootstrap within each document, for there are fewer than "
               "10 "
               "documents and windows. ";
    }
  }
  return "No intervals: the texts are too short for them. ";
}

std::string quality_table(const PageContext& context) {
  const ReportContext& report = context.report;
  std::string body;
  for (std::size_t i = 0; i < report.sweep.rows.size(); ++i) {
    const Row& row = report.sweep.rows[i];
    body += fmt::format("<tr{}>", row.arm.control ? " class=\"control\"" : "") +
            name_cell(row_name(report.sweep, row));
    if (row.scored == 0) {
      body += "<td colspan=\"10\">no token was scored</td></tr>\n";
      continue;
    }
    const auto& interval = report.intervals[i];
    const bool known = row.compressed && interval;
    body +=
        cell(row.perplexity(), 4) + cell(std::exp(row.log_ratio()), 4) +
        cell(known ? std::exp(interval->low) : NAN, 4) +
        cell(known ? std::exp(interval->high) : NAN, 4) +
        cell(mean(static_cast<double>(row.correct), row.scored), 4) +
        cell(mean(static_cast<double>(row.agreed), row.scored), 4) +
        cell(mean(row.kl, row.scored), 5) +
        cell(row.bytes > 0 ? row.nll / std::log(2.0) / static_cast<double>(row.bytes) : NAN, 4) +
        cell(mean(static_cast<double>(row.after_cut), row.scored), 3) + count(row.scored) +
        "</tr>\n";
  }
  return table("quality", "Quality",
               {"keep", "perplexity", "ratio", "95 % low", "95 % high", "top-1", "agree", "KL",
                "bits per byte", "after a cut", "scored"},
               body,
               interval_note(context) +
                   "top-1: share of tokens that were the most probable. agree, KL (nats): most "
                   "probable token and distribution against the uncompressed run.");
}

std::string memory_table(const PageContext& context) {
  const Sweep& sweep = context.report.sweep;
  std::string body;
  for (const Row& row : sweep.rows) {
    if (row.scored == 0) continue;
    body += fmt::format("<tr{}>", row.arm.control ? " class=\"control\"" : "") +
            name_cell(row_name(sweep, row)) + cell(row.mean_slots, 1) + mebibytes(row.mean_bytes) +
            mebibytes(static_cast<double>(row.peak_bytes)) +
            mebibytes(static_cast<double>(row.peak_resident_bytes)) + cell(row.seconds, 3) +
            "<td class=\"digest\">" + html_text(row.digest) + "</td></tr>\n";
  }
  return table(
      "memory", "Memory, time, digests",
      {"keep", "mean slots", "mean MiB", "peak MiB", "resident MiB", "seconds",
       "digest of the logits"},
      body,
      "Slots of a layer and bytes of keys and values, as the logits of the scored tokens saw "
      "them; resident: most pages of the cache in memory. A digest is XXH3-128 over the "
      "float32 logits that scored tokens, in order: equal digests, equal bits.");
}

std::string controls_table(const Sweep& sweep) {
  std::string body;
  for (const eval::ControlSpread& spread : eval::control_spreads(sweep)) {
    body += "<tr>" + name_cell(std::string(engine::score_name(spread.score))) +
            cell(html_text(spread.label)) + count(spread.prune_after) + count(spread.seeds) +
            cell(std::exp(spread.mean), 4) + cell(std::exp(spread.least), 4) +
            cell(std::exp(spread.most), 4) + "</tr>\n";
  }
  if (body.empty()) return {};
  return table("controls", "Controls over their seeds",
               {"score", "keep", "prune_after", "seeds", "ratio", "least", "most"}, body,
               "Ratio: exp of the mean log ratio of the seeds.");
}

std::string task_table(const PageContext& context) {
  if (context.report.task.empty()) return {};
  std::string body;
  for (const Row& row : context.report.sweep.rows) {
    const auto items = static_cast<std::size_t>(std::count_if(
        row.texts.begin(), row.texts.end(), [](const TextScore& text) { return text.scored > 0; }));
    body += "<tr>" + name_cell(row_name(context.report.sweep, row)) +
            cell(mean(static_cast<double>(row.items_correct()), items), 4) +
            cell(std::exp(mean(row.nll, items)), 4) + count(items) + "</tr>\n";
  }
  return table("task", "Task " + html_text(context.report.task),
               {"keep", "accuracy", "perplexity", "items"}, body,
               "An item is right when every token of its last word was the most probable.");
}

std::string study_table(const PageContext& context) {
  const ReportContext& report = context.report;
  if (report.preset == nullptr || !is_pythia_70m(report.model.config())) return {};
  std::vector<std::string> titles = {"keep", "here"};
  for (const Preset::Column& column : report.preset->study) {
    titles.push_back(html_text(column.title));
  }
  std::string body;
  for (const Row& row : report.sweep.rows) {
    const auto& ratios = report.preset->keep_ratios;
    const auto index = std::find(ratios.begin(), ratios.end(), row.arm.label) - ratios.begin();
    if (row.arm.control || index == std::ssize(ratios)) continue;
    body += "<tr>" + name_cell(row.arm.label) + cell(row.perplexity(), 4);
    for (const Preset::Column& column : report.preset->study) {
      body += cell(column.perplexities[static_cast<std::size_t>(index)], 2);
    }
    body += "</tr>\n";
  }
  return table(
      "study", "Beside the study", titles, body,
      "Perplexities; the other columns are what the KnormPress study gives for Pythia-70M.");
}

std::string texts_table(const PageContext& context) {
  const Sweep& sweep = context.report.sweep;
  std::vector<std::string> titles = {"text", "tokens", "scored", "uncompressed perplexity"};
  std::vector<const Row*> shown;
  for (const Row& row : sweep.rows) {
    if (!row.compressed || row.arm.control) continue;
    shown.push_back(&row);
    titles.push_back(html_name(row_name(sweep, row)));
  }
  const std::vector<TextScore>& texts = sweep.rows.front().texts;
  std::string body;
  for (std::size_t t = 0; t < std::min(texts.size(), most_texts); ++t) {
    const TextScore& text = texts[t];
    body += "<tr>" + name_cell(text.name) + count(text.tokens) + count(text.scored) +
            cell(std::exp(mean(text.nll, text.scored)), 4);
    for (const Row* row : shown) body += cell(std::exp(row->texts[t].log_ratio()), 4);
    body += "</tr>\n";
  }
  const std::string rest =
      texts.size() > most_texts
          ? fmt::format(" {} more are in --json and --csv.", texts.size() - most_texts)
          : "";
  return table("texts", "Texts", titles, body,
               "Ratio to the uncompressed perplexity of each text; a dash where nothing is scored. "
               "Controls are left out." +
                   rest);
}

}  // namespace

std::string tables_section(const PageContext& context) {
  return "<section id=\"tables\">\n<h2>Tables</h2>\n" + task_table(context) +
         quality_table(context) + memory_table(context) + controls_table(context.report.sweep) +
         study_table(context) + texts_table(context) + "</section>\n";
}

}  // namespace neoxref::tools
