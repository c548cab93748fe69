// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>

#include "datasets/reader.hpp"
#include "engine/error.hpp"
#include "engine/model_path.hpp"
#include "eval/perplexity.hpp"
#include "tools/options.hpp"
#include "tools/press_options.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using eval::Row;
using eval::TextScore;

constexpr const char* end_of_text = "<|endoftext|>";

struct EvalCommand {
  Common common;
  std::vector<std::string> files;
  std::string dataset;
  std::optional<std::string> unit;
  std::size_t max_tokens = 1024;
  bool bos = false;
  PressOptions press;

  Exit operator()();
  std::vector<datasets::Document> documents() const;
  std::vector<eval::Text> tokenize(const std::vector<datasets::Document>& texts) const;
  void show(const engine::Model& model, const std::vector<Row>& rows) const;
  Json document(const engine::Model& model, const std::vector<Row>& rows) const;
  Exit warn_of_missing_cuts(const std::vector<Row>& rows) const;
};

std::vector<datasets::Document> EvalCommand::documents() const {
  std::vector<datasets::Document> all;
  const auto append = [&](std::vector<datasets::Document> more) {
    std::move(more.begin(), more.end(), std::back_inserter(all));
  };
  if (unit && dataset != "wikitext") {
    throw UsageError("--unit: needs --dataset wikitext");
  }
  const bool lists_itself = dataset.starts_with("jsonl:");
  if (!dataset.empty() && files.empty() && !lists_itself) {
    throw UsageError("--dataset " + dataset + ": needs --text with its files");
  }
  if (lists_itself && !files.empty()) {
    throw UsageError("--dataset jsonl:PATH: has its own texts (expected no --text)");
  }
  if (lists_itself) {
    append(datasets::read_jsonl(dataset.substr(6)));
    return all;
  }
  if (files.empty()) {
    const auto texts = engine::resolve_model("mini").parent_path() / "texts";
    for (const char* name : {"wikitext2_test_excerpt.txt", "pg19_10146_excerpt.txt"}) {
      all.push_back(datasets::read_plain(texts / name));
    }
    return all;
  }
  for (const std::string& file : files) {
    if (dataset == "wikitext") {
      append(datasets::read_wikitext(file, unit == "paragraph" ? datasets::WikitextUnit::paragraph
                                                               : datasets::WikitextUnit::article));
    } else if (dataset == "pg19") {
      append(datasets::read_pg19(file));
    } else {
      all.push_back(datasets::read_plain(file));
    }
  }
  return all;
}

std::vector<eval::Text> EvalCommand::tokenize(const std::vector<datasets::Document>& texts) const {
  const engine::Tokenizer tokenizer = load_tokenizer(common.model);
  const auto first = tokenizer.id_of(end_of_text);
  if (bos && !first) {
    throw engine::Error("--bos", "the tokenizer has no such token", end_of_text, "");
  }
  std::vector<eval::Text> tokenized;
  for (const datasets::Document& text : texts) {
    eval::Text entry{text.name, {}};
    if (bos) entry.tokens.push_back(*first);
    try {
      const std::vector<std::int32_t> ids = tokenizer.encode(text.text);
      entry.tokens.insert(entry.tokens.end(), ids.begin(), ids.end());
    } catch (const engine::Error& error) {
      throw engine::Error(text.name, error.what());
    }
    tokenized.push_back(std::move(entry));
  }
  return tokenized;
}

Exit EvalCommand::operator()() {
  const std::vector<datasets::Document> texts = documents();
  engine::Model model = common.load();
  std::vector<eval::RowSpec> specs;
  for (auto& [label, rule] : press.make(model.config())) specs.push_back({label, rule});
  const std::vector<eval::Text> tokenized = tokenize(texts);
  std::vector<Row> rows;
  {
    Progress progress("eval");
    rows = eval::two_phase(model, tokenized, specs, max_tokens, press.prune_after, press.trigger,
                           [&](double share) { progress(share); });
  }
  if (common.json) {
    print_json(document(model, rows));
  } else {
    show(model, rows);
  }
  return warn_of_missing_cuts(rows);
}

double log_ratio(double nll, double baseline, std::size_t scored) {
  return (nll - baseline) / static_cast<double>(scored);
}

/// Also when every layer is skipped: such a row shows no compression either.
bool is_never_cut(const Row& row, const TextScore& text) {
  if (!row.press || text.scored == 0) return false;
  return text.never_cut ||
         std::all_of(text.cuts.begin(), text.cuts.end(), [](auto cuts) { return cuts == 0; });
}

double mean_slots(const Row& row) {
  double sum = 0.0;
  for (const TextScore& text : row.texts) sum += text.mean_slots * static_cast<double>(text.scored);
  return sum / static_cast<double>(row.scored);
}

void EvalCommand::show(const engine::Model& model, const std::vector<Row>& rows) const {
  print(fmt::format("two-phase, max_tokens {}, {}\n{}\n\n", max_tokens, press.text(),
                    machine_text(model)));
  std::size_t width = 4;
  for (const TextScore& text : rows.front().texts)
    width = std::max(width, printable(text.name).size());
  print(fmt::format("{:<{}} {:>6} {:>7} {:>6} {:>11} {:>7}  {:<16} {}\n", "text", width, "keep",
                    "tokens", "scored", "perplexity", "ratio", "cuts per layer",
                    "slots at the end"));
  for (std::size_t t = 0; t < rows.front().texts.size(); ++t) {
    for (const Row& row : rows) {
      const TextScore& text = row.texts[t];
      print(
          fmt::format("{:<{}} {:>6} {:>7} ", printable(text.name), width, row.label, text.tokens));
      if (text.scored == 0) {
        print("too short, not scored\n");
        continue;
      }
      const double change = log_ratio(text.nll, rows.front().texts[t].nll, text.scored);
      print(fmt::format("{:>6} {:>11.7g} {:>7.4f}  {:<16} {}\n", text.scored,
                        std::exp(text.nll / static_cast<double>(text.scored)), std::exp(change),
                        fmt::format("{}", fmt::join(text.cuts, ",")),
                        fmt::join(text.lengths, ",")));
    }
  }
  print(fmt::format("\n{:>6} {:>11} {:>7} {:>13} {:>10} {:>9}  {}\n", "keep", "perplexity", "ratio",
                    "per document", "mean slots", "seconds", "digest of the logits"));
  for (const Row& row : rows) {
    print(fmt::format("{:>6} {:>11.7g} {:>7.4f} {:>13.7g} {:>10.1f} {:>9.3f}  {}\n", row.label,
                      row.perplexity(), std::exp(log_ratio(row.nll, rows.front().nll, row.scored)),
                      row.document_perplexity(), mean_slots(row), row.seconds, row.digest));
  }
}

Json EvalCommand::document(const engine::Model& model, const std::vector<Row>& rows) const {
  const engine::Config& config = model.config();
  const auto slot_bytes = static_cast<double>(config.heads * config.head_dim * 2 * sizeof(float));
  Json list = Json::array();
  for (const Row& row : rows) {
    Json texts = Json::array();
    for (std::size_t t = 0; t < row.texts.size(); ++t) {
      const TextScore& text = row.texts[t];
      Json entry{{"text", text.name},
                 {"tokens", text.tokens},
                 {"tokens_scored", text.scored},
                 {"effective_prune_after", text.effective_prune_after}};
      if (text.scored > 0) {
        const TextScore& baseline = rows.front().texts[t];
        const auto scored = static_cast<double>(text.scored);
        entry["nll"] = text.nll;
        entry["perplexity"] = std::exp(text.nll / scored);
        entry["baseline_perplexity"] = std::exp(baseline.nll / scored);
        entry["log_ratio"] = log_ratio(text.nll, baseline.nll, text.scored);
        entry["accuracy"] = static_cast<double>(text.correct) / scored;
        entry["cuts"] = text.cuts;
        entry["lengths"] = text.lengths;
        entry["mean_slots"] = text.mean_slots;
        entry["mean_bytes"] = text.mean_slots * slot_bytes * static_cast<double>(config.layers);
        entry["peak_bytes"] = static_cast<double>(text.peak_slots) * slot_bytes;
        entry["never_cut"] = is_never_cut(row, text);
      }
      texts.push_back(std::move(entry));
    }
    const bool by_ratio = row.label.find_first_not_of("0123456789.") == std::string::npos;
    list.push_back({{"label", row.label},
                    {"keep_ratio", by_ratio ? Json(std::stod(row.label)) : Json()},
                    {"protocol", "two-phase"},
                    {"trigger", engine::trigger_name(press.trigger)},
                    {"press", row.press ? engine::score_name(press.score) : "none"},
                    {"positions", engine::positions_name(press.positions)},
                    {"sinks", press.sinks},
                    {"recent", press.recent},
                    {"prune_after", press.prune_after},
                    {"skip_layers", press.skip_layers},
                    {"tokens_scored", row.scored},
                    {"perplexity", row.perplexity()},
                    {"document_perplexity", row.document_perplexity()},
                    {"baseline_perplexity", rows.front().perplexity()},
                    {"log_ratio", log_ratio(row.nll, rows.front().nll, row.scored)},
                    {"mean_slots", mean_slots(row)},
                    {"seconds", row.seconds},
                    {"digest", row.digest},
                    {"texts", std::move(texts)}});
  }
  return {{"rows", std::move(list)}, {"max_tokens", max_tokens}, {"machine", machine_json(model)}};
}

Exit EvalCommand::warn_of_missing_cuts(const std::vector<Row>& rows) const {
  bool missing = false;
  for (const Row& row : rows) {
    for (const TextScore& text : row.texts) {
      if (!is_never_cut(row, text)) continue;
      missing = true;
      say(
          fmt::format("neoxref: keep {}: nothing was cut in {} ({} tokens, effective "
                      "prune_after {}); this row shows no compression\n",
                      row.label, printable(text.name), text.tokens, text.effective_prune_after));
    }
  }
  return missing && !press.allow_no_cuts ? Exit::not_cut : Exit::ok;
}

std::string bad_dataset(const std::string& name) {
  const bool known =
      name == "wikitext" || name == "pg19" || (name.starts_with("jsonl:") && name.size() > 6);
  return known ? std::string{} : "expected wikitext, pg19 or jsonl:PATH, found " + name;
}

}  // namespace

Command add_eval(CLI::App& program) {
  auto state = std::make_shared<EvalCommand>();
  CLI::App* app =
      program.add_subcommand("eval", "Perplexity against the share of the KV cache that is kept");
  app->footer(
      "Two-phase protocol: the first prune_after tokens of a text enter untouched, the\n"
      "rest is scored while the cache is cut. Exits with 3 when a compressed row has a\n"
      "text that was never cut.\n"
      "Example: neoxref eval mini --keep-ratio 1,0.9,0.5,0.1 --prune-after 256");
  state->common.add_to(*app);
  app->add_option("--text", state->files,
                  "Text files, after MODEL\n(default: the two excerpts that come with mini)")
      ->type_name("FILE");
  app->add_option("--dataset", state->dataset,
                  "Read the files of --text as wikitext or pg19 (these may\nbe folders), or the "
                  "texts of jsonl:PATH")
      ->type_name("NAME")
      ->check(bad_dataset);
  app->add_option("--unit", state->unit,
                  "With --dataset wikitext: article or paragraph\n(default: article)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"article", "paragraph"}));
  add_count(*app, "--max-tokens", state->max_tokens, eval::least_tokens, largest_count,
            "Tokens of each text that are used (default: 1024)");
  app->add_flag("--bos", state->bos, "Put <|endoftext|> first; it is never scored");
  state->press.add_to(*app, true);
  return [state] {
    state->press.check_usage();
    if (!state->press.given()) state->press.keep_ratios = {"1", "0.9", "0.5", "0.1"};
    return (*state)();
  };
}

}  // namespace neoxref::tools
