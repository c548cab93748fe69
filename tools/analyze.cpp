// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/error.hpp"
#include "eval/attention_analysis.hpp"
#include "eval/future_attention.hpp"
#include "tools/analyze_report.hpp"
#include "tools/eval_texts.hpp"
#include "tools/options.hpp"
#include "tools/press_options.hpp"

namespace neoxref::tools {
namespace {

using engine::Score;

constexpr const char* end_of_text = "<|endoftext|>";

struct AnalyzeCommand {
  Common common;
  TextOptions texts;
  std::vector<Score> scores;
  eval::AnalysisOptions options;
  bool bos = false;
  std::string csv;
  bool future = false;
  PressOptions press;  ///< of --future
  std::vector<Option> of_future;

  void check_usage();
  Exit operator()();
  std::vector<Score> default_scores(const engine::Config& config) const;
  eval::Sweep run_future(engine::Model& model, const std::vector<eval::Text>& read) const;
  Exit warn_of_missing_cuts(const eval::Sweep& sweep) const;
};

void AnalyzeCommand::check_usage() {
  for (const Option option : of_future) {
    if (option.given() && !future) throw UsageError(option.name() + ": needs --future");
  }
  if (future && options.max_tokens < eval::least_tokens) {
    throw UsageError(fmt::format("--max-tokens: with --future at least {}", eval::least_tokens));
  }
  press.trigger = engine::Trigger::after_prompt;
  if (press.keep_ratios.empty()) press.keep_ratios = {"0.9", "0.5", "0.1"};
}

std::vector<Score> AnalyzeCommand::default_scores(const engine::Config& config) const {
  std::vector<Score> all = {
      Score::knorm, Score::knorm_high, Score::knorm_rot, Score::knorm_pass, Score::knorm_centered,
      Score::vnorm, Score::vk_ratio,   Score::recent,    Score::keydiff,    Score::random};
  if (future) {
    for (const Score score : {Score::observed, Score::observed_sum, Score::tova, Score::snapkv}) {
      all.push_back(score);
    }
  }
  std::erase_if(all, [&](Score score) {
    return (score == Score::knorm_rot && config.rotary_dims == 0) ||
           (score == Score::knorm_pass && config.rotary_dims == config.head_dim);
  });
  return all;
}

eval::Sweep AnalyzeCommand::run_future(engine::Model& model,
                                       const std::vector<eval::Text>& read) const {
  PressOptions rules = press;
  rules.scores = scores;
  std::vector<eval::Arm> arms;
  const auto reference = std::make_shared<eval::FutureReference>();
  for (const std::string& ratio : press.keep_ratios) {
    rules.keep_ratios = {ratio};
    const auto presses = rules.make(model.config());
    if (presses.empty()) continue;  // keeps all
    const std::size_t schedule = arms.size() + 1;
    eval::Arm arm{presses.front().first, presses.front().second, schedule, false};
    arm.press.score = Score::own;
    arm.press.own = reference;
    arms.push_back(arm);
    for (const auto& [label, rule] : presses) arms.push_back({label, rule, schedule, false});
  }
  if (arms.empty()) {
    throw engine::Error("--keep-ratio", "keeps all, so there is nothing to compare",
                        "a ratio below 1", press.keep_ratios.front());
  }
  eval::SweepOptions sweep;
  sweep.layout.max_tokens = options.max_tokens;
  sweep.first_token = options.first_token;
  Progress progress("future");
  sweep.progress = [&](double share) { progress(share); };
  return eval::evaluate(model, read, arms, sweep);
}

Exit AnalyzeCommand::warn_of_missing_cuts(const eval::Sweep& sweep) const {
  Exit exit = Exit::ok;
  for (const eval::Row& row : sweep.rows) {
    // All scores of a budget cut alike: the reference stands for them.
    if (row.arm.press.score != Score::own) continue;
    std::size_t count = 0;
    for (const eval::TextScore& text : row.texts) {
      if (text.never_cut && count++ == 0) {
        say(fmt::format("neoxref: keep {}: nothing was cut in {} ({} tokens)\n", row.arm.label,
                        printable(text.name), text.tokens));
      }
    }
    if (count > 1) {
      say(fmt::format("neoxref: keep {}: nor in {} more of {} texts\n", row.arm.label, count - 1,
                      row.texts.size()));
    }
    if (count > 0) exit = Exit::not_cut;
  }
  return exit;
}

Exit AnalyzeCommand::operator()() {
  const engine::Tokenizer tokenizer = load_tokenizer(common.model);
  if (bos) {
    options.first_token = tokenizer.id_of(end_of_text);
    if (!options.first_token) {
      throw engine::Error("--bos", "the tokenizer has no such token", end_of_text, "");
    }
  }
  const std::vector<eval::Text> read = texts.read(tokenizer);
  engine::Model model = common.load();
  if (scores.empty()) scores = default_scores(model.config());
  AnalysisReport report{model, read, options.max_tokens, texts.text(), {}, {}};
  std::vector<engine::Press> presses;
  for (const Score score : scores) {
    // With --future these are arms beside the reference.
    if (future && !eval::can_analyse(score)) continue;
    engine::Press rule;
    rule.score = score;
    rule.seed = press.seed;
    presses.push_back(rule);
  }
  if (!presses.empty()) {
    Progress progress("analyze");
    options.progress = [&](double share) { progress(share); };
    report.analysis = eval::analyse(model, read, presses, options);
  } else if (!csv.empty()) {
    throw engine::Error("--csv", "no score can be held against attention",
                        "one that is not made of attention", "");
  }
  if (future) report.future = run_future(model, read);
  if (!csv.empty()) write_analysis_csv(csv, report);
  if (common.json) {
    print_json(analysis_json(report));
  } else {
    show_analysis(report);
  }
  return report.future ? warn_of_missing_cuts(*report.future) : Exit::ok;
}

void add_future(CommandLine app, AnalyzeCommand& state) {
  constexpr const char* group = "Reference";
  app.add_flag("--future", state.future,
               "Also cut each text once, behind its prompt, and set every\nscore beside the one "
               "that knows the attention to come")
      .group(group);
  state.of_future = {
      add_keep_ratio(app, state.press.keep_ratios, true,
                     "Shares of the slots that the cut keeps\n(default: 0.9,0.5,0.1)"),
      app.add_count("--prune-after", state.press.prune_afters.front(), 0, largest_count,
                    "Tokens of the prompt, as in eval (default: 256)"),
      app.add_count("--sinks", state.press.sinks, 0, largest_count,
                    "First slots that are always kept (default: 0)"),
      app.add_count("--recent", state.press.recent, 0, largest_count,
                    "Last slots that are always kept (default: 0)"),
      add_skip_layers(app, state.press.skip_layers)};
  for (Option option : state.of_future) option.group(group);
}

}  // namespace

Command add_analyze(CommandLine program) {
  auto state = std::make_shared<AnalyzeCommand>();
  const CommandLine app = program.add_subcommand(
      "analyze", "How well scores rank slots by the attention that they draw",
      "ALR, the attention lost by dropping slots in the order of a score instead of the\n"
      "ideal one, and Spearman's rank correlation, by layer and head of runs without a\n"
      "press. Definitions: docs/analysis.md.\n"
      "Examples:\n"
      "  neoxref analyze mini --score knorm,knorm-high,random\n"
      "  neoxref analyze mini --dataset wikitext --text wiki.test.raw --json\n"
      "  neoxref analyze mini --future --keep-ratio 0.5,0.1");
  state->common.add_to(app);
  state->texts.add_to(app);
  app.add_count("--max-tokens", state->options.max_tokens, eval::first_analysed_query + 1,
                largest_count, "Tokens of each text, or of a window (default: 1024)");
  app.add_count("--windows", state->options.windows, 1, largest_count,
                "Most windows of a text, side by side (default: 1)");
  app.add_flag("--bos", state->bos, "Put <|endoftext|> first");
  add_scores(app, state->scores,
             "knorm, knorm-high, knorm-rot, knorm-pass,\nknorm-centered, vnorm, vk-ratio, recent, "
             "keydiff,\nrandom (default: all); with --future any score");
  app.add_count("--press-seed", state->press.seed, 0, std::numeric_limits<std::uint64_t>::max(),
                "Seed of the random scores (default: 0)");
  app.add_option("--csv", state->csv, "Write the figures of every window and head as CSV")
      .type_name("FILE");
  add_future(app, *state);
  return [state] {
    state->check_usage();
    return (*state)();
  };
}

}  // namespace neoxref::tools
