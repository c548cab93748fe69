// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

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

struct RunCommand {
  Common common;
  std::string prompt;
  std::string file;
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
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
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
                    {"text", tokenizer.decode(one)},
                    {"logprob", -eval::nll(model.kernels(), logits, *id)}});
  }
  return list;
}

Exit RunCommand::operator()() {
  if (prompt.empty() == file.empty()) {
    throw std::invalid_argument("run: give --prompt or --file, one of them");
  }
  if (std::any_of(stops.begin(), stops.end(), [](const auto& stop) { return stop.empty(); })) {
    throw std::invalid_argument("run: --stop cannot be empty");
  }
  const auto start = Clock::now();
  engine::Model model = common.load();
  const engine::Tokenizer tokenizer = load_tokenizer(common.model);
  const double load_seconds = seconds_since(start);
  const std::vector<std::int32_t> ids = tokenizer.encode(file.empty() ? prompt : read_file(file));
  if (ids.empty()) throw engine::Error("prompt", "no tokens");
  const std::size_t context = model.config().max_positions;
  if (ids.size() > context) {
    throw engine::Error("prompt", "longer than the context of the model",
                        "at most " + std::to_string(context) + " tokens",
                        std::to_string(ids.size()));
  }
  const std::size_t limit = std::min(max_new, context - ids.size() + 1);
  engine::Sequence sequence = model.sequence(std::min(context, ids.size() + limit));
  sequence.press = press.make(model.config());
  engine::Sampler sampler({static_cast<float>(temperature), top_k, top_p, seed}, model.kernels());
  engine::StreamDecoder decoder(tokenizer);
  StopFilter filter(stops);
  eval::Digest digest;

  std::vector<float> logits(model.config().vocab);
  std::vector<std::int32_t> generated;
  std::string text;
  Json logprob_rows = Json::array();
  std::string finish = limit < max_new ? "context" : "max_new";
  double first_token_seconds = 0.0;
  const auto show = [&](const std::string& piece) {
    text += piece;
    if (common.json) return;
    fmt::print("{}", piece);
    std::fflush(stdout);
  };

  const auto begin = Clock::now();
  auto first = begin;
  std::vector<std::int32_t> next = ids;
  while (generated.size() < limit) {
    engine::Step step{&sequence, next, engine::LogitRows::last, logits.data()};
    if (!model.forward({&step, 1})) {
      throw engine::Error("run", engine::describe(*step.failure));
    }
    digest.add(logits);
    const std::int32_t token = sampler.draw(logits, sequence.position);
    if (generated.empty()) {
      first = Clock::now();
      first_token_seconds = std::chrono::duration<double>(first - begin).count();
    }
    if (logprobs > 0) logprob_rows.push_back(top_logprobs(model, tokenizer, logits, logprobs));
    generated.push_back(token);
    const auto& eos = model.config().eos_token_ids;
    if (!ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) {
      finish = "eos";
      break;
    }
    show(filter.push(decoder.push(token)));
    if (filter.stopped()) {
      finish = "stop";
      break;
    }
    next = {token};
  }
  const double decode_seconds = seconds_since(first);
  if (!filter.stopped()) {
    show(filter.push(decoder.finish()));
    show(filter.finish());
  }
  const double rate = generated.size() > 1 && decode_seconds > 0.0
                          ? static_cast<double>(generated.size() - 1) / decode_seconds
                          : 0.0;
  if (common.json) {
    Json document{{"text", text},
                  {"tokens", generated},
                  {"prompt_tokens", ids},
                  {"finish", finish},
                  {"digest", digest.hex()},
                  {"load_seconds", load_seconds},
                  {"time_to_first_token", first_token_seconds},
                  {"tokens_per_second", rate},
                  {"machine", machine_json(model)}};
    if (sequence.press) document["cuts"] = sequence.cuts.size();
    if (logprobs > 0) document["logprobs"] = logprob_rows;
    print_json(document);
  } else {
    fmt::print("\n");
    std::fflush(stdout);
    fmt::print(stderr,
               "{} prompt tokens, {} new ({}); first token after {:.1f} ms, then {:.1f} tokens/s; "
               "{}, {} x {}\ndigest {}\n",
               ids.size(), generated.size(), finish, first_token_seconds * 1e3, rate,
               model.kernels().name, engine::backend_name(model.team().backend()),
               model.team().threads(), digest.hex());
  }
  if (sequence.press && !sequence.press->keep_ratio.keeps_all() && sequence.cuts.empty()) {
    fmt::print(stderr,
               "neoxref: nothing was cut: the cache held {} slots, prune_after is {}; this run "
               "shows no compression\n",
               sequence.cache.longest(0), sequence.press->prune_after);
    if (!press.allow_no_cuts) return Exit::not_cut;
  }
  return Exit::ok;
}

}  // namespace

Command add_run(CLI::App& program) {
  auto state = std::make_shared<RunCommand>();
  CLI::App* app = program.add_subcommand("run", "Continue a text: streams it, then says how fast");
  state->common.add_to(*app);
  app->add_option("--prompt", state->prompt, "The text to continue");
  app->add_option("--file", state->file, "A file with the text to continue");
  app->add_option("--max-new", state->max_new, "Most new tokens")->capture_default_str();
  app->add_option("--temperature", state->temperature, "0 takes the most probable token")
      ->capture_default_str();
  app->add_option("--top-k", state->top_k, "Draw from the K most probable tokens (0: all)")
      ->capture_default_str();
  app->add_option("--top-p", state->top_p, "Draw from the shortest list that holds this share")
      ->capture_default_str();
  app->add_option("--seed", state->seed, "Seed of the draws")->capture_default_str();
  app->add_option("--stop", state->stops, "Stop before this text (may be given several times)")
      ->allow_extra_args(false);
  app->add_flag("--ignore-eos", state->ignore_eos, "Go on after an end-of-text token");
  app->add_option("--logprobs", state->logprobs,
                  "With --json: this many most probable tokens at each step");
  state->press.add_to(*app, false);
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
