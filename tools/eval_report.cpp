// SPDX-License-Identifier: Apache-2.0
#include "tools/eval_report.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

namespace neoxref::tools {
namespace {

using eval::Row;
using eval::Sweep;
using eval::TextScore;

/// Tables of more texts than this are for --json and --csv.
constexpr std::size_t most_shown_texts = 8;
constexpr std::size_t most_name = 30;

/// "1023 248x5" for 1023,248,248,248,248,248.
std::string runs(const std::vector<std::size_t>& values) {
  std::string text;
  for (std::size_t i = 0; i < values.size();) {
    std::size_t next = i;
    while (next < values.size() && values[next] == values[i]) ++next;
    text += (i == 0 ? "" : " ") + std::to_string(values[i]);
    if (next - i > 1) text += "x" + std::to_string(next - i);
    i = next;
  }
  return text;
}

std::string shortened(const std::string& name) {
  const std::string shown = printable(name);
  if (shown.size() <= most_name) return shown;
  // The end tells paragraphs and lines of one file apart. No character is cut in two.
  std::size_t begin = shown.size() - (most_name - 3);
  while (begin < shown.size() && (static_cast<unsigned char>(shown[begin]) & 0xc0) == 0x80) ++begin;
  return "..." + shown.substr(begin);
}

/// Lines of at most 100 columns, broken behind commas.
std::string wrapped(const std::string& text) {
  constexpr std::size_t columns = 100;
  std::string lines;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = text.size();
    if (end - begin > columns) {
      const std::size_t comma = text.rfind(',', begin + columns - 1);
      if (comma != std::string::npos && comma > begin) end = comma + 1;
    }
    lines += text.substr(begin, end - begin) + "\n";
    begin = std::min(text.find_first_not_of(' ', end), text.size());
  }
  return lines;
}

std::string share(std::size_t part, std::size_t whole) {
  if (whole == 0) return "-";
  return fmt::format("{:.4f}", static_cast<double>(part) / static_cast<double>(whole));
}

std::string interval_text(const std::optional<eval::Interval>& interval) {
  if (!interval) return "-";
  return fmt::format("{:.4f} to {:.4f}", std::exp(interval->low), std::exp(interval->high));
}

std::string mebibytes(double bytes) {
  return fmt::format("{:.2f}", bytes / 1048576.0);
}

std::size_t name_width(const Sweep& sweep) {
  std::size_t width = 4;
  for (const Row& row : sweep.rows) width = std::max(width, row_name(sweep, row).size());
  return width;
}

void show_texts(const Sweep& sweep, std::size_t width) {
  std::size_t names = 4;
  for (const TextScore& text : sweep.rows.front().texts) {
    names = std::max(names, shortened(text.name).size());
  }
  print(fmt::format("{:<{}} {:>{}} {:>6} {:>6} {:>10} {:>7}  {}\n", "text", names, "keep", width,
                    "tokens", "scored", "perplexity", "ratio", "cuts; slots at the end, by layer"));
  for (std::size_t t = 0; t < sweep.rows.front().texts.size(); ++t) {
    for (const Row& row : sweep.rows) {
      const TextScore& text = row.texts[t];
      print(fmt::format("{:<{}} {:>{}} {:>6} ", shortened(text.name), names, row_name(sweep, row),
                        width, text.tokens));
      if (text.windows.empty() && !text.never_cut) {
        print("too short, not scored\n");
        continue;
      }
      if (text.scored == 0) {
        print("no token came after a cut\n");
        continue;
      }
      print(fmt::format("{:>6} {:>10.6g} {:>7.4f}  {}; {}\n", text.scored,
                        std::exp(text.nll / static_cast<double>(text.scored)),
                        std::exp(text.log_ratio()), runs(text.cuts),
                        runs(text.windows.back().lengths)));
    }
  }
  print("\n");
}

/// Items whose words were all right, and the item's perplexity.
void show_task(const ReportContext& context, std::size_t width) {
  print(fmt::format("{:>{}} {:>8} {:>10} {:>6} {:>10}\n", "keep", width, "accuracy", "perplexity",
                    "items", "never cut"));
  for (const Row& row : context.sweep.rows) {
    std::size_t items = 0;
    std::size_t never = 0;
    for (const TextScore& text : row.texts) {
      items += text.scored > 0 ? 1 : 0;
      never += text.never_cut ? 1 : 0;
    }
    print(fmt::format("{:>{}} {:>8} {:>10.6g} {:>6} {:>10}\n", row_name(context.sweep, row), width,
                      share(row.items_correct(), items),
                      std::exp(row.nll / static_cast<double>(items)), items, never));
  }
  print(
      "\nThe press cuts the passage before the word: the first P tokens enter untouched, P the\n"
      "effective prune_after of the item (docs/protocols.md). Below, tokens of the words.\n\n");
}

void show_quality(const ReportContext& context, std::size_t width) {
  const Sweep& sweep = context.sweep;
  print(fmt::format("{:>{}} {:>10} {:>7} {:>17} {:>6} {:>6} {:>8} {:>6} {:>6}\n", "keep", width,
                    "perplexity", "ratio", "95 % interval", "top-1", "agree", "KL", "bits/B",
                    "cut"));
  for (std::size_t i = 0; i < sweep.rows.size(); ++i) {
    const Row& row = sweep.rows[i];
    if (row.scored == 0) {
      print(fmt::format("{:>{}} no token was scored\n", row_name(sweep, row), width));
      continue;
    }
    const auto scored = static_cast<double>(row.scored);
    const std::string bits =
        row.bytes == 0
            ? "-"
            : fmt::format("{:.4f}", row.nll / std::log(2.0) / static_cast<double>(row.bytes));
    print(fmt::format("{:>{}} {:>10.7g} {:>7.4f} {:>17} {:>6} {:>6} {:>8.5f} {:>6} {:>6.3f}\n",
                      row_name(sweep, row), width, row.perplexity(), std::exp(row.log_ratio()),
                      row.compressed ? interval_text(context.intervals[i]) : "",
                      share(row.correct, row.scored), share(row.agreed, row.scored),
                      row.kl / scored, bits, static_cast<double>(row.after_cut) / scored));
  }
  for (std::size_t i = 0; i < sweep.rows.size(); ++i) {
    if (!sweep.rows[i].compressed || !context.intervals[i]) continue;
    const eval::Interval& interval = *context.intervals[i];
    switch (interval.over) {
      case eval::Interval::Over::documents:
        print(fmt::format("Intervals: Student's t over {} documents.\n", interval.units));
        break;
      case eval::Interval::Over::windows:
        print(
            fmt::format("Intervals: Student's t over {} windows of {} tokens (under 10 "
                        "documents).\n",
                        interval.units, sweep.layout.max_tokens));
        break;
      case eval::Interval::Over::blocks:
        print(
            "Intervals: moving-block bootstrap within each document (under 10 documents and "
            "windows).\n");
        break;
    }
    break;
  }
  print(
      "ratio: to the uncompressed run over the same tokens. agree, KL: top-1 and distribution "
      "against it.\ncut: share of the scored tokens that came after a cut.\n\n");
}

void show_memory(const Sweep& sweep, std::size_t width) {
  print(fmt::format("{:>{}} {:>10} {:>8} {:>8} {:>8} {:>8}  {}\n", "keep", width, "mean slots",
                    "mean MiB", "peak MiB", "resident", "seconds", "digest of the logits"));
  for (const Row& row : sweep.rows) {
    if (row.scored == 0) continue;
    print(fmt::format(
        "{:>{}} {:>10.1f} {:>8} {:>8} {:>8} {:>8.3f}  {}\n", row_name(sweep, row), width,
        row.mean_slots, mebibytes(row.mean_bytes), mebibytes(static_cast<double>(row.peak_bytes)),
        mebibytes(static_cast<double>(row.peak_resident_bytes)), row.seconds, row.digest));
  }
}

void show_spreads(const Sweep& sweep) {
  const auto spreads = eval::control_spreads(sweep);
  if (spreads.empty()) return;
  print("\nRatios of the controls, over their seeds:\n");
  for (const eval::ControlSpread& spread : spreads) {
    print(fmt::format("{:>12} {:>10} @{:<5} {:.4f} ({:.4f} to {:.4f}, {} seeds)\n",
                      engine::score_name(spread.score), spread.label, spread.prune_after,
                      std::exp(spread.mean), std::exp(spread.least), std::exp(spread.most),
                      spread.seeds));
  }
}

void show_study(const ReportContext& context) {
  if (context.preset == nullptr || !is_pythia_70m(context.model.config())) return;
  print(fmt::format("\n{:>6} {:>10}", "keep", "ours"));
  for (const Preset::Column& column : context.preset->study)
    print(fmt::format(" {:>15}", column.title));
  print("   (perplexities; the study's on Pythia-70M)\n");
  for (const Row& row : context.sweep.rows) {
    const auto& ratios = context.preset->keep_ratios;
    const auto index = std::find(ratios.begin(), ratios.end(), row.arm.label) - ratios.begin();
    if (row.arm.control || index == std::ssize(ratios)) continue;
    print(fmt::format("{:>6} {:>10.6g}", row.arm.label, row.perplexity()));
    for (const Preset::Column& column : context.preset->study) {
      print(fmt::format(" {:>15}", column.perplexities[static_cast<std::size_t>(index)]));
    }
    print("\n");
  }
}

}  // namespace

std::vector<std::optional<eval::Interval>> intervals_of(const Sweep& sweep) {
  std::vector<std::optional<eval::Interval>> intervals;
  for (const Row& row : sweep.rows) {
    intervals.push_back(eval::log_ratio_interval(row.texts, sweep.layout.max_tokens));
  }
  return intervals;
}

std::string row_name(const Sweep& sweep, const Row& row) {
  bool scores = false;
  bool limits = false;
  const Row* first = nullptr;
  for (const Row& other : sweep.rows) {
    if (other.compressed && first == nullptr) first = &other;
    limits = limits || other.arm.press.prune_after != sweep.rows.front().arm.press.prune_after;
    scores = scores || (other.compressed && other.arm.press.name() != first->arm.press.name());
  }
  std::string name = row.arm.label;
  if (scores && row.compressed) {
    name = row.arm.press.name();
    const bool draws = row.arm.press.score == engine::Score::random ||
                       row.arm.press.score == engine::Score::random_fresh;
    if (draws) name += "#" + std::to_string(row.arm.press.seed);
    name += " " + row.arm.label;
  }
  if (limits) name += " @" + std::to_string(row.arm.press.prune_after);
  return name;
}

void show_sweep(const ReportContext& context) {
  const Sweep& sweep = context.sweep;
  const eval::Layout& layout = sweep.layout;
  std::string head = std::string(eval::protocol_name(layout.protocol));
  if (layout.protocol == eval::Protocol::sliding) head += fmt::format(", stride {}", layout.stride);
  print(wrapped(fmt::format("{}, max_tokens {}{}, {}", head, layout.max_tokens,
                            layout.bos ? ", <|endoftext|> first" : "", context.settings)) +
        machine_text(context.model) + "\n\n");
  const std::size_t width = name_width(sweep);
  const std::size_t texts = sweep.rows.front().texts.size();
  if (texts <= most_shown_texts) {
    show_texts(sweep, width);
  } else {
    print(fmt::format("{} texts (each is listed by --json and --csv)\n\n", texts));
  }
  if (!context.task.empty()) show_task(context, width);
  show_quality(context, width);
  show_memory(sweep, width);
  show_spreads(sweep);
  for (const eval::Row& row : sweep.rows) {
    const std::size_t cuts = row.protected_cuts();
    if (cuts == 0) continue;
    print(
        fmt::format("{}: in {} cuts of a layer the {} sinks and {} recent slots were more than the "
                    "budget, and stayed\n",
                    row_name(sweep, row), cuts, row.arm.press.sinks, row.arm.press.recent));
  }
  show_study(context);
}

}  // namespace neoxref::tools
