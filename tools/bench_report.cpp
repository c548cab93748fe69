// SPDX-License-Identifier: Apache-2.0
#include "tools/bench_report.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/error.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using eval::Spread;

void add(Json& row, const std::string& name, const Spread& spread) {
  row[name] = spread.median;
  row[name + "_min"] = spread.least;
  row[name + "_max"] = spread.most;
}

Spread rates(const std::vector<double>& seconds, double tokens) {
  std::vector<double> values;
  for (const double time : seconds) values.push_back(tokens / time);
  return eval::spread(values);
}

/// Measurement by measurement: how much faster `mine` was than `theirs`.
Spread quotients(const std::vector<double>& theirs, const std::vector<double>& mine) {
  std::vector<double> values;
  for (std::size_t i = 0; i < mine.size(); ++i) values.push_back(theirs[i] / mine[i]);
  return eval::spread(values);
}

double median(const std::vector<double>& values) {
  return eval::spread(values).median;
}

std::vector<double> column(const std::vector<std::vector<double>>& rows, std::size_t index) {
  std::vector<double> values;
  for (const auto& row : rows) values.push_back(row[index]);
  return values;
}

Json press_row(const eval::PressGroup& group, const eval::PressRow& row, double copy_per_second) {
  const eval::PressRow& full = group.rows().front();
  const engine::Config& config = group.model().config();
  const auto new_tokens = static_cast<double>(group.new_tokens);
  const std::vector<double> seconds = row.new_token_seconds();
  Json entry{{"kind", "press"},
             {"prompt", group.prompt},
             {"new_tokens", group.new_tokens},
             {"batch", 1},
             {"threads", group.model().team().threads()},
             {"keep", row.variant.label},
             {"press", row.variant.press ? row.variant.press->name() : "none"},
             {"prune_after", row.variant.press ? Json(row.variant.press->prune_after) : Json()},
             {"naive", row.variant.naive}};
  add(entry, "tokens_per_second", rates(seconds, new_tokens));
  entry["n"] = seconds.size();
  add(entry, "relative", quotients(full.new_token_seconds(), seconds));
  const double first_token = median(row.first_token_seconds);
  const double press = median(row.prompt_press_seconds);
  const double choose = median(row.choose_seconds);
  add(entry, "time_to_first_token", eval::spread(row.first_token_seconds));
  entry["time_to_first_token_split"] = {
      {"prefill", first_token - press - choose}, {"press", press}, {"first_token", choose}};
  Json buckets = Json::array();
  for (std::size_t i = 0; i < row.bucket_seconds.front().size(); ++i) {
    const std::size_t first = i * eval::bucket_tokens;
    const std::size_t last = std::min(group.new_tokens, first + eval::bucket_tokens);
    const std::vector<double> mine = column(row.bucket_seconds, i);
    Json bucket{{"from", group.prompt + first}, {"to", group.prompt + last}};
    add(bucket, "tokens_per_second", rates(mine, static_cast<double>(last - first)));
    add(bucket, "relative", quotients(column(full.bucket_seconds, i), mine));
    buckets.push_back(std::move(bucket));
  }
  entry["by_context"] = std::move(buckets);
  entry["cuts"] = row.cuts;
  entry["mean_slots"] = row.mean_slots;
  entry["mean_bytes"] = row.mean_slots * eval::slot_bytes(config);
  entry["peak_bytes"] = static_cast<double>(row.peak_slots) * eval::slot_bytes(config) /
                        static_cast<double>(config.layers);
  std::vector<double> shares;
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    shares.push_back(row.cut_seconds[i] / seconds[i]);
  }
  const double cutting = median(row.cut_seconds);
  entry["cut_share"] = median(shares);
  entry["cut_seconds"] = row.cut_times == 0 ? 0.0 : cutting / static_cast<double>(row.cut_times);
  const double moved = row.cut_times == 0 ? 0.0 : row.cut_bytes / cutting;
  entry["cut_bytes_per_second"] = moved;
  entry["copy_bytes_per_second"] = copy_per_second;
  entry["cut_share_of_copy"] = copy_per_second > 0.0 ? Json(moved / copy_per_second) : Json();
  entry["norm_share"] = group.norm_seconds() / (median(seconds) / new_tokens);
  entry["digest"] = row.digest;
  return entry;
}

std::string milliseconds(const Json& seconds) {
  return fmt::format("{:.2f}", seconds.get<double>() * 1e3);
}

bool is_speed(const Json& row) {
  return row["kind"] == "prefill" || row["kind"] == "decode";
}

std::string speed_text(const Json& rows) {
  std::string text;
  std::string phases;
  for (const Json& row : rows) {
    if (!is_speed(row)) continue;
    if (text.empty()) {
      text = fmt::format(
          "\nms: until the first new token is known, of prefill; a token, of decode\n"
          "{:<8} {:>7} {:>5} {:>7} {:>9} {:>10} {:>21} {:>3} {:>8} {:>8} {:>8} {:<4}  {}\n",
          "", "tokens", "batch", "threads", "ms", "tokens/s", "least - most", "n", "GFLOP/s",
          "GB/s", "of limit", "", "digest");
    }
    text += fmt::format(
        "{:<8} {:>7} {:>5} {:>7} {:>9} {:>10.1f} {:>21} {:>3} {:>8.1f} {:>8.1f} {:>6.0f} % {:<4}  "
        "{}\n",
        row["kind"].get<std::string>(),
        row[row["kind"] == "prefill" ? "prompt" : "context"].get<std::size_t>(),
        row["batch"].get<std::size_t>(), row["threads"].get<std::size_t>(),
        milliseconds(row["seconds"]), row["tokens_per_second"].get<double>(),
        fmt::format("{:.1f} - {:.1f}", row["tokens_per_second_min"].get<double>(),
                    row["tokens_per_second_max"].get<double>()),
        row["n"].get<std::size_t>(), row["flops_per_second"].get<double>() * 1e-9,
        row["bytes_per_second"].get<double>() * 1e-9, row["share_of_limit"].get<double>() * 100.0,
        row["limit"]["bound"].get<std::string>(), row["digest"].get<std::string>());
    phases += speed_name(row) + ":";
    const char* between = " ";
    for (const Json& phase : row["phases"]) {
      phases +=
          fmt::format("{}{} {:.1f} + {:.1f}", between, phase["phase"].get<std::string>(),
                      phase["worked"].get<double>() * 100.0, phase["waited"].get<double>() * 100.0);
      between = "; ";
    }
    phases += "\n";
  }
  if (text.empty()) return text;
  return text +
         "\nlimit: fma where most of it is computing, read where most is reading weights and "
         "cache\n\nphases, worked + waited, in percent of the time of all threads\n" +
         phases;
}

std::string kernels_text(const Json& rows) {
  std::string text;
  for (const Json& row : rows) {
    if (!row.contains("kernels")) continue;
    if (text.empty()) {
      text = fmt::format("\n{:<36} {:<22} {:>8} {:>10} {:>9} {:>7} {:>8} {:>8}\n", "kernels", "",
                         "of time", "calls", "GFLOP/s", "of fma", "GB/s", "of read");
    }
    std::string name = speed_name(row);
    for (const Json& kernel : row["kernels"]) {
      const auto figure = [&](const char* key, double unit, const char* format) {
        return kernel.contains(key)
                   ? fmt::format(fmt::runtime(format), kernel[key].get<double>() * unit)
                   : std::string();
      };
      text += fmt::format(
          "{:<36} {:<22} {:>8} {:>10} {:>9} {:>7} {:>8} {:>8}\n", name,
          kernel["kernel"].get<std::string>(), figure("share", 100.0, "{:.1f} %"),
          figure("calls", 1.0, "{:.0f}"), figure("flops_per_second", 1e-9, "{:.1f}"),
          figure("share_of_fma", 100.0, "{:.0f} %"), figure("bytes_per_second", 1e-9, "{:.1f}"),
          figure("share_of_read", 100.0, "{:.0f} %"));
      name.clear();
    }
  }
  return text;
}

std::string press_text(const Json& rows) {
  std::string text;
  for (const Json& row : rows) {
    if (row["kind"] != "press") continue;
    if (text.empty()) {
      text = fmt::format(
          "\n{:<14} {:>6} {:>5} {:>7} {:>8} {:>8}  {:<27} {:>10} {:>8} {:>8} {:>7}  {}\n", "keep",
          "prompt", "new", "threads", "tokens/s", "relative", "first token, ms (press)",
          "mean slots", "cut, ms", "cuts, %", "of copy", "digest");
    }
    const Json& split = row["time_to_first_token_split"];
    text += fmt::format(
        "{:<14} {:>6} {:>5} {:>7} {:>8.1f} {:>8.3f}  {:<27} {:>10.1f} {:>8} {:>8.3f} {:>7}  {}\n",
        row["keep"].get<std::string>() + (row["naive"].get<bool>() ? " naive" : ""),
        row["prompt"].get<std::size_t>(), row["new_tokens"].get<std::size_t>(),
        row["threads"].get<std::size_t>(), row["tokens_per_second"].get<double>(),
        row["relative"].get<double>(),
        fmt::format("{} ({})", milliseconds(row["time_to_first_token"]),
                    milliseconds(split["press"])),
        row["mean_slots"].get<double>(), milliseconds(row["cut_seconds"]),
        row["cut_share"].get<double>() * 100.0,
        row["cut_share_of_copy"].is_null()
            ? std::string("-")
            : fmt::format("{:.0f} %", row["cut_share_of_copy"].get<double>() * 100.0),
        row["digest"].get<std::string>());
  }
  if (text.empty()) return text;
  text += fmt::format("\ntokens/s by context, and beside the first row\n{:<14}", "");
  const Json* first = nullptr;
  for (const Json& row : rows) {
    if (row["kind"] != "press") continue;
    if (first == nullptr || (*first)["by_context"].size() != row["by_context"].size() ||
        (*first)["prompt"] != row["prompt"]) {
      if (first != nullptr) text += fmt::format("\n{:<14}", "");
      first = &row;
      for (const Json& bucket : row["by_context"]) {
        text += fmt::format(" {:>11}", "to " + bucket["to"].dump());
      }
    }
    text += fmt::format(
        "\n{:<14}", row["keep"].get<std::string>() + (row["naive"].get<bool>() ? " naive" : ""));
    for (const Json& bucket : row["by_context"]) {
      text += fmt::format(" {:>5.0f} {:>5.3f}", bucket["tokens_per_second"].get<double>(),
                          bucket["relative"].get<double>());
    }
  }
  return text + "\n";
}

void fill_speed_row(Json& row, const eval::SpeedArm& arm, const MeasuredLimits& limits,
                    const char* time) {
  const Spread speed = arm.tokens_per_second();
  const double seconds = arm.unit_tokens() / speed.median;
  const eval::Cost& cost = arm.cost();
  const double flops = limits.flops_per_second;
  const double bytes = limits.bytes_per_second;
  const double least = cost.least_seconds(flops, bytes);
  row["batch"] = arm.batch();
  row["threads"] = arm.model().team().threads();
  add(row, "tokens_per_second", speed);
  row["n"] = speed.n;
  add(row, time, eval::spread(arm.unit_seconds()));
  row["seconds"] = seconds;
  row["flops_per_second"] = cost.flops() / seconds;
  row["bytes_per_second"] = cost.bytes() / seconds;
  row["share_of_fma"] = cost.flops() / flops / seconds;
  row["share_of_read"] = cost.bytes() / bytes / seconds;
  row["limit_tokens_per_second"] = arm.unit_tokens() / least;
  row["share_of_limit"] = least / seconds;
  row["limit"] = {{"bound", cost.computing_seconds(flops, bytes) > 0.5 * least ? "fma" : "read"},
                  {"flops_per_second", flops},
                  {"bytes_per_second", bytes}};
  Json phases = Json::array();
  for (const eval::PhaseShare& share : eval::phase_shares(arm.times(), arm.model().config())) {
    phases.push_back({{"phase", share.name}, {"worked", share.worked}, {"waited", share.waited}});
  }
  row["phases"] = std::move(phases);
  row["digest"] = arm.digest();
}

}  // namespace

std::string speed_name(const Json& row) {
  const bool prefill = row["kind"] == "prefill";
  const auto threads = row["threads"].get<std::size_t>();
  return fmt::format("{} {}, batch {}, {} thread{}", prefill ? "prefill" : "decode",
                     row[prefill ? "prompt" : "context"].get<std::size_t>(),
                     row["batch"].get<std::size_t>(), threads, threads == 1 ? "" : "s");
}

Json speed_row(const eval::PrefillArm& arm, const MeasuredLimits& limits) {
  Json row{{"kind", "prefill"}, {"prompt", arm.tokens}};
  fill_speed_row(row, arm, limits, "time_to_first_token");
  return row;
}

Json speed_row(const eval::DecodeArm& arm, const MeasuredLimits& limits) {
  Json row{{"kind", "decode"}, {"context", arm.context}, {"new_tokens", arm.steps}};
  fill_speed_row(row, arm, limits, "time_of_token");
  return row;
}

Json kernel_rows(const eval::SpeedArm& arm, const MeasuredLimits& limits) {
  const auto threads = static_cast<double>(arm.model().team().threads());
  const double all = arm.seconds() * threads;
  std::vector<eval::KernelTime> times = arm.kernel_times();
  std::ranges::sort(times, std::ranges::greater{}, &eval::KernelTime::seconds);
  Json rows = Json::array();
  double rest = 1.0;
  for (const eval::KernelTime& time : times) {
    Json row{{"kernel", time.kernel},
             {"share", time.seconds / all},
             {"calls", static_cast<double>(time.calls) / arm.units()}};
    if (time.flops > 0.0 && time.seconds > 0.0) {
      const double flops = time.flops / time.seconds * threads;
      const double bytes = time.bytes / time.seconds * threads;
      row["flops_per_second"] = flops;
      row["share_of_fma"] = flops / limits.flops_per_second;
      row["bytes_per_second"] = bytes;
      row["share_of_read"] = bytes / limits.bytes_per_second;
    }
    rest -= time.seconds / all;
    rows.push_back(std::move(row));
  }
  rows.push_back({{"kernel", "no kernel, waiting"}, {"share", rest}});
  return rows;
}

std::vector<Json> press_rows(const eval::PressGroup& group,
                             const std::vector<double>& copy_per_second) {
  std::vector<Json> rows;
  for (std::size_t i = 0; i < group.rows().size(); ++i) {
    rows.push_back(press_row(group, group.rows()[i], copy_per_second[i]));
  }
  return rows;
}

Json limit_row(const eval::LimitArm& arm, std::size_t threads) {
  static constexpr const char* names[] = {"fma", "read", "copy"};
  Json row{{"kind", names[static_cast<std::size_t>(arm.kind)]},
           {"isa", simd::isa_name(arm.isa)},
           {"threads", threads}};
  if (arm.kind != eval::LimitArm::Kind::multiply_add) row["bytes"] = arm.bytes;
  const Spread spread = arm.per_second();
  add(row, "per_second", spread);
  row["n"] = spread.n;
  return row;
}

std::string report_text(const Json& document) {
  std::string text;
  for (const Json& row : document["limits"]) {
    const bool fma = row["kind"] == "fma";
    text += fmt::format("limit: {:<4} {:<18} {} thread{} {:>8.1f} {} ({:.1f} - {:.1f}, n {})\n",
                        row["kind"].get<std::string>(),
                        fma ? row["isa"].get<std::string>()
                            : fmt::format("{:.1f} MB", row["bytes"].get<double>() * 1e-6),
                        row["threads"].get<std::size_t>(), row["threads"] == 1 ? " " : "s",
                        row["per_second"].get<double>() * 1e-9, fma ? "GFLOP/s" : "GB/s",
                        row["per_second_min"].get<double>() * 1e-9,
                        row["per_second_max"].get<double>() * 1e-9, row["n"].get<std::size_t>());
  }
  for (const Json& row : document["rows"]) {
    if (row["kind"] != "start") continue;
    text += fmt::format(
        "{}start: {} thread{}, {:.3f} s ({:.3f} - {:.3f}, n {}) to the logits of {} tokens; peak "
        "{:.0f} MB; digest {}\n",
        &row == &document["rows"].front() ? "\n" : "", row["threads"].get<std::size_t>(),
        row["threads"] == 1 ? "" : "s", row["seconds"].get<double>(),
        row["seconds_min"].get<double>(), row["seconds_max"].get<double>(),
        row["n"].get<std::size_t>(), row["prompt"].get<std::size_t>(),
        row["peak_bytes"].get<double>() * 1e-6, row["digest"].get<std::string>());
  }
  text +=
      speed_text(document["rows"]) + kernels_text(document["rows"]) + press_text(document["rows"]);
  text += fmt::format("\npeak memory of all of this {:.0f} MB, packed weights {:.0f} MB\n",
                      document["peak_bytes"].get<double>() * 1e-6,
                      document["weight_bytes"].get<double>() * 1e-6);
  if (document.contains("cold_first")) {
    const Json& cold = document["cold_first"];
    text += fmt::format(
        "\nFirst token of the first round, nothing warmed up; the model was loaded in {:.1f} ms "
        "before.\n{:<44} {:>9} {:>22} {:>22}\n",
        cold["load_seconds"].get<double>() * 1e3, "", "ms", "against the first row",
        "with its loading time");
    for (const Json& row : cold["rows"]) {
      text +=
          fmt::format("{:<44} {:>9} {:>+20.1f} % {:>+20.1f} %\n", row["row"].get<std::string>(),
                      milliseconds(row["time_to_first_token"]), row["change"].get<double>() * 100.0,
                      row["change_with_load"].get<double>() * 100.0);
    }
  }
  return text;
}

}  // namespace neoxref::tools
