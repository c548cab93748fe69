// SPDX-License-Identifier: Apache-2.0
#include "tools/bench_baseline.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "engine/error.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;

std::string row_name(const Json& row) {
  std::string name = row["kind"];
  for (const char* key : {"prompt", "context", "new_tokens", "batch", "threads", "keep", "press",
                          "prune_after", "naive"}) {
    if (row.contains(key)) name += fmt::format(" {} {}", key, row[key].dump());
  }
  std::erase(name, '"');
  return name;
}

bool is_start(const Json& row) {
  return row["kind"] == "start";
}

const char* figure_of(const Json& row) {
  return is_start(row) ? "seconds" : "tokens_per_second";
}

/// Of the fastest round.
double best_of(const Json& row) {
  return row[is_start(row) ? "seconds_min" : "tokens_per_second_max"];
}

}  // namespace

Json read_baseline(const std::string& path) {
  Json document = Json::parse(read_file(path), nullptr, false);
  if (!document.is_object() || !document.contains("rows") || !document["rows"].is_array()) {
    throw engine::Error(path, "is no document of bench --json", "an object with rows", "");
  }
  for (const Json& row : document["rows"]) {
    if (!row.is_object() || !row.contains("kind") || !row["kind"].is_string()) {
      throw engine::Error(path, "a row is no row of bench --json", "an object with a kind",
                          row.dump().substr(0, 60));
    }
    const char* const figure = figure_of(row);
    if (!row.contains(figure) || !row[figure].is_number() || !row.contains("digest")) {
      throw engine::Error(path, "a row lacks a figure or its digest", figure, row_name(row));
    }
  }
  return document;
}

Comparison compare_rows(const Json& now, const Json& before, const std::string& before_name,
                        double tolerance) {
  Comparison result;
  for (const Json& row : now["rows"]) {
    const std::string name = row_name(row);
    const auto same = std::ranges::find_if(
        before["rows"], [&](const Json& other) { return row_name(other) == name; });
    if (same == before["rows"].end()) continue;
    const double earlier = (*same)[figure_of(row)];
    const auto faster = [&](double figure) {
      return is_start(row) ? earlier / figure : figure / earlier;
    };
    const double ratio = faster(row[figure_of(row)]);
    const bool same_digest = (*same)["digest"] == row["digest"];
    const bool ok = same_digest && (ratio >= 1.0 - tolerance || faster(best_of(row)) >= 1.0);
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
  result.text = fmt::format(
                    "\nspeed beside {}; fails: a median below {:.3f} whose fastest round is slower "
                    "than the earlier median\n",
                    before_name, 1.0 - tolerance) +
                result.text;
  if (result.rows.size() < before["rows"].size()) {
    result.text += fmt::format("{} rows of {} were not measured now\n",
                               before["rows"].size() - result.rows.size(), before_name);
  }
  return result;
}

}  // namespace neoxref::tools
