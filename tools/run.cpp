// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "engine/error.hpp"
#include "engine/sampler.hpp"
#include "eval/digest.hpp"
#include "eval/perplexity.hpp"
#include "tools/options.hpp"
#include "tools/press_options.hpp"

namespace neoxref::tools {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

struct Result {
  std::vector<std::int32_t> prompt;
  std::vector<std::int32_t> generated;
  std::string text;
  std::string finish;
  std::string digest;
  Json logprobs = Json::array();
  double load_seconds = 0.0;
  double first_token_seconds = 0.0;  ///< ids in until the first new id is known
  double decode_seconds = 0.0;       ///< from the first new id to the last

  /// Nothing where the figure would mean nothing.
  std::optional<double> time_to_first_token() const {
    if (generated.empty()) return std::nullopt;
    return first_token_seconds;
  }
  std::optional<double> tokens_per_second() const {
    if (generated.size() < 2 || decode_seconds <= 0.0) return std::nullopt;
    return static_cast<double>(generated.size() - 1) / decode_seconds;
  }
};

struct RunCommand {
  Common common;
  std::optional<std::string> prompt;
  std::optional<std::string> file;
  std::size_t max_new = 128;
  double temperature = 0.0;
  std::size_t top_k = 0;
  double top_p = 1.0;
  std::uint64_t seed = 0;
  std::vector<std::string> stops;
  bool ignore_eos = false;
  std::size_t logprobs = 0;
  PressOptions press;

  Exit operator()();
  void check_usage() const;
  Json document(const engine::Model& model, const Result& result) const;
  Exit warn_of_missing_cuts(const engine::Sequence& sequence) const;
};

double seconds_between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

/// A model may have more rows than its tokenizer has tokens; these stand for no text.
bool has_text(const engine::Tokenizer& tokenizer, std::int32_t id) {
  return static_cast<std::size_t>(id) < tokenizer.vocab_size();
}

/// Text that may be shown: everything before a stop string, and nothing that could still become
/// one.
class StopFilter {
public:
  explicit StopFilter(const std::vector<std::string>& stops) : stops_(stops) {
    for (const std::string& stop : stops) longest_ = std::max(longest_, stop.size());
  }

  std::string push(std::string_view piece) {
    pending_ += piece;
    std::size_t found = std::string::npos;
    for (const std::string& stop : stops_) found = std::min(found, pending_.find(stop));
    if (found != std::string::npos) {
      stopped_ = true;
      return take(found);
    }
    std::size_t held = std::min(longest_ == 0 ? 0 : longest_ - 1, pending_.size());
    for (; held > 0; --held) {
      const std::string_view tail = std::string_view(pending_).substr(pending_.size() - held);
      if (std::any_of(stops_.begin(), stops_.end(),
                      [&](const std::string& stop) { return stop.compare(0, held, tail) == 0; })) {
        break;
      }
    }
    return take(pending_.size() - held);
  }
  std::string finish() { return stopped_ ? std::string{} : take(pending_.size()); }
  bool stopped() const { return stopped_; }

private:
  std::string take(std::size_t count) {
    std::string ready = pending_.substr(0, count);
    pending_.erase(0, count);
    return ready;
  }
  const std::vector<std::string>& stops_;
  std::size_t longest_ = 0;
  std::string pending_;
  bool stopped_ = false;
};

/// The n most probable next tokens with their log probabilities.
Json top_logprobs(const engine::Model& model, const engine::Tokenizer& tokenizer,
                  std::span<const float> logits, std::size_t n) {
  std::vector<std::int32_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(std::min(n, order.size()));
  std::partial_sort(order.begin(), end, order.end(), [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  });
  Json list = Json::array();
  for (auto id = order.begin(); id != end; ++id) {
    const std::int32_t one[] = {*id};
    list.push_back({{"id", *id},
                    {"text", has_text(tokenizer, *id) ? tokenizer.decode(one) : std::string{}},
                    {"logprob", -eval::nll(model.kernels(), logits, *id)}});
  }
  return list;
}

/// Per layer, as eval names them.
void add_cuts(Json& document, const engine::Sequence& sequence) {
  const std::size_t layers = sequence.cache.shape().layers;
  std::vector<std::size_t> cuts(layers, 0);
  std::vector<std::size_t> lengths;
  for (const engine::Cut& cut : sequence.cuts) ++cuts[cut.layer];
  for (std::size_t layer = 0; layer < layers; ++layer) {
    lengths.push_back(sequence.cache.longest(layer));
  }
  document["cuts"] = cuts;
  document["lengths"] = lengths;
}

/// For people: how much, how fast, on what.
std::string summary(const engine::Model& model, const Result& result) {
  std::string line = fmt::format("{} prompt tokens, {} new ({})", result.prompt.size(),
                                 result.generated.size(), result.finish);
  if (const auto seconds = result.time_to_first_token()) {
    line += fmt::format("; first token after {:.1f} ms", *seconds * 1e3);
  }
  if (const auto rate = result.tokens_per_second())
    line += fmt::format(", then {:.1f} tokens/s", *rate);
  return fmt::format("{}; {}\ndigest {}\n", line, machine_text(model), result.digest);
}

void RunCommand::check_usage() const {
  if (prompt.has_value() == file.has_value()) {
    throw UsageError("expected exactly one of --prompt and --file");
  }
  if (std::any_of(stops.begin(), stops.end(), [](const auto& stop) { return stop.empty(); })) {
    throw UsageError("--stop: not usable (expected a text, found nothing)");
  }
  if (logprobs > 0 && !common.json) throw UsageError("--logprobs: needs --json");
  press.check_usage();
}

Exit RunCommand::operator()() {
  check_usage();
  Result result;
  const auto start = Clock::now();
  engine::Model model = common.load();
  const engine::Tokenizer tokenizer = load_tokenizer(common.model);
  result.load_seconds = seconds_between(start, Clock::now());
  result.prompt = prompt ? encode_some(tokenizer, *prompt, "--prompt")
                         : encode_some(tokenizer, read_file(*file), *file);
  const std::size_t context = model.config().max_positions;
  const auto presses = press.make(model.config());
  const std::optional<engine::Press> rule =
      presses.empty() ? std::nullopt : std::optional(presses.front().second);
  // Renumbered slots never run out of positions.
  const bool endless = rule && rule->positions == engine::Positions::rerotate;
  if (!endless && result.prompt.size() > context) {
    throw engine::Error("prompt", "longer than the context of the model",
                        "at most " + std::to_string(context) + " tokens",
                        std::to_string(result.prompt.size()));
  }
  // The last new token need not enter the cache.
  const std::size_t limit =
      endless ? max_new : std::min<std::size_t>(max_new, context - result.prompt.size() + 1);
  engine::Sequence sequence =
      model.sequence(std::min<std::size_t>(context, result.prompt.size() + limit), rule);
  engine::Sampler sampler({static_cast<float>(temperature), top_k, top_p, seed}, model.kernels());
  engine::StreamDecoder decoder(tokenizer);
  StopFilter filter(stops);
  eval::Digest digest;
  std::vector<float> logits(model.config().vocab);
  result.finish = limit < max_new ? "context" : "max_new";
  const auto show = [&](const std::string& piece) {
    result.text += piece;
    if (common.json || piece.empty()) return;
    print(piece);
    flush_output();
  };

  const auto begin = Clock::now();
  auto first = begin;
  std::vector<std::int32_t> next = result.prompt;
  while (result.generated.size() < limit) {
    engine::Step step{&sequence, next, engine::LogitRows::last, logits.data()};
    if (!model.forward({&step, 1})) {
      throw engine::Error("run", engine::describe(*step.failure));
    }
    if (result.generated.empty()) sequence.end_prompt();
    digest.add(logits);
    const std::int32_t token = sampler.draw(logits, sequence.position);
    const auto now = Clock::now();
    if (result.generated.empty()) {
      first = now;
      result.first_token_seconds = seconds_between(begin, first);
    }
    result.decode_seconds = seconds_between(first, now);
    if (logprobs > 0) {
      result.logprobs.push_back(top_logprobs(model, tokenizer, logits, logprobs));
    }
    result.generated.push_back(token);
    const auto& eos = model.config().eos_token_ids;
    if (!ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) {
      result.finish = "eos";
      break;
    }
    if (has_text(tokenizer, token)) show(filter.push(decoder.push(token)));
    if (filter.stopped()) {
      result.finish = "stop";
      break;
    }
    next = {token};
  }
  if (!filter.stopped()) {
    show(filter.push(decoder.finish()));
    show(filter.finish());
    if (filter.stopped()) result.finish = "stop";
  }
  result.digest = digest.hex();
  if (common.json) {
    Json whole = document(model, result);
    if (press.given()) add_cuts(whole, sequence);
    print_json(whole);
  } else {
    print("\n");
    flush_output();
    say(summary(model, result));
  }
  return warn_of_missing_cuts(sequence);
}

Json RunCommand::document(const engine::Model& model, const Result& result) const {
  const auto or_null = [](std::optional<double> value) { return value ? Json(*value) : Json(); };
  Json whole{{"text", result.text},
             {"tokens", result.generated},
             {"prompt_tokens", result.prompt},
             {"finish", result.finish},
             {"digest", result.digest},
             {"load_seconds", result.load_seconds},
             {"time_to_first_token", or_null(result.time_to_first_token())},
             {"tokens_per_second", or_null(result.tokens_per_second())},
             {"machine", machine_json(model)}};
  if (logprobs > 0) whole["logprobs"] = result.logprobs;
  return whole;
}

Exit RunCommand::warn_of_missing_cuts(const engine::Sequence& sequence) const {
  if (!sequence.press()) return Exit::ok;
  const engine::Press& rule = *sequence.press();
  for (const engine::Cut& cut : sequence.cuts) {
    if (!cut.protection_won) continue;
    say(fmt::format(
        "neoxref: keep {}: {} sinks and {} recent slots are more than this budget (first at token "
        "{}, layer {}: {} slots were left)\n",
        rule.budget_text(), rule.sinks, rule.recent, cut.position, cut.layer, cut.after));
    break;
  }
  if (!sequence.cuts.empty()) return Exit::ok;
  say(fmt::format(
      "neoxref: keep {}: nothing was cut ({} tokens entered; {}); this run shows no compression\n",
      rule.budget_text(), sequence.position, press.text()));
  return press.allow_no_cuts ? Exit::ok : Exit::not_cut;
}

}  // namespace

Command add_run(CommandLine program) {
  auto state = std::make_shared<RunCommand>();
  const CommandLine app = program.add_subcommand(
      "run", "Continue a text: streams it, then says how fast",
      "Example: neoxref run mini --prompt \"Once upon a time\" --max-new 50");
  state->common.add_to(app);
  app.add_text("--prompt", state->prompt, "TEXT", "The text to continue");
  app.add_text("--file", state->file, "FILE",
               "A file with the text to continue (-: standard input)");
  app.add_count("--max-new", state->max_new, 0, largest_count, "Most new tokens (default: 128)");
  app.add_option("--stop", state->stops, "Stop before this text (may be given several times)")
      .type_name("TEXT")
      .one_at_a_time();
  app.add_flag("--ignore-eos", state->ignore_eos, "Go on after an end-of-text token");
  app.add_count("--logprobs", state->logprobs, 1, largest_count,
                "With --json: N most probable tokens at each step");
  for (Option option :
       {app.add_number("--temperature", state->temperature, 1e-6, 1e6, true,
                       "0 takes the most probable token (default: 0)"),
        app.add_count("--top-k", state->top_k, 0, largest_count,
                      "Draw from the N most probable tokens; 0: all\n(default: 0)"),
        app.add_number("--top-p", state->top_p, 1e-6, 1.0, false,
                       "Draw from the shortest list that holds this share\n(default: 1)"),
        app.add_count("--seed", state->seed, 0, std::numeric_limits<std::uint64_t>::max(),
                      "Seed of the draws (default: 0)")}) {
    option.group("Sampling");
  }
  state->press.add_to(app, false);
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
