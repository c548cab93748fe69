// SPDX-License-Identifier: Apache-2.0
#include "eval/profiles.hpp"

#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <utility>

#include "engine/error.hpp"
#include "engine/json.hpp"

namespace neoxref::eval {
namespace {

using engine::Error;
using engine::Tensor;

constexpr std::size_t max_profile_bytes = 1 << 16;

constexpr std::array<std::pair<Format, std::string_view>, 5> formats = {{
    {Format::f32, "f32"},
    {Format::tf32, "tf32"},
    {Format::bf16, "bf16"},
    {Format::f16, "f16"},
    {Format::kld16, "kld16"},
}};
constexpr std::array<std::pair<Rounding, std::string_view>, 2> roundings = {{
    {Rounding::nearest, "nearest"},
    {Rounding::truncate, "truncate"},
}};
constexpr std::array<std::pair<LayerNormForm, std::string_view>, 2> forms = {{
    {LayerNormForm::two_pass, "two_pass"},
    {LayerNormForm::one_pass, "one_pass"},
}};
constexpr std::array<std::string_view, 14> tensor_keys = {
    "embed_in",      "input_layernorm", "query_key_value",          "rotary_q",      "rotary_k",
    "context",       "dense",           "post_attention_layernorm", "dense_h_to_4h", "act",
    "dense_4h_to_h", "layer_output",    "final_layer_norm",         "embed_out"};
constexpr std::array<std::string_view, 6> shipped = {"f32",       "tf32",       "bf16-acc32",
                                                     "f16-acc32", "bf16-flash", "kld16"};

struct FunctionField {
  std::string_view name;
  double Profile::Functions::*value;
};
constexpr std::array<FunctionField, 7> function_fields = {{
    {"exp", &Profile::Functions::exp},
    {"gelu", &Profile::Functions::gelu},
    {"tanh", &Profile::Functions::tanh},
    {"silu", &Profile::Functions::silu},
    {"rsqrt", &Profile::Functions::rsqrt},
    {"cos_sin", &Profile::Functions::cos_sin},
    {"power", &Profile::Functions::power},
}};

struct FormatField {
  std::string_view name;
  Format Profile::*value;
};
constexpr std::array<FormatField, 8> format_fields = {{
    {"operands", &Profile::operands},
    {"accumulator", &Profile::accumulator},
    {"pointwise", &Profile::pointwise},
    {"internal", &Profile::internal},
    {"scores", &Profile::scores},
    {"probabilities", &Profile::probabilities},
    {"rotary_table", &Profile::rotary_table},
    {"dump", &Profile::dump},
}};

template <class Names>
std::string list(const Names& names) {
  std::string text;
  for (const auto& name : names) {
    if (!text.empty()) text += ", ";
    if constexpr (requires { name.second; }) {
      text += name.second;
    } else {
      text += name;
    }
  }
  return text;
}

template <class Table>
auto from_name(const Table& table, std::string_view name, const std::string& where) {
  for (const auto& [value, text] : table) {
    if (text == name) return value;
  }
  throw Error(where, "unknown value", list(table), name);
}

template <class Table, class Value>
std::string_view name_of(const Table& table, Value value) {
  for (const auto& [known, text] : table) {
    if (known == value) return text;
  }
  return {};
}

void store_all(Profile& profile, Format format) {
  profile.storage.fill(format);
}

std::string text_of(const nlohmann::json& value, const std::string& where) {
  if (!value.is_string()) throw Error(where, "not a text", "a name", engine::describe(value));
  return value.get<std::string>();
}

void read_storage(Profile& profile, const nlohmann::json& value, const std::string& where) {
  if (value.is_string()) {
    store_all(profile, from_name(formats, text_of(value, where), where));
    return;
  }
  engine::JsonFields fields(value, where);
  if (const nlohmann::json* all = fields.take("default")) {
    const std::string place = fields.place("default");
    store_all(profile, from_name(formats, text_of(*all, place), place));
  }
  for (std::size_t i = 0; i < tensor_keys.size(); ++i) {
    if (const nlohmann::json* one = fields.take(tensor_keys[i])) {
      const std::string place = fields.place(tensor_keys[i]);
      profile.storage[i] = from_name(formats, text_of(*one, place), place);
    }
  }
  fields.finish("unknown tensor");
}

/// What no bound is derived for.
void check(const Profile& profile, std::string_view where) {
  const auto place = [&](std::string_view field) {
    return std::string(where) + ": " + std::string(field);
  };
  if (profile.accumulator != Format::f32 && profile.accumulator != Format::f16) {
    throw Error(place("accumulator"), "sums are not held in this format", "f32 or f16",
                format_name(profile.accumulator));
  }
  for (const FormatField& field : format_fields) {
    if (profile.*field.value == Format::kld16) {
      throw Error(place(field.name), "kld16 can only be the storage of embed_out", "f32 to f16",
                  "kld16");
    }
  }
  for (std::size_t i = 0; i + 1 < tensor_keys.size(); ++i) {
    if (profile.storage[i] == Format::kld16) {
      throw Error(place("storage: " + std::string(tensor_keys[i])),
                  "kld16 can only be the storage of embed_out", "f32 to f16", "kld16");
    }
  }
}

}  // namespace

std::string_view format_name(Format format) {
  return name_of(formats, format);
}

const FormatLimits& format_limits(Format format) {
  static constexpr FormatLimits f32{0x1p-24, 0x1p-149, 0x1p-126, 0x1.fffffep127};
  static constexpr FormatLimits tf32{0x1p-11, 0x1p-136, 0x1p-126, 0x1.ffcp127};
  static constexpr FormatLimits bf16{0x1p-8, 0x1p-133, 0x1p-126, 0x1.fep127};
  static constexpr FormatLimits f16{0x1p-11, 0x1p-24, 0x1p-14, 65504.0};
  switch (format) {
    case Format::tf32:
      return tf32;
    case Format::bf16:
      return bf16;
    case Format::f16:
      return f16;
    default:
      return f32;
  }
}

double round_to(Format format, double x) {
  if (!std::isfinite(x) || x == 0.0) return x;
  const FormatLimits& limits = format_limits(format);
  int exponent = 0;
  (void)std::frexp(x, &exponent);
  // The spacing of the format around x: 2u of the power of two below, the subnormal one at least.
  const double spacing = std::max(std::ldexp(limits.unit, exponent), limits.least);
  const double rounded = std::nearbyint(x / spacing) * spacing;
  return std::abs(rounded) > limits.largest
             ? std::copysign(std::numeric_limits<double>::infinity(), x)
             : rounded;
}

bool fits(Format narrow, Format wide) {
  if (narrow == wide || wide == Format::f32) return true;
  // 8 bits of bfloat16 and 11 of binary16 are within tf32's 11, and so are their exponents.
  return wide == Format::tf32 && (narrow == Format::bf16 || narrow == Format::f16);
}

std::span<const std::string_view> shipped_profiles() {
  return shipped;
}

Profile shipped_profile(std::string_view name) {
  Profile profile;
  profile.name = name;
  store_all(profile, Format::f32);
  profile.layer_norm = LayerNormForm::one_pass;
  const auto all_narrow = [&](Format format) {
    profile.operands = format;
    profile.accumulator_rounding = Rounding::truncate;
    profile.pointwise = format;
    store_all(profile, format);
    profile.scores = profile.probabilities = profile.rotary_table = format;
  };
  if (name == "f32") {
    profile.online_softmax = true;
  } else if (name == "tf32") {
    profile.operands = Format::tf32;
    profile.operand_rounding = Rounding::truncate;
    profile.accumulator_rounding = Rounding::truncate;
    profile.online_softmax = true;
  } else if (name == "bf16-acc32") {
    all_narrow(Format::bf16);
    profile.flushed = {Format::f32, Format::bf16};
  } else if (name == "f16-acc32") {
    all_narrow(Format::f16);
  } else if (name == "bf16-flash") {
    all_narrow(Format::bf16);
    profile.scores = Format::f32;
    profile.online_softmax = true;
    profile.flushed = {Format::f32, Format::bf16};
  } else if (name == "kld16") {
    profile.operands = Format::f16;
    profile.storage[static_cast<std::size_t>(Tensor::dense_h_to_4h)] = Format::f16;
    profile.storage[static_cast<std::size_t>(Tensor::act)] = Format::f16;
    profile.storage[static_cast<std::size_t>(Tensor::embed_out)] = Format::kld16;
    profile.probabilities = Format::f16;
    profile.online_softmax = true;
  } else {
    throw Error("profile", "unknown name", list(shipped) + " or a .json file", name);
  }
  return profile;
}

Profile parse_profile(std::string_view text, std::string_view where) {
  const nlohmann::json document = engine::parse_json(text, where, max_profile_bytes, 3);
  engine::JsonFields fields(document, std::string(where));
  Profile profile = shipped_profile("f32");
  if (const auto base = fields.text("base")) {
    for (const std::string_view name : shipped) {
      if (name == *base) profile = shipped_profile(name);
    }
    if (profile.name != *base) {
      throw Error(fields.place("base"), "unknown name", list(shipped), *base);
    }
  }
  const auto name = fields.text("name");
  if (!name || name->empty()) throw Error(fields.place("name"), "missing", "a name of its own", "");
  profile.name = *name;
  for (const FormatField& field : format_fields) {
    if (const auto value = fields.text(field.name)) {
      profile.*field.value = from_name(formats, *value, fields.place(field.name));
    }
  }
  if (const auto value = fields.text("operand_rounding")) {
    profile.operand_rounding = from_name(roundings, *value, fields.place("operand_rounding"));
  }
  if (const auto value = fields.text("accumulator_rounding")) {
    profile.accumulator_rounding =
        from_name(roundings, *value, fields.place("accumulator_rounding"));
  }
  if (const auto value = fields.text("layer_norm")) {
    profile.layer_norm = from_name(forms, *value, fields.place("layer_norm"));
  }
  profile.folded_weights = fields.boolean("folded_weights").value_or(profile.folded_weights);
  profile.online_softmax = fields.boolean("online_softmax").value_or(profile.online_softmax);
  profile.softmax_block = static_cast<std::size_t>(
      fields.integer("softmax_block", 1, 1 << 20).value_or(profile.softmax_block));
  if (const nlohmann::json* value = fields.take("storage")) {
    read_storage(profile, *value, fields.place("storage"));
  }
  if (const nlohmann::json* value = fields.take("functions")) {
    engine::JsonFields functions(*value, fields.place("functions"));
    for (const FunctionField& field : function_fields) {
      if (const auto ulp = functions.number(field.name, 0.5, 1e6)) {
        profile.functions.*field.value = *ulp;
      }
    }
    functions.finish("unknown function");
  }
  if (const nlohmann::json* value = fields.take("flushed")) {
    if (!value->is_array()) {
      throw Error(fields.place("flushed"), "not a list", "names of formats",
                  engine::describe(*value));
    }
    profile.flushed.clear();
    for (const nlohmann::json& one : *value) {
      profile.flushed.insert(
          from_name(formats, text_of(one, fields.place("flushed")), fields.place("flushed")));
    }
  }
  fields.finish("unknown field");
  check(profile, where);
  return profile;
}

Profile read_profile(const std::string& name_or_path) {
  if (!name_or_path.ends_with(".json")) return shipped_profile(name_or_path);
  std::ifstream file(name_or_path, std::ios::binary);
  if (!file) throw Error(name_or_path, "cannot be opened", "a profile file");
  std::string text(max_profile_bytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  return parse_profile(text, name_or_path);
}

std::string profile_text(const Profile& profile) {
  nlohmann::ordered_json json;
  json["name"] = profile.name;
  json["base"] = "f32";
  for (const FormatField& field : format_fields) {
    json[std::string(field.name)] = format_name(profile.*field.value);
  }
  json["operand_rounding"] = name_of(roundings, profile.operand_rounding);
  json["accumulator_rounding"] = name_of(roundings, profile.accumulator_rounding);
  json["layer_norm"] = name_of(forms, profile.layer_norm);
  json["folded_weights"] = profile.folded_weights;
  json["online_softmax"] = profile.online_softmax;
  json["softmax_block"] = profile.softmax_block;
  for (std::size_t i = 0; i < tensor_keys.size(); ++i) {
    json["storage"][std::string(tensor_keys[i])] = format_name(profile.storage[i]);
  }
  for (const FunctionField& field : function_fields) {
    json["functions"][std::string(field.name)] = profile.functions.*field.value;
  }
  json["flushed"] = nlohmann::ordered_json::array();
  for (const Format format : profile.flushed) json["flushed"].push_back(format_name(format));
  return json.dump(2) + "\n";
}

}  // namespace neoxref::eval
