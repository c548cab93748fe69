// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/error.hpp"
#include "engine/model_path.hpp"
#include "eval/digest.hpp"
#include "eval/sweep.hpp"
#include "tools/eval_files.hpp"
#include "tools/eval_page.hpp"
#include "tools/eval_presets.hpp"
#include "tools/eval_report.hpp"
#include "tools/eval_series.hpp"
#include "tools/eval_texts.hpp"
#include "tools/options.hpp"
#include "tools/plots.hpp"
#include "tools/press_options.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using eval::Protocol;
using eval::Row;
using eval::Sweep;
using eval::TextScore;

constexpr const char* end_of_text = "<|endoftext|>";
constexpr std::size_t control_seeds = 5;

struct EvalCommand {
  Common common;
  TextOptions texts;
  eval::Layout layout;
  bool bos = false;
  PressOptions press;
  std::string preset;
  bool controls = false;
  std::string per_token;
  std::string csv;
  std::string series;
  std::string html;
  std::string resume;
  std::vector<Option> fixed_by_preset;

  void check_usage();
  Exit operator()();
  std::vector<eval::Arm> arms(const engine::Config& config) const;
  Json identity(const std::vector<eval::Text>& read, const std::vector<eval::Arm>& arms) const;
  std::string settings() const;
  void check_outputs() const;
  /// For a page: the scores of the sweep against attention.
  std::optional<eval::Analysis> analyse(engine::Model& model, const std::vector<eval::Text>& read,
                                        const Sweep& sweep,
                                        std::optional<std::int32_t> first_token) const;
  Exit warn_of_missing_cuts(const Sweep& sweep) const;
};

void EvalCommand::check_usage() {
  if (!preset.empty()) {
    std::vector<std::string> given = press.given_names();
    for (const Option option : fixed_by_preset) {
      if (option.given()) given.push_back(option.name());
    }
    if (!given.empty()) throw UsageError("--preset " + preset + ": fixes " + given.front());
    apply(*find_preset(preset), press, layout);
  }
  press.check_usage();
  if (!press.given()) press.keep_ratios = {"1", "0.9", "0.5", "0.1"};
  if (layout.protocol == Protocol::two_phase && layout.max_tokens < eval::least_tokens) {
    throw UsageError(
        fmt::format("--max-tokens: the protocol two-phase scores texts of {} tokens and "
                    "more, found {}",
                    eval::least_tokens, layout.max_tokens));
  }
  if (layout.protocol == Protocol::sliding && layout.stride == 0) {
    throw UsageError("--protocol sliding: needs --stride");
  }
  if (layout.protocol != Protocol::sliding && layout.stride > 0) {
    throw UsageError("--stride: needs --protocol sliding");
  }
  if (press.trigger == engine::Trigger::after_prompt && layout.protocol != Protocol::two_phase) {
    throw UsageError("--trigger after-prompt: needs --protocol two-phase, the one with a prompt");
  }
  const bool phases = layout.protocol == Protocol::two_phase || layout.protocol == Protocol::all;
  if (!texts.task.empty() && !phases) {
    throw UsageError("--task " + texts.task + ": needs --protocol two-phase or all");
  }
}

std::vector<eval::Arm> EvalCommand::arms(const engine::Config& config) const {
  std::vector<eval::Arm> all;
  for (const std::size_t prune_after : press.prune_afters) {
    // The uncompressed run, also where no budget cuts.
    eval::Arm full{"1", {}};
    full.press.trigger = press.trigger;
    full.press.interval = press.interval;
    full.press.prune_after = prune_after;
    full.press.skip_layers = press.skip_layers;
    all.push_back(full);
  }
  // Arms that differ in their score only follow each other.
  std::size_t schedule = 0;
  const std::pair<std::string, engine::Press>* before = nullptr;
  const auto presses = press.make(config);
  for (const auto& each : presses) {
    const auto& [label, rule] = each;
    const bool same = before != nullptr && before->first == label &&
                      before->second.prune_after == rule.prune_after;
    if (!same) ++schedule;
    all.push_back({label, rule, schedule, false});
    before = &each;
  }
  return controls ? eval::with_controls(all, control_seeds) : all;
}

std::string EvalCommand::settings() const {
  return (preset.empty() ? "" : "preset " + preset + ", ") + press.text() + ", " + texts.text() +
         (controls ? fmt::format(", controls of {} seeds", control_seeds) : "");
}

/// What an interrupted sweep must have in common with the one that finishes it.
Json EvalCommand::identity(const std::vector<eval::Text>& read,
                           const std::vector<eval::Arm>& all) const {
  Json files = Json::array();
  const auto folder = engine::resolve_model(common.model);
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_regular_file()) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    files.push_back({path.filename().string(), std::filesystem::file_size(path),
                     std::filesystem::last_write_time(path).time_since_epoch().count()});
  }
  eval::Digest tokens;
  for (const eval::Text& text : read) {
    // Ids are below 2^24, so exact as floats; -1 ends a text.
    std::vector<float> ids(text.tokens.begin(), text.tokens.end());
    ids.push_back(-1.0f);
    ids.push_back(static_cast<float>(text.target));
    tokens.add(ids);
  }
  Json rows = Json::array();
  const Sweep sweep{layout, eval::make_rows(all)};
  for (const Row& row : sweep.rows) {
    Json entry = arm_json(sweep, row);
    entry["schedule"] = row.arm.schedule;
    rows.push_back(std::move(entry));
  }
  return {{"program", NEOXREF_VERSION},
          {"model", files},
          {"texts", read.size()},
          {"tokens", tokens.hex()},
          {"max_tokens", layout.max_tokens},
          {"stride", layout.stride},
          {"bos", bos},
          {"rows", std::move(rows)}};
}

/// What would be said only after hours.
void EvalCommand::check_outputs() const {
  for (const std::string* path : {&csv, &per_token, &series, &html}) {
    if (!path->empty()) OutputFile{*path};
  }
}

Exit EvalCommand::operator()() {
  check_outputs();
  const std::string gnuplot = html.empty() ? "" : gnuplot_version();
  const engine::Tokenizer tokenizer = load_tokenizer(common.model);
  eval::SweepOptions options;
  options.layout = layout;
  if (bos) {
    options.first_token = tokenizer.id_of(end_of_text);
    if (!options.first_token) {
      throw engine::Error("--bos", "the tokenizer has no such token", end_of_text, "");
    }
  }
  const std::vector<eval::Text> read = texts.read(tokenizer);
  engine::Model model = common.load();
  const std::vector<eval::Arm> all = arms(model.config());
  std::unique_ptr<Journal> journal;
  if (!resume.empty()) {
    journal = std::make_unique<Journal>(resume, identity(read, all));
    options.done = journal->take_done();
    options.text_done = [&](std::size_t, const eval::TextResult& result) { journal->add(result); };
  }
  Sweep sweep;
  {
    Progress progress("eval");
    options.progress = [&](double share) { progress(share); };
    sweep = eval::evaluate(model, read, all, options);
  }
  const ReportContext context{
      model, sweep, settings(), texts.task, find_preset(preset), intervals_of(sweep)};
  if (!csv.empty()) write_csv(csv, context);
  if (!per_token.empty()) write_per_token(per_token, sweep);
  if (!series.empty()) write_series(series, sweep);
  if (!html.empty()) {
    write_page(html, {context, command_line(), common.model, model_files_json(common.model),
                      gnuplot, analyse(model, read, sweep, options.first_token)});
  }
  if (common.json) {
    print_json(sweep_json(context));
  } else {
    show_sweep(context);
  }
  return warn_of_missing_cuts(sweep);
}

std::optional<eval::Analysis> EvalCommand::analyse(engine::Model& model,
                                                   const std::vector<eval::Text>& read,
                                                   const Sweep& sweep,
                                                   std::optional<std::int32_t> first_token) const {
  std::vector<engine::Press> scores;
  for (const Row& row : sweep.rows) {
    const engine::Press& rule = row.arm.press;
    const bool known = std::any_of(scores.begin(), scores.end(), [&](const engine::Press& other) {
      return other.score == rule.score;
    });
    if (row.compressed && !known && eval::can_analyse(rule.score)) scores.push_back(rule);
  }
  const bool long_enough = std::any_of(read.begin(), read.end(), [](const eval::Text& text) {
    return text.tokens.size() > eval::first_analysed_query;
  });
  if (scores.empty() || !long_enough || layout.max_tokens <= eval::first_analysed_query) return {};
  eval::AnalysisOptions options;
  options.max_tokens = layout.max_tokens;
  options.first_token = first_token;
  Progress progress("analysis");
  options.progress = [&](double share) { progress(share); };
  return eval::analyse(model, read, scores, options);
}

Exit EvalCommand::warn_of_missing_cuts(const Sweep& sweep) const {
  // A line for each text would drown the row's other news.
  constexpr std::size_t most_named = 4;
  bool missing = false;
  for (const Row& row : sweep.rows) {
    std::size_t count = 0;
    for (const TextScore& text : row.texts) {
      if (!text.never_cut || ++count > most_named) continue;
      const std::size_t limit = text.windows.empty() ? row.arm.press.prune_after
                                                     : text.windows.front().course.prune_after;
      say(
          fmt::format("neoxref: keep {}: nothing was cut in {} ({} tokens, effective "
                      "prune_after {}); this row shows no compression\n",
                      row_name(sweep, row), printable(text.name), text.tokens, limit));
    }
    if (count > most_named) {
      say(fmt::format("neoxref: keep {}: nor in {} more of {} texts\n", row_name(sweep, row),
                      count - most_named, row.texts.size()));
    }
    missing = missing || count > 0;
  }
  return missing && !press.allow_no_cuts ? Exit::not_cut : Exit::ok;
}

void add_outputs(CommandLine app, EvalCommand& state) {
  constexpr const char* group = "Output";
  app.add_option("--csv", state.csv, "Write the rows and their texts as CSV")
      .type_name("FILE")
      .group(group);
  app.add_option("--per-token", state.per_token,
                 "Write nll, position, cuts so far and distance since the\nlast cut of every "
                 "scored token: CSV, or JSON lines where\nFILE ends in .jsonl")
      .type_name("FILE")
      .group(group);
  app.add_option("--series", state.series, "Write the numbers of the pictures of --html as CSV")
      .type_name("FILE")
      .group(group);
  app.add_option("--html", state.html,
                 "Write one page with pictures and tables; needs gnuplot\n(Debian package "
                 "gnuplot-nox)")
      .type_name("FILE")
      .group(group);
  app.add_option("--resume", state.resume,
                 "Keep finished texts in FILE; a sweep that was interrupted\ngoes on from there")
      .type_name("FILE")
      .group(group);
}

void add_protocol(CommandLine app, EvalCommand& state) {
  constexpr const char* group = "Protocol";
  const auto protocol = [&state](const std::string& name) {
    try {
      state.layout.protocol = eval::parse_protocol(name);
    } catch (const engine::Error& error) {
      throw UsageError(error.what());
    }
  };
  state.fixed_by_preset = {
      app.add_function("--protocol", protocol,
                       "two-phase, all, after-first-cut, sliding or fixed\n(default: two-phase)")
          .type_name("NAME"),
      app.add_count("--max-tokens", state.layout.max_tokens, 3, largest_count,
                    "Tokens of each text, or of a window of sliding and fixed\n(default: 1024)"),
      app.add_count("--stride", state.layout.stride, 1, largest_count,
                    "sliding: tokens between the beginnings of two windows"),
      app.add_flag("--bos", state.bos, "Put <|endoftext|> first; it is never scored")};
  for (Option option : state.fixed_by_preset) option.group(group);
  app.add_option("--preset", state.preset,
                 "study-1, study-2 or study-final: all choices of an\nexperiment of the KnormPress "
                 "study")
      .type_name("NAME")
      .one_of({"study-1", "study-2", "study-final"})
      .group(group);
}

}  // namespace

Command add_eval(CommandLine program) {
  auto state = std::make_shared<EvalCommand>();
  const CommandLine app = program.add_subcommand(
      "eval", "Perplexity against the share of the KV cache that is kept",
      "Two-phase protocol: the first prune_after tokens of a text enter untouched, the\n"
      "rest is scored while the cache is cut. The others, and every figure, are defined\n"
      "in docs/protocols.md. Lists give every combination. Exits with 3 when a\n"
      "compressed row has a text that was never cut.\n"
      "Examples:\n"
      "  neoxref eval mini --keep-ratio 1,0.9,0.5,0.1 --prune-after 256\n"
      "  neoxref eval mini --score knorm,keydiff --keep-ratio 0.5 --controls\n"
      "  neoxref eval mini --protocol fixed --dataset wikitext --keep-ratio 1");
  state->common.add_to(app);
  state->texts.add_to(app);
  state->texts.add_task_to(app);
  add_protocol(app, *state);
  state->press.add_to(app, true);
  app.add_flag("--controls", state->controls,
               "Beside each budget: random and random-fresh with 5 seeds,\nand recent, with slots "
               "equal at every step")
      .group("Compression");
  add_outputs(app, *state);
  return [state] {
    state->check_usage();
    return (*state)();
  };
}

}  // namespace neoxref::tools
