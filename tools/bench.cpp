// SPDX-License-Identifier: Apache-2.0
#include "tools/bench_command.hpp"

#include <fmt/core.h>

#include <charconv>
#include <functional>
#include <memory>

#include "engine/error.hpp"
#include "tools/bench_start.hpp"
#include "tools/shape_options.hpp"

namespace neoxref::tools {
namespace {

using Counts = BenchCommand::Counts;

/// "128,512" with numbers from `least` to `most`.
Option add_counts(CommandLine app, const std::string& name, std::function<void(Counts)> keep,
                  std::size_t least, std::size_t most, const std::string& help) {
  const auto read = [=](const std::string& text) {
    Counts counts;
    const char* at = text.data();
    const char* const end = at + text.size();
    for (;;) {
      std::size_t count = 0;
      const auto [next, error] = std::from_chars(at, end, count);
      if (error != std::errc{} || count < least || count > most || (next != end && *next != ',')) {
        throw UsageError(
            engine::Error(
                name, "not usable",
                fmt::format("whole numbers from {} to {} with commas between", least, most),
                text.empty() ? "nothing" : text)
                .what());
      }
      counts.push_back(count);
      if (next == end) break;
      at = next + 1;
    }
    keep(std::move(counts));
  };
  return app.add_function(name, read, help).type_name("N,N,...");
}

}  // namespace

void BenchCommand::check_usage() {
  if (common.model.empty() == shape.empty()) {
    throw UsageError("expected exactly one of MODEL and --shape");
  }
  if (!shape.empty()) parse_shape(shape);
  press.check_usage();
  if (naive && !press.given())
    throw UsageError("--naive-press: needs --keep-ratio or --keep-slots");
  if (cold_first) {
    if (order == "random") order = "fixed";
    schedule.warm_up = 0;
  }
  schedule.random = order == "random";
  schedule.min_seconds = min_seconds;
  if (threads.empty()) threads = {engine::available_threads()};
}

Exit BenchCommand::operator()() {
  check_usage();
  if (only_start) {
    common.threads = threads.front();
    return start_only(common);
  }
  try {
    const InterruptGuard guard;
    return measure(guard);
  } catch (const Interrupted& interrupted) {
    interrupted.end();
  }
}

Command add_bench(CommandLine program) {
  auto state = std::make_shared<BenchCommand>();
  const CommandLine app = program.add_subcommand(
      "bench", "Speed of prompts and new tokens beside what this machine can do",
      "Everything takes turns in each round; figures are medians over rounds. With press\n"
      "options: first token and new tokens of each keep ratio beside the uncompressed run\n"
      "on the same tokens. docs/performance.md says what a row is measured against.\n"
      "Example: neoxref bench --shape pythia-70m --threads 1,2");
  BenchCommand& bench = *state;
  app.add_option("MODEL", bench.common.model, "As for run; needs no tokenizer").type_name("");
  add_shape(app, bench.shape);
  add_dtype(app, bench.dtype);
  add_counts(
      app, "--prompt", [&bench](Counts list) { bench.prompts = std::move(list); }, 1, 1 << 24,
      "Tokens of prompts (default: 128,512,2048)");
  add_counts(
      app, "--context", [&bench](Counts list) { bench.contexts = std::move(list); }, 1, 1 << 24,
      "Tokens before new ones (default: 256,1900)");
  add_counts(
      app, "--batch", [&bench](Counts list) { bench.batches = std::move(list); }, 1, 4096,
      "Sequences at a time (default: 1)");
  app.add_count("--new", bench.steps, 1, 1 << 24, "New tokens at each context (default: 32)");
  app.add_count("--repeat", bench.schedule.repeat, 1, 100'000, "Rounds that count (default: 5)");
  app.add_number("--min-time", bench.min_seconds, 1e-3, 1e5, true,
                 "More rounds, until each row was measured for so many\nseconds (default: 0)");
  app.add_count("--warm-up", bench.schedule.warm_up, 0, 1000,
                "Rounds before them that do not count (default: 1)");
  app.add_option("--order", bench.order,
                 "random: another one in each round; fixed (default:\nrandom)")
      .type_name("NAME")
      .one_of({"random", "fixed"});
  app.add_flag("--cold-first", bench.cold_first,
               "No warm-up, fixed order: what the first row pays for\nall others");
  app.add_count("--starts", bench.starts, 0, 1000,
                "Processes started to measure loading and memory\n(default: 3)");
  app.add_flag("--start-only", bench.only_start,
               "Only load and run 16 tokens: what --starts starts");
  app.add_flag(
      "--kernels", bench.kernels,
      "Each row once more with a clock around every kernel: its\nshare of the time, and of "
      "the limit that binds it");
  app.add_number("--least-share", bench.least_share, 0.1, 1000.0, true,
                 "Exits with 1 where a row reaches less of its limit, in\npercent (default: none)");
  app.add_text(
      "--baseline", bench.baseline, "FILE",
      "An earlier --json document to compare with; exits with 1\nwhere a row is slower beyond "
      "noise or has other logits");
  app.add_number("--tolerance", bench.tolerance, 0.1, 99.0, true,
                 "Noise: a median lower by at most so many percent, or a\nfastest round as fast as "
                 "the earlier median (default: 10)");
  add_counts(
      app, "--press-prompt", [&bench](Counts list) { bench.press_prompts = std::move(list); }, 1,
      1 << 24, "Tokens before the new ones (default: 128)")
      .group("Compression");
  app.add_count("--press-new", bench.press_new, 1, 1 << 24,
                "New tokens (default: to the end of the context)")
      .group("Compression");
  app.add_flag("--naive-press", bench.naive,
               "Also with norms, a full sort and a copy of everything at\nevery token")
      .group("Compression");
  bench.common.add_to_without_model(app, false);
  add_counts(
      app, "--threads", [&bench](Counts list) { bench.threads = std::move(list); }, 1, 4096,
      "Numbers of threads (default: all this process may use)")
      .group("Machine");
  bench.press.add_to(app, true, true);
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
