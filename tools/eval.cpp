// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

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

struct EvalCommand {
  Common common;
  std::vector<std::string> files;
  std::string dataset;
  std::string unit = "article";
  std::size_t max_tokens = 1024;
  bool bos = false;
  PressOptions press;

  Exit operator()();
  std::vector<datasets::Document> documents() const;
  void print(const engine::Model& model, const std::vector<Row>& rows) const;
  Json document(const engine::Model& model, const std::vector<Row>& rows) const;
  Exit warn_of_missing_cuts(const std::vector<Row>& rows) const;
};

std::vector<datasets::Document> EvalCommand::documents() const {
  std::vector<datasets::Document> all;
  const auto append = [&](std::vector<datasets::Document> more) {
    std::move(more.begin(), more.end(), std::back_inserter(all));
  };
  if (!dataset.empty() && files.empty() && !dataset.starts_with("jsonl:")) {
    throw std::invalid_argument("eval: --dataset " + dataset + " needs --text with its files");
  }
  if (dataset.starts_with("jsonl:")) {
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
      append(datasets::read_wikitext(file, unit == "article" ? datasets::WikitextUnit::article
                                                             : datasets::WikitextUnit::paragraph));
    } else if (dataset == "pg19") {
      append(datasets::read_pg19(file));
    } else {
      all.push_back(datasets::read_plain(file));
    }
  }
  return all;
}

Exit EvalCommand::operator()() {
  const std::vector<datasets::Document> texts = documents();
  engine::Model model = common.load();
  const engine::Tokenizer tokenizer = load_tokenizer(common.model);
  std::vector<eval::Text> tokenized;
  for (const datasets::Document& text : texts) {
    eval::Text entry{text.name, {}};
    if (bos) entry.tokens.push_back(0);
    try {
      const std::vector<std::int32_t> ids = tokenizer.encode(text.text);
      entry.tokens.insert(entry.tokens.end(), ids.begin(), ids.end());
    } catch (const engine::Error& error) {
      throw engine::Error(text.name, error.what());
    }
    tokenized.push_back(std::move(entry));
  }
  eval::TwoPhase settings{max_tokens, press.prune_after, press.skipped(model.config())};
  std::vector<Row> rows;
  {
    Progress progress("eval");
    rows = eval::two_phase(model, tokenized, press.keep_ratios, settings,
                           [&](double share) { progress(share); });
  }
  if (common.json) {
    print_json(document(model, rows));
  } else {
    print(model, rows);
  }
  return warn_of_missing_cuts(rows);
}

double log_ratio(double nll, double baseline, std::size_t scored) {
  return (nll - baseline) / static_cast<double>(scored);
}

double mean_slots(const Row& row) {
  double sum = 0.0;
  for (const TextScore& text : row.texts) sum += text.mean_slots * static_cast<double>(text.scored);
  return sum / static_cast<double>(row.scored);
}

void EvalCommand::print(const engine::Model& model, const std::vector<Row>& rows) const {
  fmt::print(
      "two-phase, trigger exceeds, score knorm, prune_after {}, max_tokens {}, skip layers {}\n",
      press.prune_after, max_tokens, press.skip_layers);
  fmt::print("{}, {} x {}\n\n", model.kernels().name, engine::backend_name(model.team().backend()),
             model.team().threads());
  fmt::print("{:<34} {:>6} {:>7} {:>6} {:>11} {:>7}  {:<16} {:<}\n", "text", "keep", "tokens",
             "scored", "perplexity", "ratio", "cuts per layer", "slots at the end");
  for (std::size_t t = 0; t < rows.front().texts.size(); ++t) {
    for (const Row& row : rows) {
      const TextScore& text = row.texts[t];
      if (text.scored == 0) {
        fmt::print("{:<34} {:>6} {:>7} too short, not scored\n", text.name, row.keep_ratio,
                   text.tokens);
        continue;
      }
      const double change = log_ratio(text.nll, rows.front().texts[t].nll, text.scored);
      fmt::print("{:<34} {:>6} {:>7} {:>6} {:>11.7g} {:>7.4f}  {:<16} {}\n", text.name,
                 row.keep_ratio, text.tokens, text.scored,
                 std::exp(text.nll / static_cast<double>(text.scored)), std::exp(change),
                 fmt::format("{}", fmt::join(text.cuts, ",")), fmt::join(text.lengths, ","));
    }
  }
  fmt::print("\n{:>6} {:>11} {:>7} {:>13} {:>10} {:>9}  {}\n", "keep", "perplexity", "ratio",
             "per document", "mean slots", "seconds", "digest of the logits");
  for (const Row& row : rows) {
    fmt::print("{:>6} {:>11.7g} {:>7.4f} {:>13.7g} {:>10.1f} {:>9.3f}  {}\n", row.keep_ratio,
               row.perplexity(), std::exp(log_ratio(row.nll, rows.front().nll, row.scored)),
               row.document_perplexity(), mean_slots(row), row.seconds, row.digest);
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
        entry["never_cut"] = text.never_cut;
      }
      texts.push_back(std::move(entry));
    }
    list.push_back({{"keep_ratio", std::stod(row.keep_ratio)},
                    {"protocol", "two-phase"},
                    {"trigger", "exceeds"},
                    {"press", row.compressed ? "knorm" : "none"},
                    {"prune_after", press.prune_after},
                    {"skip_layers", press.skipped(config)},
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
      if (!text.never_cut) continue;
      missing = true;
      fmt::print(stderr,
                 "neoxref: keep_ratio {}: nothing was cut in {}: its {} tokens stayed within "
                 "prune_after ({} effective); this row shows no compression\n",
                 row.keep_ratio, text.name, text.tokens, text.effective_prune_after);
    }
  }
  return missing && !press.allow_no_cuts ? Exit::not_cut : Exit::ok;
}

}  // namespace

Command add_eval(CLI::App& program) {
  auto state = std::make_shared<EvalCommand>();
  CLI::App* app = program.add_subcommand(
      "eval", "Perplexity against the share of the KV cache that is kept (two-phase protocol)");
  state->common.add_to(*app);
  app->add_option("--text", state->files, "Text files (default: the two embedded excerpts)");
  app->add_option("--dataset", state->dataset,
                  "How the files are read: wikitext or pg19; or jsonl:PATH")
      ->check([](const std::string& name) {
        return name == "wikitext" || name == "pg19" || name.starts_with("jsonl:")
                   ? std::string{}
                   : "expected wikitext, pg19 or jsonl:PATH, found " + name;
      });
  app->add_option("--unit", state->unit, "With --dataset wikitext: article or paragraph")
      ->check(CLI::IsMember({"article", "paragraph"}))
      ->capture_default_str();
  app->add_option("--max-tokens", state->max_tokens, "Tokens of each text that are used")
      ->capture_default_str();
  app->add_flag("--bos", state->bos, "Put <|endoftext|> (id 0) first; it is never scored");
  state->press.add_to(*app, true);
  return [state] {
    if (state->press.keep_ratios.empty()) state->press.keep_ratios = {"1", "0.9", "0.5", "0.1"};
    return (*state)();
  };
}

}  // namespace neoxref::tools
