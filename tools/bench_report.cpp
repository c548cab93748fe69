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

std::string row_name(const Json& row) {
  std::string name = row["kind"];
  for (const char* key : {"prompt", "context", "new_tokens", "batch", "threads", "keep", "press",
                          "prune_after", "naive"}) {
    if (row.contains(key)) name += fmt::format(" {} {}", key, row[key].dump());
  }
  std::erase(name, '"');
  return name;
}

std::string milliseconds(const Json& seconds) {
  return fmt::format("{:.2f}", seconds.get<double>() * 1e3);
}

std::string speed_text(const Json& rows) {
  std::string text;
  for (const Json& row : rows) {
    if (row["kind"] != "prefill" && row["kind"] != "decode") continue;
    if (text.empty()) {
      text =
          fmt::format("\n{:<8} {:>7} {:>5} {:>7} {:>10} {:>21} {:>3} {:>8} {:>8} {:>8} {:>7}  {}\n",
                      "", "tokens", "batch", "threads", "tokens/s", "least - most", "n", "GFLOP/s",
                      "GB/s", "of limit", "waited", "digest");
    }
    double waited = 0.0;
    for (const Json& phase : row["phases"]) waited += phase["waited"].get<double>();
    text += fmt::format(
        "{:<8} {:>7} {:>5} {:>7} {:>10.1f} {:>21} {:>3} {:>8.1f} {:>8.1f} {:>6.0f} % {:>5.1f} %  "
        "{}\n",
        row["kind"].get<std::string>(),
        row[row["kind"] == "prefill" ? "prompt" : "context"].get<std::size_t>(),
        row["batch"].get<std::size_t>(), row["threads"].get<std::size_t>(),
        row["tokens_per_second"].get<double>(),
        fmt::format("{:.1f} - {:.1f}", row["tokens_per_second_min"].get<double>(),
                    row["tokens_per_second_max"].get<double>()),
        row["n"].get<std::size_t>(), row["flops_per_second"].get<double>() * 1e-9,
        row["bytes_per_second"].get<double>() * 1e-9, row["share_of_limit"].get<double>() * 100.0,
        waited * 100.0, row["digest"].get<std::string>());
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

}  // namespace

Json speed_row(const eval::SpeedArm& arm, const char* kind, const char* key, std::size_t tokens,
               const MeasuredLimits& limits) {
  const Spread speed = arm.tokens_per_second();
  const double unit_seconds = arm.unit_tokens() / speed.median;
  const double least = arm.cost().least_seconds(limits.flops_per_second, limits.bytes_per_second);
  Json row{{"kind", kind},
           {key, tokens},
           {"batch", arm.batch()},
           {"threads", arm.model().team().threads()}};
  add(row, "tokens_per_second", speed);
  row["n"] = speed.n;
  row["seconds"] = unit_seconds;
  row["flops_per_second"] = arm.cost().flops() / unit_seconds;
  row["bytes_per_second"] = arm.cost().bytes() / unit_seconds;
  row["limit_tokens_per_second"] = arm.unit_tokens() / least;
  row["share_of_limit"] = least / unit_seconds;
  Json phases = Json::array();
  for (const eval::PhaseShare& share : eval::phase_shares(arm.times(), arm.model().config())) {
    phases.push_back({{"phase", share.name}, {"worked", share.worked}, {"waited", share.waited}});
  }
  row["phases"] = std::move(phases);
  row["digest"] = arm.digest();
  return row;
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
        "{:.0f} MB\n",
        &row == &document["rows"].front() ? "\n" : "", row["threads"].get<std::size_t>(),
        row["threads"] == 1 ? "" : "s", row["seconds"].get<double>(),
        row["seconds_min"].get<double>(), row["seconds_max"].get<double>(),
        row["n"].get<std::size_t>(), row["prompt"].get<std::size_t>(),
        row["peak_bytes"].get<double>() * 1e-6);
  }
  text += speed_text(document["rows"]) + press_text(document["rows"]);
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

Comparison compare_rows(const Json& now, const Json& before, const std::string& before_name,
                        double tolerance) {
  if (!before.is_object() || !before.contains("rows") || !before["rows"].is_array()) {
    throw engine::Error(before_name, "is no document of bench --json", "an object with rows", "");
  }
  Comparison result;
  for (const Json& row : now["rows"]) {
    const std::string name = row_name(row);
    const auto same =
        std::find_if(before["rows"].begin(), before["rows"].end(), [&](const Json& other) {
          return other.is_object() && other.contains("kind") && other["kind"].is_string() &&
                 row_name(other) == name;
        });
    if (same == before["rows"].end()) continue;
    const bool start = row["kind"] == "start";
    const char* const figure = start ? "seconds" : "tokens_per_second";
    if (!same->contains(figure) || !(*same)[figure].is_number() || !same->contains("digest")) {
      throw engine::Error(before_name, "a row has no such figure", figure, name);
    }
    const double mine = row[figure];
    const double theirs = (*same)[figure];
    const double ratio = start ? theirs / mine : mine / theirs;
    const bool same_digest = (*same)["digest"] == row["digest"];
    const bool ok = same_digest && ratio >= 1.0 - tolerance;
    result.ok = result.ok && ok;
    result.rows.push_back(
        {{"row", name}, {"ratio", ratio}, {"same_digest", same_digest}, {"ok", ok}});
    result.text += fmt::format("{:>7.3f}  {}{}\n", ratio, name,
                               !same_digest ? "  OTHER LOGITS"
                               : ok         ? ""
                                            : "  SLOWER");
  }
  if (result.rows.empty()) {
    throw engine::Error(before_name, "has no row in common with this run");
  }
  result.text =
      fmt::format("\nspeed beside {} (slower than {:.3f} fails)\n", before_name, 1.0 - tolerance) +
      result.text;
  return result;
}

}  // namespace neoxref::tools
