// SPDX-License-Identifier: Apache-2.0
#include "eval/foreign_rules.hpp"

#include <algorithm>

#include "engine/error.hpp"
#include "engine/json.hpp"

namespace neoxref::eval {
namespace {

using engine::Error;
using engine::JsonFields;
using nlohmann::json;

constexpr std::uint64_t most_axes = 64;
constexpr std::uint64_t longest_axis = std::uint64_t{1} << 46;

const json& array_of(const json& value, const std::string& place) {
  if (!value.is_array()) throw Error(place, "not a list", "[...]", engine::describe(value));
  return value;
}

std::uint64_t whole(const json& value, const std::string& place, std::uint64_t most) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > most) {
    throw Error(place, "not usable", "a whole number up to " + std::to_string(most),
                engine::describe(value));
  }
  return value.get<std::uint64_t>();
}

std::vector<std::size_t> axes(const json* value, const std::string& place) {
  std::vector<std::size_t> result;
  if (value == nullptr) return result;
  for (const json& each : array_of(*value, place)) {
    result.push_back(static_cast<std::size_t>(whole(each, place, most_axes - 1)));
  }
  return result;
}

ForeignType type_named(const std::string& name, const std::string& place) {
  const auto type = parse_foreign_type(name);
  if (!type) {
    throw Error(place, "no such type", "f16, bf16, f32, f64, i8 to i64, u8 to u64 or bool", name);
  }
  return *type;
}

std::vector<AxisSlice> slices_of(const json* value, const std::string& place) {
  std::vector<AxisSlice> result;
  if (value == nullptr) return result;
  for (const json& each : array_of(*value, place)) {
    JsonFields fields(each, place);
    AxisSlice slice;
    const auto axis = fields.integer("axis", 0, most_axes - 1);
    if (!axis) throw Error(fields.place("axis"), "missing");
    slice.axis = static_cast<std::size_t>(*axis);
    slice.start = fields.integer("start", 0, longest_axis).value_or(0);
    slice.stop = fields.integer("stop", 0, longest_axis);
    slice.step = fields.integer("step", 1, longest_axis).value_or(1);
    fields.finish("unknown field");
    result.push_back(slice);
  }
  return result;
}

ForeignRule rule_of(const json& value, const std::string& where) {
  JsonFields fields(value, where);
  ForeignRule rule;
  const auto match = fields.text("match");
  if (!match) throw Error(fields.place("match"), "missing");
  rule.match = *match;
  try {
    rule.pattern = std::regex(rule.match);
  } catch (const std::regex_error& problem) {
    throw Error(fields.place("match"), std::string("not a regular expression: ") + problem.what(),
                {}, rule.match);
  }
  rule.ignore = fields.boolean("ignore").value_or(false);
  rule.name = fields.text("name").value_or("");
  if (rule.name.empty() != rule.ignore) {
    throw Error(where, "a rule needs either a name or \"ignore\": true");
  }
  rule.layer_offset = static_cast<int>(fields.number("layer_offset", -1e6, 1e6).value_or(0.0));
  if (const auto type = fields.text("dtype")) rule.type = type_named(*type, fields.place("dtype"));
  if (const auto stack = fields.integer("stack", 0, most_axes - 1)) {
    rule.stack = static_cast<std::size_t>(*stack);
  }
  rule.slices = slices_of(fields.take("slice"), fields.place("slice"));
  rule.squeeze = axes(fields.take("squeeze"), fields.place("squeeze"));
  rule.permute = axes(fields.take("permute"), fields.place("permute"));
  const std::string part = fields.text("part").value_or("");
  constexpr std::string_view parts[] = {"", "q", "k", "v"};
  const auto* const found = std::find(std::begin(parts), std::end(parts), part);
  if (found == std::end(parts)) {
    throw Error(fields.place("part"), "no such part of query_key_value", "q, k or v", part);
  }
  rule.part = static_cast<QkvPart>(found - std::begin(parts));
  const std::string order = fields.text("qkv").value_or("by-head");
  if (order != "by-head" && order != "by-part") {
    throw Error(fields.place("qkv"), "no such order", "by-head or by-part", order);
  }
  rule.order = order == "by-part" ? StoredQkvOrder::by_part : StoredQkvOrder::by_head;
  fields.finish("unknown field");
  return rule;
}

RawArray raw_of(const json& value, const std::string& where) {
  JsonFields fields(value, where);
  RawArray raw;
  const auto file = fields.text("file");
  if (!file || file->empty()) throw Error(fields.place("file"), "missing");
  raw.file = *file;
  raw.name = fields.text("name").value_or(raw.file.substr(0, raw.file.rfind('.')));
  raw.type = type_named(fields.text("dtype").value_or("f32"), fields.place("dtype"));
  const json* shape = fields.take("shape");
  if (shape == nullptr) throw Error(fields.place("shape"), "missing");
  for (const json& extent : array_of(*shape, fields.place("shape"))) {
    raw.shape.push_back(whole(extent, fields.place("shape"), longest_axis));
  }
  raw.offset = fields.integer("offset", 0, longest_axis).value_or(0);
  fields.finish("unknown field");
  return raw;
}

}  // namespace

ForeignRules parse_rules(std::string_view text, std::string_view where) {
  constexpr std::size_t most_bytes = std::size_t{16} << 20;
  const json document = engine::parse_json(text, where, most_bytes, 8);
  JsonFields fields(document, std::string(where));
  ForeignRules result;
  const auto each_of = [&](std::string_view name, const auto& use) {
    const json* const list = fields.take(name);
    if (list == nullptr) return;
    std::size_t index = 0;
    for (const json& each : array_of(*list, fields.place(name))) {
      use(each, fields.place(name) + "[" + std::to_string(index++) + "]");
    }
  };
  each_of("tensors", [&](const json& each, const std::string& place) {
    result.rules.push_back(rule_of(each, place));
  });
  each_of("raw", [&](const json& each, const std::string& place) {
    result.raw.push_back(raw_of(each, place));
  });
  result.map = fields.text("map");
  if (result.map && *result.map != "none") built_in_map(*result.map);
  if (const json* tokens = fields.take("tokens")) {
    JsonFields inner(*tokens, fields.place("tokens"));
    const auto row = inner.integer("row", 0, longest_axis);
    const auto offset = inner.integer("offset", 0, longest_axis);
    if (row) result.tokens.row = static_cast<std::size_t>(*row);
    if (offset) result.tokens.offset = static_cast<std::size_t>(*offset);
    inner.finish("unknown field");
  }
  fields.finish("unknown field");
  return result;
}

}  // namespace neoxref::eval
