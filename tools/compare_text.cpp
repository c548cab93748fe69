// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <vector>

#include "engine/error.hpp"
#include "tools/compare_report.hpp"

namespace neoxref::tools {
namespace {

using eval::CompareReport;
using eval::TensorReport;

/// A name from a file on one line.
std::string safe(const std::string& name) {
  return engine::Error("", name).what();
}

std::string row_text(const TensorReport& tensor, std::size_t width) {
  const eval::ErrorFigures& f = tensor.figures;
  const bool own = tensor.unit && f.rows > 0;
  return fmt::format("  {:<{}}  {:<5} {:>9.3g} {:<8}  {:>9.2e}  {:>9.2e}  {:>8.6f}  {:>9}  {:>9}\n",
                     tensor.label(), width, tensor.fails ? "FAILS" : "ok", tensor.verdict.ratio,
                     eval::yardstick_name(tensor.verdict.yardstick), f.max_abs, f.relative_rms(),
                     f.cosine, own ? fmt::format("{:.2e}", tensor.unit->rms_own) : "-",
                     own ? fmt::format("{:.2e}", tensor.unit->rms_inherited) : "-");
}

std::string table(const std::vector<const TensorReport*>& rows) {
  std::size_t width = 6;
  for (const TensorReport* each : rows) width = std::max(width, each->label().size());
  std::string text =
      fmt::format("  {:<{}}  {:<5} {:>9} {:<8}  {:>9}  {:>9}  {:>8}  {:>9}  {:>9}\n", "tensor",
                  width, "", "ratio", "to", "max abs", "rel RMS", "cosine", "own RMS", "inherited");
  for (const TensorReport* each : rows) text += row_text(*each, width);
  return text;
}

std::string first_text(const TensorReport& tensor) {
  std::string text = fmt::format("first diverging tensor: {}\n  {}\n", tensor.label(), tensor.why);
  const eval::ErrorFigures& f = tensor.figures;
  text +=
      fmt::format("  largest difference {:.4g} at token {}, channel {}: {:.9g}, expected {:.9g}\n",
                  f.max_abs, f.max_token, f.max_channel, static_cast<double>(f.other_at_max),
                  static_cast<double>(f.reference_at_max));
  if (tensor.unit && tensor.id) text += "  look at: " + eval::describe(tensor.unit->unit) + "\n";
  return text;
}

std::string logits_text(const eval::LogitFigures& logits, std::optional<double> error) {
  std::string text = fmt::format(
      "logits of {} tokens: KL mean {:.3g}, median {:.3g}, 99 % {:.3g}, max {:.3g} (token {}); "
      "same "
      "arg-max {:.2f} %, top 5 {:.2f} %\n",
      logits.tokens, logits.kl_mean, logits.kl_quantiles[0], logits.kl_quantiles[2], logits.kl_max,
      logits.kl_max_token, 100 * logits.top1, 100 * logits.top5);
  if (logits.flips.empty()) return text;
  const auto of = [&](std::optional<bool> explained) {
    return std::count_if(logits.flips.begin(), logits.flips.end(),
                         [&](const eval::Flip& flip) { return flip.explained == explained; });
  };
  text += fmt::format("{} tokens flipped: {} explained by the profile's rounding, {} not{}\n",
                      logits.flips.size(), of(true), of(false),
                      of(std::nullopt) > 0 ? fmt::format(", {} not judged", of(std::nullopt)) : "");
  if (error) text += fmt::format("  (explained: margin below 2 x {:.3g})\n", *error);
  std::size_t shown = 0;
  for (const eval::Flip& flip : logits.flips) {
    if (flip.explained == true || ++shown > 5) continue;
    text += fmt::format("  after token {}: {} instead of {}, margin {:.4g}\n", flip.token,
                        flip.other_id, flip.reference_id, flip.margin);
  }
  return text;
}

std::string list(const std::string& title, const std::vector<std::string>& items,
                 std::size_t most) {
  if (items.empty()) return {};
  std::string text = title + "\n";
  for (std::size_t i = 0; i < std::min(most, items.size()); ++i)
    text += "  " + safe(items[i]) + "\n";
  if (items.size() > most) text += fmt::format("  and {} more\n", items.size() - most);
  return text;
}

}  // namespace

std::vector<std::string> grouped(const std::vector<std::string>& names) {
  std::vector<std::pair<std::string, std::vector<std::size_t>>> groups;
  constexpr std::string_view begin = "gpt_neox.layers.";
  for (const std::string& name : names) {
    std::string shape = name;
    std::vector<std::size_t> layers;
    if (name.starts_with(begin)) {
      std::size_t end = begin.size();
      while (end < name.size() && name[end] >= '0' && name[end] <= '9') ++end;
      layers.push_back(std::stoul(name.substr(begin.size(), end - begin.size())));
      shape = std::string(begin) + "*" + name.substr(end);
    }
    const auto found = std::find_if(groups.begin(), groups.end(),
                                    [&](const auto& group) { return group.first == shape; });
    if (found == groups.end()) {
      groups.emplace_back(shape, layers);
    } else {
      found->second.insert(found->second.end(), layers.begin(), layers.end());
    }
  }
  std::vector<std::string> result;
  for (auto& [shape, layers] : groups) {
    std::string numbers;
    for (std::size_t i = 0; i < layers.size();) {
      std::size_t last = i;
      while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
      numbers += numbers.empty() ? "" : ",";
      numbers += std::to_string(layers[i]);
      if (last > i) numbers += "-" + std::to_string(layers[last]);
      i = last + 1;
    }
    const std::size_t star = shape.find('*');
    result.push_back(star == std::string::npos ? shape : shape.replace(star, 1, numbers));
  }
  return result;
}

std::string token_range_text(const CompareReport& report) {
  const eval::Alignment& a = report.alignment;
  std::string text = a.count == report.golden_tokens
                         ? fmt::format("{} tokens", a.count)
                         : fmt::format("the first {} of {} tokens", a.count, report.golden_tokens);
  if (a.from_ids) text += ", the same ids";
  if (a.sequences > 1) text += fmt::format(", row {} of {}", a.row, a.sequences);
  if (a.offset > 0) text += fmt::format(", from position {} on", a.offset);
  return text;
}

std::string compare_headline(const CompareReport& report) {
  if (!report.alignment.agrees) {
    const eval::Alignment& a = report.alignment;
    return fmt::format(
        "DIVERGES: the input is another one: token {} is {}, the golden has {}; "
        "nothing else was compared",
        a.difference, a.other_id ? std::to_string(*a.other_id) : "missing", a.golden_id);
  }
  if (report.tensors.empty()) return "DIVERGES: nothing could be compared";
  if (report.first_diverging) {
    return fmt::format("DIVERGES at {} under profile {}: {} of {} tensors fail",
                       report.tensors[*report.first_diverging].label(), report.profile,
                       report.failing(), report.tensors.size());
  }
  if (!report.required.empty()) {
    return fmt::format("DIVERGES: {} required tensors are missing", report.required.size());
  }
  return fmt::format("agrees under profile {}: {} tensors", report.profile, report.tensors.size());
}

std::string compare_text(const CompareReport& report, const CompareContext& context) {
  std::string text = safe(compare_headline(report)) + "\n";
  if (!report.alignment.agrees) return text;
  if (report.first_diverging) text += first_text(report.tensors[*report.first_diverging]);
  for (const CauseList& causes : cause_lists(report)) text += list(causes.title, causes.items, 9);
  std::vector<const TensorReport*> rows;
  constexpr std::size_t most_failing = 12, most_passing = 5;
  for (const TensorReport& each : report.tensors) {
    if (each.fails && rows.size() < most_failing) rows.push_back(&each);
  }
  if (rows.empty()) {
    for (const TensorReport& each : report.tensors) rows.push_back(&each);
    std::stable_sort(rows.begin(), rows.end(), [](const auto* a, const auto* b) {
      return a->verdict.ratio > b->verdict.ratio;
    });
    rows.resize(std::min(rows.size(), most_passing));
    if (!rows.empty()) text += "nearest to their limits\n";
  } else {
    text += fmt::format("failing, in the order of execution{}\n",
                        report.failing() > rows.size()
                            ? fmt::format(" ({} of {})", rows.size(), report.failing())
                            : "");
  }
  if (!rows.empty()) text += table(rows);
  if (report.logits) text += logits_text(*report.logits, report.logit_error_999);
  text += list("required, but missing", grouped(report.required), 20);
  text += fmt::format("compared {} with {}: {}; {} of {} tensors, format {}, names {}\n",
                      safe(context.other), safe(context.golden), token_range_text(report),
                      report.tensors.size(), report.tensors.size() + report.missing.size(),
                      report.format, report.map == "none" ? "of docs/tensors.md" : report.map);
  text += list("not in it", grouped(report.missing), 16);
  text += list("names that no map knows", report.unknown, 8);
  text += list("found", report.findings, 16);
  return text;
}

}  // namespace neoxref::tools
