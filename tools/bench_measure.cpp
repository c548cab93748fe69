// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/error.hpp"
#include "engine/model_path.hpp"
#include "tools/bench_baseline.hpp"
#include "tools/bench_command.hpp"
#include "tools/bench_model.hpp"
#include "tools/bench_report.hpp"
#include "tools/bench_start.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;
using Counts = BenchCommand::Counts;
using Kind = eval::LimitArm::Kind;

/// Those that fit, when nothing was asked for.
Counts that_fit(const Counts& wanted, std::size_t room) {
  Counts fitting;
  std::copy_if(wanted.begin(), wanted.end(), std::back_inserter(fitting),
               [room](std::size_t count) { return count <= room; });
  return fitting;
}

std::unique_ptr<eval::SpeedArm> same_of(const eval::PrefillArm& arm, engine::Model& model) {
  return std::make_unique<eval::PrefillArm>(model, arm.tokens, arm.batch());
}
std::unique_ptr<eval::SpeedArm> same_of(const eval::DecodeArm& arm, engine::Model& model) {
  return std::make_unique<eval::DecodeArm>(model, arm.context, arm.steps, arm.batch());
}

/// Bytes of keys and values that the arms of all rows hold at once: those of new tokens keep their
/// contexts, those of presses have all variants under way, and one arm at a time has sequences beside.
double cache_bytes(const std::vector<std::unique_ptr<Bench>>& benches) {
  double kept = 0.0;
  double most = 0.0;
  for (const auto& bench : benches) {
    const double slot = eval::slot_bytes(bench->model.config());
    for (const auto& arm : bench->prefills) {
      most = std::max(most, slot * static_cast<double>(arm->batch() * arm->tokens));
    }
    for (const auto& arm : bench->decodes) {
      const double bytes =
          slot * static_cast<double>(arm->batch() * (arm->context + arm->steps + 1));
      kept += bytes * (bench->timed_model ? 2.0 : 1.0);
      most = std::max(most, bytes);
    }
    for (const auto& group : bench->presses) {
      most = std::max(most, slot * static_cast<double>(group->rows().size() *
                                                       (group->prompt + group->new_tokens)));
    }
  }
  return kept + most;
}

Exit warn_of_missing_cuts(const Json& rows, bool allowed) {
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
  return missing && !allowed ? Exit::not_cut : Exit::ok;
}

/// Whether every row reaches `least` of its limit; those that do not are named.
bool reach_their_limits(const Json& rows, double least) {
  bool reached = true;
  for (const Json& row : rows) {
    if (!row.contains("share_of_limit") || row["share_of_limit"].get<double>() >= least) continue;
    reached = false;
    say(fmt::format("neoxref: {}: {:.1f} % of its limit, asked for {:.1f} %\n", speed_name(row),
                    row["share_of_limit"].get<double>() * 100.0, least * 100.0));
  }
  return reached;
}

}  // namespace

Exit BenchCommand::measure(const InterruptGuard& guard) {
  Json before;
  if (baseline) before = read_baseline(*baseline);
  Json document{{"model", shape.empty() ? common.model : shape + " (synth, " + dtype + ")"}};
  Json rows = Json::array();
  std::vector<std::unique_ptr<Bench>> benches;
  std::optional<eval::TimedKernels> timed;
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
    engine::Model& loaded = benches.front()->model;
    for (std::size_t i = 1; i < threads.size(); ++i) {
      options.threads = threads[i];
      benches.push_back(std::make_unique<Bench>(loaded.share(options)));
    }
    if (kernels) {
      timed.emplace(loaded.kernels());
      options.kernels = &timed->table();
      for (std::size_t i = 0; i < threads.size(); ++i) {
        options.threads = threads[i];
        benches[i]->timed_model.emplace(loaded.share(options));
      }
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
    if (bench->timed_model) {
      bench->each_speed([&](const auto& arm) {
        bench->timed.push_back(same_of(arm, *bench->timed_model));
        bench->timed.back()->time_kernels(*timed);
      });
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
  const double caches = cache_bytes(benches);
  // Limits are measured where the rows are, on memory for the largest of them.
  std::vector<eval::BenchArm*> arms;
  for (const auto& bench : benches) {
    std::size_t most = std::size_t{32} << 20;
    bench->each_speed(
        [&](const eval::SpeedArm& arm) { most = std::max(most, Bench::touched(arm)); });
    for (const auto& arm : bench->prefills) arms.push_back(arm.get());
    for (const auto& arm : bench->decodes) arms.push_back(arm.get());
    for (const auto& arm : bench->timed) arms.push_back(arm.get());
    for (const auto& group : bench->presses) {
      arms.push_back(group.get());
      // Room to copy what a cut keeps, unless that is very much.
      const auto cache = static_cast<std::size_t>(
          eval::slot_bytes(config) * static_cast<double>(group->prompt + group->new_tokens));
      most = std::max(most, std::min(2 * cache, std::size_t{1} << 30));
    }
    need_memory(caches + static_cast<double>(most), "caches and limits of all rows");
    bench->meter = std::make_unique<eval::LimitMeter>(bench->model.team(), most);
    bench->add_limit(Kind::multiply_add, bench->isa(), 0);
    for (const simd::Isa isa : simd::usable_isas()) {
      // Sets that differ in their kernels only (avx512, zen4) have one limit.
      const bool known = std::ranges::any_of(bench->limits, [isa](const auto& limit) {
        return simd::limits(limit->isa).multiply_add == simd::limits(isa).multiply_add;
      });
      if (isa != simd::Isa::scalar && !known) bench->add_limit(Kind::multiply_add, isa, 0);
    }
    bench->each_speed([&](const eval::SpeedArm& arm) {
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
    std::size_t index = 0;
    bench->each_speed([&](const auto& arm) {
      const MeasuredLimits limit = bench->limits_of(arm);
      Json row = speed_row(arm, limit);
      if (kernels) row["kernels"] = kernel_rows(*bench->timed[index++], limit);
      rows.push_back(std::move(row));
    });
    for (const auto& arm : bench->prefills) {
      cold(fmt::format("prompt {}, batch {}, threads {}", arm->tokens, arm->batch(), count),
           arm->unit_seconds().front());
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
  document["machine"]["cpu"] = cpu_name();
  document["machine"]["compiler"] = NEOXREF_COMPILER;
  document["schedule"] = {{"warm_up", schedule.warm_up},
                          {"repeat", schedule.repeat},
                          {"min_seconds", schedule.min_seconds},
                          {"order", order},
                          {"cold_first", cold_first}};
  if (press.given()) document["press"] = press.text();
  document["weight_bytes"] = benches.front()->model.weights().packed_bytes();
  document["peak_bytes"] = peak_bytes();
  document["limits"] = std::move(limits);
  document["rows"] = std::move(rows);
  if (cold_first) {
    document["cold_first"] = {{"load_seconds", load_seconds}, {"rows", std::move(cold_rows)}};
  }

  Comparison comparison;
  if (baseline) {
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
  const bool reached = reach_their_limits(document["rows"], least_share / 100.0);
  if (!comparison.ok || !reached) return Exit::failed;
  return warn_of_missing_cuts(document["rows"], press.allow_no_cuts);
}

}  // namespace neoxref::tools
