// SPDX-License-Identifier: Apache-2.0
// Recipes as JSON and back.
#include "eval/golden_json.hpp"

#include <array>
#include <charconv>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "engine/config.hpp"
#include "engine/error.hpp"

namespace neoxref::eval {
namespace {

using engine::Error;
using engine::JsonFields;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::array<std::string_view, 14> fact_names = {
    "model_type",        "hidden_size",        "num_hidden_layers",       "num_attention_heads",
    "intermediate_size", "vocab_size",         "max_position_embeddings", "rotary_pct",
    "rotary_emb_base",   "layer_norm_eps",     "use_parallel_residual",   "hidden_act",
    "attention_bias",    "tie_word_embeddings"};

/// The largest number that every JSON reader takes.
constexpr std::uint64_t largest = (std::uint64_t{1} << 53) - 1;

/// One of the names that config.json may use for the function.
std::string activation_name(simd::Function function) {
  for (const std::string_view name :
       {"gelu", "gelu_new", "gelu_fast", "quick_gelu", "relu", "silu", "tanh"}) {
    if (engine::activation_from_name(name) == function) return std::string(name);
  }
  throw Error("config", "an activation without a name");
}

/// The shortest decimal that gives this binary32 number, as the binary64 number of that decimal.
double shortest(float value) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double number = 0;
  std::from_chars(text, end, number);
  return number;
}

template <class Value>
Value required(std::optional<Value> value, const JsonFields& fields, std::string_view name) {
  if (!value) throw Error(fields.place(name), "is missing");
  return *std::move(value);
}

std::size_t count(JsonFields& fields, std::string_view name, std::uint64_t least = 0,
                  std::uint64_t most = largest) {
  return required(fields.integer(name, least, most), fields, name);
}

ordered_json budget_fields(const engine::Budget& budget) {
  if (budget.bytes > 0) return {{"keep_bytes", budget.bytes}};
  if (budget.slots > 0) return {{"keep_slots", budget.slots}};
  return {{"keep_ratio", budget.keep_ratio.text()}};
}

engine::Budget budget_of(const json& object, const std::string& where) {
  JsonFields fields(object, where);
  engine::Budget budget;
  const auto ratio = fields.text("keep_ratio");
  const auto slots = fields.integer("keep_slots", 1, largest);
  const auto bytes = fields.integer("keep_bytes", 1, largest);
  fields.finish("is no field of a budget");
  if ((ratio ? 1 : 0) + (slots ? 1 : 0) + (bytes ? 1 : 0) != 1) {
    throw Error(where, "not one budget", "one of keep_ratio, keep_slots and keep_bytes");
  }
  if (ratio) budget.keep_ratio = engine::KeepRatio::parse(*ratio);
  budget.slots = slots.value_or(0);
  budget.bytes = bytes.value_or(0);
  return budget;
}

}  // namespace

ordered_json config_facts(const engine::Config& config) {
  return {{"model_type", "gpt_neox"},
          {"hidden_size", config.hidden},
          {"num_hidden_layers", config.layers},
          {"num_attention_heads", config.heads},
          {"intermediate_size", config.intermediate},
          {"vocab_size", config.vocab},
          {"max_position_embeddings", config.max_positions},
          {"rotary_pct", config.rotary_pct},
          {"rotary_emb_base", shortest(config.rotary_base)},
          {"layer_norm_eps", shortest(config.layer_norm_eps)},
          {"use_parallel_residual", config.parallel_residual},
          {"hidden_act", activation_name(config.activation)},
          {"attention_bias", config.attention_bias},
          {"tie_word_embeddings", config.tie_word_embeddings}};
}

engine::Config config_of_facts(const json& facts, const std::string& where) {
  JsonFields fields(facts, where);
  for (const std::string_view name : fact_names) {
    if (fields.take(name) == nullptr) throw Error(fields.place(name), "is missing");
  }
  fields.finish("is no fact of a config");
  // The reader of config.json checks types and ranges. Tokens that end a text are no facts here.
  json document = facts;
  document["bos_token_id"] = nullptr;
  document["eos_token_id"] = nullptr;
  return engine::parse_config(document.dump(), where);
}

ordered_json press_fields(const engine::Press& press) {
  if (press.score == engine::Score::own) {
    throw Error("press", "a score of one's own cannot be made again from a recipe",
                "a score that has a name", press.name());
  }
  ordered_json layer_budgets = ordered_json::array();
  for (const engine::Budget& budget : press.layer_budgets) {
    layer_budgets.push_back(budget_fields(budget));
  }
  return {{"score", engine::score_name(press.score)},
          {"budget", budget_fields(press.budget)},
          {"layer_budgets", layer_budgets},
          {"trigger", engine::trigger_name(press.trigger)},
          {"prune_after", press.prune_after},
          {"interval", press.interval},
          {"sinks", press.sinks},
          {"recent", press.recent},
          {"positions", engine::positions_name(press.positions)},
          {"order", engine::order_name(press.order)},
          {"skip_layers", press.skip_layers},
          {"seed", press.seed},
          {"window", press.window},
          {"pool", press.pool}};
}

engine::Press press_of_fields(const json& object, const std::string& where) {
  JsonFields fields(object, where);
  const auto text = [&](std::string_view name) {
    return required(fields.text(name), fields, name);
  };
  const auto array = [&](std::string_view name) -> const json& {
    const json* const value = fields.take(name);
    if (value == nullptr || !value->is_array()) {
      throw Error(fields.place(name), "not usable", "an array",
                  value == nullptr ? "nothing" : engine::describe(*value));
    }
    return *value;
  };
  engine::Press press;
  press.score = engine::parse_score(text("score"));
  if (press.score == engine::Score::own) {
    throw Error(fields.place("score"), "a score of one's own cannot be made again from a recipe");
  }
  const json* const budget = fields.take("budget");
  if (budget == nullptr) throw Error(fields.place("budget"), "is missing");
  press.budget = budget_of(*budget, fields.place("budget"));
  for (const json& each : array("layer_budgets")) {
    press.layer_budgets.push_back(budget_of(each, fields.place("layer_budgets")));
  }
  press.trigger = engine::parse_trigger(text("trigger"));
  press.prune_after = count(fields, "prune_after", 0, std::numeric_limits<std::uint64_t>::max());
  press.interval = count(fields, "interval");
  press.sinks = count(fields, "sinks");
  press.recent = count(fields, "recent");
  press.positions = engine::parse_positions(text("positions"));
  press.order = engine::parse_order(text("order"));
  press.skip_layers.clear();
  for (const json& layer : array("skip_layers")) {
    if (!layer.is_number_unsigned()) {
      throw Error(fields.place("skip_layers"), "not usable", "numbers of layers",
                  engine::describe(layer));
    }
    press.skip_layers.push_back(layer.get<std::size_t>());
  }
  press.seed = count(fields, "seed", 0, std::numeric_limits<std::uint64_t>::max());
  press.window = count(fields, "window");
  press.pool = count(fields, "pool");
  fields.finish("is no field of a press");
  return press;
}

}  // namespace neoxref::eval
