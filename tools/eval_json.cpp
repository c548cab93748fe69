// SPDX-License-Identifier: Apache-2.0
// The document of `eval --json`.
#include <cmath>
#include <nlohmann/json.hpp>

#include "tools/eval_report.hpp"
#include "tools/eval_series.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using eval::Row;
using eval::Sweep;
using eval::TextScore;

Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

/// What a row and a text both have. Means are null where nothing was scored.
template <class Sums>
void add_figures(Json& entry, const Sums& sums, const std::optional<eval::Interval>& interval) {
  const auto scored = static_cast<double>(sums.scored);
  const auto mean = [&](double sum) { return sums.scored > 0 ? number(sum / scored) : Json(); };
  const auto of = [&](std::size_t part) { return mean(static_cast<double>(part)); };
  entry["nll"] = sums.nll;
  entry["perplexity"] = number(std::exp(sums.nll / scored));
  entry["baseline_perplexity"] = number(std::exp(sums.full_nll / scored));
  entry["ratio"] = number(std::exp(sums.log_ratio()));
  entry["log_ratio"] = number(sums.log_ratio());
  entry["log_ratio_interval"] = interval_json(interval);
  entry["accuracy"] = of(sums.correct);
  entry["agreement"] = of(sums.agreed);
  entry["kl"] = mean(sums.kl);
  entry["bits_per_byte"] =
      sums.bytes > 0 ? number(sums.nll / std::log(2.0) / static_cast<double>(sums.bytes)) : Json();
  entry["word_perplexity"] =
      sums.words > 0 ? number(std::exp(sums.nll / static_cast<double>(sums.words))) : Json();
  entry["share_after_cut"] = of(sums.after_cut);
  entry["cuts"] = sums.cuts;
  entry["mean_slots"] = sums.scored > 0 ? number(sums.mean_slots) : Json();
  entry["mean_bytes"] = sums.scored > 0 ? number(sums.mean_bytes) : Json();
  entry["peak_bytes"] = sums.peak_bytes;
  entry["physical_bytes"] = sums.physical_bytes;
  entry["mean_resident_bytes"] = sums.scored > 0 ? number(sums.mean_resident_bytes) : Json();
  entry["peak_resident_bytes"] = sums.peak_resident_bytes;
  entry["seconds"] = sums.seconds;
  entry["digest"] = sums.digest;
}

/// Cuts of several layers at one place and to one length are one step.
Json steps_json(const eval::WindowScore& window) {
  Json steps = Json::array();
  for (const engine::Cut& cut : window.log) {
    const bool same = !steps.empty() && steps.back()["token"] == cut.position &&
                      steps.back()["before"] == cut.before && steps.back()["after"] == cut.after;
    if (same) {
      steps.back()["layers"].push_back(cut.layer);
    } else {
      steps.push_back({{"token", cut.position},
                       {"layers", Json::array({cut.layer})},
                       {"before", cut.before},
                       {"after", cut.after}});
    }
  }
  return steps;
}

Json text_json(const Sweep& sweep, const TextScore& text) {
  Json entry{{"text", text.name}, {"tokens", text.tokens}, {"tokens_scored", text.scored}};
  if (text.windows.empty()) {
    entry["effective_prune_after"] = 0;
    entry["never_cut"] = text.never_cut;
    return entry;
  }
  entry["effective_prune_after"] = text.windows.front().course.prune_after;
  const std::vector<TextScore> alone = {text};
  add_figures(entry, text, eval::log_ratio_interval(alone, sweep.layout.max_tokens));
  entry["tokens_before_first_cut"] = text.before_first_cut;
  entry["never_cut"] = text.never_cut;
  entry["lengths"] = text.windows.back().lengths;
  entry["windows"] = text.windows.size();
  // Windows of one length are cut alike: the first stands for them.
  entry["steps"] = steps_json(text.windows.front());
  return entry;
}

Json buckets_json(const Row& row, eval::By by) {
  Json list = Json::array();
  for (const eval::Bucket& bucket : eval::buckets(row, by)) {
    list.push_back({{"first", bucket.first},
                    {"last", bucket.last},
                    {"tokens", bucket.tokens},
                    {"log_ratio", bucket.log_ratio},
                    {"nll", bucket.nll},
                    {"baseline_nll", bucket.full_nll},
                    {"kl", bucket.kl}});
  }
  return list;
}

/// The one value that all texts have, or null.
Json effective_prune_after(const Row& row) {
  Json value;
  for (const TextScore& text : row.texts) {
    for (const eval::WindowScore& window : text.windows) {
      if (!value.is_null() && value != window.course.prune_after) return {};
      value = window.course.prune_after;
    }
  }
  return value;
}

void add_task(Json& entry, const Row& row) {
  std::size_t items = 0;
  std::size_t never = 0;
  for (const TextScore& text : row.texts) {
    items += text.scored > 0 ? 1 : 0;
    never += text.never_cut ? 1 : 0;
  }
  const auto count = static_cast<double>(items);
  entry["items"] = items;
  entry["item_accuracy"] = number(static_cast<double>(row.items_correct()) / count);
  entry["item_perplexity"] = number(std::exp(row.nll / count));
  entry["items_never_cut"] = never;
}

/// By layer and head: how many slots were dropped, and their ages then.
Json drops_json(const eval::Survival& survival) {
  Json list = Json::array();
  for (std::size_t i = 0; i < survival.drops.size(); ++i) {
    const eval::DropAges& ages = survival.drops[i];
    if (ages.dropped == 0) continue;
    list.push_back({{"layer", i / survival.heads},
                    {"head", i % survival.heads},
                    {"dropped", ages.dropped},
                    {"mean_age", static_cast<double>(ages.sum) / static_cast<double>(ages.dropped)},
                    {"youngest", ages.youngest},
                    {"oldest", ages.oldest}});
  }
  return list;
}

}  // namespace

Json interval_json(const std::optional<eval::Interval>& interval) {
  if (!interval) return {};
  Json entry{{"low", interval->low},
             {"high", interval->high},
             {"over", eval::interval_name(interval->over)},
             {"units", interval->units}};
  if (interval->block > 0) entry["block"] = interval->block;
  return entry;
}

Json arm_json(const Sweep& sweep, const Row& row) {
  const engine::Press& press = row.arm.press;
  const bool layered = !press.layer_budgets.empty();
  const bool by_share = !layered && press.budget.slots == 0 && press.budget.bytes == 0;
  const auto count = [&](std::size_t budget) {
    return layered || budget == 0 ? Json() : Json(budget);
  };
  Json json{{"label", row.arm.label},
            {"protocol", eval::protocol_name(sweep.layout.protocol)},
            {"trigger", engine::trigger_name(press.trigger)},
            {"interval", press.interval > 0 ? Json(press.interval) : Json()},
            {"press", row.compressed ? press.name() : "none"},
            {"control", row.arm.control},
            {"keep_ratio", by_share ? Json(press.budget.keep_ratio.value()) : Json()},
            {"keep_slots", count(press.budget.slots)},
            {"keep_bytes", count(press.budget.bytes)},
            {"positions", engine::positions_name(press.positions)},
            {"sinks", press.sinks},
            {"recent", press.recent},
            {"skip_layers", press.skip_layers},
            {"press_seed", press.seed},
            {"prune_after", press.prune_after},
            {"order", engine::order_name(press.order)}};
  if (press.score == engine::Score::snapkv) {
    json["window"] = press.window;
    json["pool"] = press.pool;
  }
  return json;
}

Json sweep_json(const ReportContext& context) {
  const Sweep& sweep = context.sweep;
  Json rows = Json::array();
  for (std::size_t i = 0; i < sweep.rows.size(); ++i) {
    const Row& row = sweep.rows[i];
    Json entry{{"text", row.texts.size() == 1 ? row.texts.front().name : "all"}};
    entry.update(arm_json(sweep, row));
    entry["effective_prune_after"] = effective_prune_after(row);
    entry["tokens"] = row.tokens;
    entry["tokens_scored"] = row.scored;
    add_figures(entry, row, row.compressed ? context.intervals[i] : std::nullopt);
    entry["document_perplexity"] = number(row.document_perplexity());
    if (!context.task.empty()) add_task(entry, row);
    entry["buckets"] = {{"position", buckets_json(row, eval::By::position)},
                        {"since_cut", buckets_json(row, eval::By::since_cut)},
                        {"cuts", buckets_json(row, eval::By::cuts)}};
    entry["protected_cuts"] = row.protected_cuts();
    entry["drops"] = drops_json(row.survival);
    add_series(entry, row);
    Json texts = Json::array();
    for (const TextScore& text : row.texts) texts.push_back(text_json(sweep, text));
    entry["texts"] = std::move(texts);
    rows.push_back(std::move(entry));
  }
  Json document{{"rows", std::move(rows)}};
  Json controls = Json::array();
  for (const eval::ControlSpread& spread : eval::control_spreads(sweep)) {
    controls.push_back({{"press", engine::score_name(spread.score)},
                        {"label", spread.label},
                        {"prune_after", spread.prune_after},
                        {"seeds", spread.seeds},
                        {"log_ratio", spread.mean},
                        {"least", spread.least},
                        {"most", spread.most}});
  }
  if (!controls.empty()) document["controls"] = std::move(controls);
  if (context.preset != nullptr) document["preset"] = context.preset->name;
  if (!context.task.empty()) document["task"] = context.task;
  document["max_tokens"] = sweep.layout.max_tokens;
  if (sweep.layout.protocol == eval::Protocol::sliding) document["stride"] = sweep.layout.stride;
  if (sweep.layout.bos) document["bos"] = true;
  document["machine"] = machine_json(context.model);
  return document;
}

}  // namespace neoxref::tools
