// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/error.hpp"
#include "engine/model_path.hpp"
#include "tools/bench_model.hpp"
#include "tools/bench_report.hpp"
#include "tools/bench_start.hpp"
#include "tools/options.hpp"
#include "tools/press_options.hpp"
#include "tools/shape_options.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using Counts = std::vector<std::size_t>;
using Clock = std::chrono::steady_clock;

struct BenchCommand {
  Common common;
  std::string shape;
  std::string dtype = "f16";
  std::optional<Counts> prompts;
  std::optional<Counts> contexts;
  Counts batches = {1};
  Counts threads;
  std::size_t steps = 32;
  Counts press_prompts = {128};
  std::size_t press_new = 0;
  bool naive = false;
  PressOptions press;
  eval::Schedule schedule;
  double min_seconds = 0.0;
  std::string order = "random";
  bool cold_first = false;
  std::size_t starts = 3;
  bool only_start = false;
  std::optional<std::string> baseline;
  double tolerance = 10.0;

  Exit operator()();
  void check_usage();
  Exit measure(const InterruptGuard& guard);
  Exit warn_of_missing_cuts(const Json& rows) const;
};

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

using Kind = eval::LimitArm::Kind;

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

/// Those that fit, when nothing was asked for.
Counts that_fit(const Counts& wanted, std::size_t room) {
  Counts fitting;
  std::copy_if(wanted.begin(), wanted.end(), std::back_inserter(fitting),
               [room](std::size_t count) { return count <= room; });
  return fitting;
}

Exit BenchCommand::measure(const InterruptGuard& guard) {
  Json document{{"model", shape.empty() ? common.model : shape + " (synth, " + dtype + ")"}};
  Json rows = Json::array();
  std::vector<std::unique_ptr<Bench>> benches;
  double load_seconds = 0.0;
  {
    std::optional<TemporaryModel> folder;
    if (!shape.empty()) {
      folder.emplace(shape, dtype, guard);
      common.model = folder->model();
    }
    need_memory(2.2 * bytes_on_disk(engine::resolve_model(common.model)), common.model);
    for (const std::size_t count : threads) {
      if (starts > 0 && !cold_first) rows.push_back(start_row(common, count, starts, guard));
    }
    engine::RunOptions options = common.run_options();
    options.threads = threads.front();
    const auto begin = Clock::now();
    benches.push_back(
        std::make_unique<Bench>(engine::Model::load(engine::resolve_model(common.model), options)));
    load_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    for (std::size_t i = 1; i < threads.size(); ++i) {
      options.threads = threads[i];
      benches.push_back(std::make_unique<Bench>(benches.front()->model.share(options)));
    }
  }
  guard.check();
  const engine::Config& config = benches.front()->model.config();
  const std::size_t room = config.max_positions;
  const bool plain = !press.given() || prompts || contexts;
  const Counts prompt_list = prompts              ? *prompts
                             : plain && !contexts ? that_fit({128, 512, 2048}, room)
                                                  : Counts{};
  const Counts context_list = contexts ? *contexts
                              : plain && !prompts
                                  ? that_fit({256, 1900}, room - std::min(room, steps + 1))
                                  : Counts{};
  const auto presses = press.make(config);

  for (const auto& bench : benches) {
    for (const std::size_t batch : batches) {
      for (const std::size_t count : prompt_list) {
        bench->prefills.push_back(std::make_unique<eval::PrefillArm>(bench->model, count, batch));
      }
      for (const std::size_t count : context_list) {
        bench->decodes.push_back(
            std::make_unique<eval::DecodeArm>(bench->model, count, steps, batch));
      }
    }
    for (const std::size_t prompt : press_prompts) {
      if (presses.empty()) break;
      if (press_new == 0 && prompt >= room) {
        throw engine::Error("--press-prompt", "leaves no room for new tokens",
                            "at most " + std::to_string(room - 1), std::to_string(prompt));
      }
      std::vector<eval::PressVariant> variants = {{"1", std::nullopt}};
      for (const auto& [budget, rule] : presses) {
        std::string label = budget;
        if (press.scores.size() > 1) label += " " + rule.name();
        if (press.prune_afters.size() > 1) label += fmt::format(" P {}", rule.prune_after);
        variants.push_back({label, rule});
        if (naive) variants.push_back({label, rule, true});
      }
      bench->presses.push_back(std::make_unique<eval::PressGroup>(
          bench->model, prompt, press_new > 0 ? press_new : room - prompt, std::move(variants),
          schedule.random));
    }
  }
  // Limits are measured where the rows are, on memory for the largest of them.
  std::vector<eval::BenchArm*> arms;
  for (const auto& bench : benches) {
    std::size_t most = std::size_t{32} << 20;
    const auto each = [&](auto&& use) {
      for (const auto& arm : bench->prefills) use(*arm);
      for (const auto& arm : bench->decodes) use(*arm);
    };
    each([&](const eval::SpeedArm& arm) { most = std::max(most, Bench::touched(arm)); });
    for (const auto& arm : bench->prefills) arms.push_back(arm.get());
    for (const auto& arm : bench->decodes) arms.push_back(arm.get());
    for (const auto& group : bench->presses) {
      arms.push_back(group.get());
      // Room to copy what a cut keeps, unless that is very much.
      const auto cache = static_cast<std::size_t>(
          eval::slot_bytes(config) * static_cast<double>(group->prompt + group->new_tokens));
      most = std::max(most, std::min(2 * cache, std::size_t{1} << 30));
    }
    need_memory(static_cast<double>(most), "bench");
    bench->meter = std::make_unique<eval::LimitMeter>(bench->model.team(), most);
    bench->add_limit(Kind::multiply_add, bench->isa(), 0);
    for (const simd::Isa isa : simd::usable_isas()) {
      // Sets that differ in their kernels only (avx512, zen4) have one limit.
      const bool known = std::ranges::any_of(bench->limits, [isa](const auto& limit) {
        return simd::limits(limit->isa).multiply_add == simd::limits(isa).multiply_add;
      });
      if (isa != simd::Isa::scalar && !known) bench->add_limit(Kind::multiply_add, isa, 0);
    }
    each([&](const eval::SpeedArm& arm) {
      bench->add_limit(Kind::read, bench->isa(), Bench::touched(arm));
    });
    for (const auto& limit : bench->limits) arms.push_back(limit.get());
  }
  {
    Progress progress("bench");
    eval::take_turns(arms, schedule, [&](double share) {
      guard.check();
      progress(share);
    });
  }

  Json limits = Json::array();
  Json cold_rows = Json::array();
  const auto cold = [&](const std::string& name, double seconds) {
    if (!cold_first) return;
    const double first =
        cold_rows.empty() ? seconds : cold_rows[0]["time_to_first_token"].get<double>();
    cold_rows.push_back(
        {{"row", name},
         {"time_to_first_token", seconds},
         {"change", seconds / first - 1.0},
         {"change_with_load",
          (cold_rows.empty() ? seconds + load_seconds : seconds) / (first + load_seconds) - 1.0}});
  };
  for (const auto& bench : benches) {
    const std::size_t count = bench->model.team().threads();
    for (const auto& arm : bench->prefills) {
      rows.push_back(speed_row(*arm, "prefill", "prompt", arm->tokens, bench->limits_of(*arm)));
      cold(fmt::format("prompt {}, batch {}, threads {}", arm->tokens, arm->batch(), count),
           arm->first_token_seconds.front());
    }
    for (const auto& arm : bench->decodes) {
      rows.push_back(speed_row(*arm, "decode", "context", arm->context, bench->limits_of(*arm)));
    }
    for (const auto& group : bench->presses) {
      // Copies of as many bytes as a cut keeps: known only now.
      std::vector<double> copies;
      for (const eval::PressRow& row : group->rows()) {
        if (row.cut_times == 0) {
          copies.push_back(0.0);
          continue;
        }
        const auto bytes =
            static_cast<std::size_t>(row.cut_bytes / static_cast<double>(row.cut_times));
        eval::LimitArm& limit = bench->add_limit(Kind::copy, bench->isa(), bytes);
        for (std::size_t i = 0; i < std::max<std::size_t>(5, schedule.repeat); ++i) limit.run(true);
        copies.push_back(limit.per_second().median);
      }
      for (Json& row : press_rows(*group, copies)) rows.push_back(std::move(row));
      for (const eval::PressRow& row : group->rows()) {
        cold(fmt::format("prompt {}, keep {}{}, threads {}", group->prompt, row.variant.label,
                         row.variant.naive ? " naive" : "", count),
             row.first_token_seconds.front());
      }
    }
    for (const auto& limit : bench->limits) limits.push_back(limit_row(*limit, count));
  }
  document["machine"] = machine_json(benches.front()->model);
  document["machine"]["threads"] = threads;
  document["machine"]["compiler"] = NEOXREF_COMPILER;
  document["schedule"] = {{"warm_up", schedule.warm_up},
                          {"repeat", schedule.repeat},
                          {"min_seconds", schedule.min_seconds},
                          {"order", order},
                          {"cold_first", cold_first}};
  if (press.given()) document["press"] = press.text();
  document["limits"] = std::move(limits);
  document["rows"] = std::move(rows);
  if (cold_first) {
    document["cold_first"] = {{"load_seconds", load_seconds}, {"rows", std::move(cold_rows)}};
  }

  Comparison comparison;
  if (baseline) {
    const Json before = Json::parse(read_file(*baseline), nullptr, false);
    comparison = compare_rows(document, before, *baseline, tolerance / 100.0);
    document["baseline"] = {{"file", *baseline},
                            {"tolerance", tolerance / 100.0},
                            {"ok", comparison.ok},
                            {"rows", comparison.rows}};
  }
  if (common.json) {
    print_json(document);
  } else {
    print(fmt::format("{}; {}\n", document["model"].get<std::string>(),
                      machine_text(benches.front()->model)));
    print(fmt::format("{} rounds of all rows in turn, {} order, {} to warm up{}\n\n",
                      schedule.repeat, order, schedule.warm_up,
                      press.given() ? "; " + press.text() : std::string()));
    print(report_text(document) + comparison.text);
  }
  if (!comparison.ok) return Exit::failed;
  return warn_of_missing_cuts(document["rows"]);
}

Exit BenchCommand::warn_of_missing_cuts(const Json& rows) const {
  bool missing = false;
  for (const Json& row : rows) {
    if (row["kind"] != "press" || row["press"] == "none") continue;
    const auto cuts = row["cuts"].get<Counts>();
    if (std::any_of(cuts.begin(), cuts.end(), [](std::size_t count) { return count > 0; }))
      continue;
    missing = true;
    say(fmt::format(
        "neoxref: keep {}: nothing was cut in {} tokens; this row shows no compression\n",
        row["keep"].get<std::string>(),
        row["prompt"].get<std::size_t>() + row["new_tokens"].get<std::size_t>()));
  }
  return missing && !press.allow_no_cuts ? Exit::not_cut : Exit::ok;
}

}  // namespace

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
  app.add_text(
      "--baseline", bench.baseline, "FILE",
      "An earlier --json document to compare with; exits with 1\nwhere a row is slower or has "
      "other logits");
  app.add_number("--tolerance", bench.tolerance, 0.1, 99.0, true,
                 "By more than so many percent (default: 10)");
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
