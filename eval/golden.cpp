// SPDX-License-Identifier: Apache-2.0
#include "eval/golden.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <utility>

#include "engine/error.hpp"
#include "engine/mapped_file.hpp"
#include "eval/golden_json.hpp"
#include "eval/golden_tensors.hpp"
#include "eval/sha256.hpp"

namespace neoxref::eval {
namespace {

using engine::Error;
using engine::JsonFields;
using nlohmann::json;

constexpr std::string_view format_name = "neoxref-golden/1";
constexpr std::string_view json_file = "golden.json";
constexpr std::string_view tensor_file = "tensors.safetensors";
constexpr std::string_view seal_start = "\n  \"seal\": \"";
constexpr std::size_t most_bytes = std::size_t{1} << 30;
constexpr std::size_t leaf_digits = 16;

std::string hexadecimal(std::uint64_t number) {
  char text[leaf_digits];
  for (std::size_t i = 0; i < leaf_digits; ++i) {
    text[i] = "0123456789abcdef"[(number >> (60 - 4 * i)) & 15];
  }
  return std::string(text, leaf_digits);
}

/// A number of as many lower-case digits as there are.
std::optional<std::uint64_t> from_hexadecimal(std::string_view text) {
  std::uint64_t number = 0;
  const bool lower = text.find_first_not_of("0123456789abcdef") == text.npos;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, 16);
  if (!lower || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<DigestBytes> digest_from(std::string_view text) {
  if (text.size() != 2 * leaf_digits) return std::nullopt;
  const auto high = from_hexadecimal(text.substr(0, leaf_digits));
  const auto low = from_hexadecimal(text.substr(leaf_digits));
  if (!high || !low) return std::nullopt;
  DigestBytes digest;
  for (std::size_t i = 0; i < 8; ++i) {
    digest[i] = static_cast<std::uint8_t>(*high >> (56 - 8 * i));
    digest[8 + i] = static_cast<std::uint8_t>(*low >> (56 - 8 * i));
  }
  return digest;
}

std::string seal_of(std::string_view text) {
  return bytes_digest(std::as_bytes(std::span(text)));
}

std::string text_field(JsonFields& fields, std::string_view name) {
  auto value = fields.text(name);
  if (!value) throw Error(fields.place(name), "is missing");
  return *std::move(value);
}

const json& array_field(JsonFields& fields, std::string_view name) {
  const json* const value = fields.take(name);
  if (value == nullptr || !value->is_array()) {
    throw Error(fields.place(name), "not usable", "an array",
                value == nullptr ? "nothing" : engine::describe(*value));
  }
  return *value;
}

std::vector<std::int32_t> read_tokens(const json& array, const std::string& where) {
  std::vector<std::int32_t> tokens;
  for (const json& token : array) {
    const bool fits = token.is_number_unsigned() &&
                      token.get<std::uint64_t>() <= std::numeric_limits<std::int32_t>::max();
    if (!fits) throw Error(where, "not usable", "ids of tokens", engine::describe(token));
    tokens.push_back(token.get<std::int32_t>());
  }
  return tokens;
}

GoldenRecipe read_recipe(JsonFields& fields) {
  GoldenRecipe recipe;
  const json* const model = fields.take("model");
  if (model == nullptr) throw Error(fields.place("model"), "is missing");
  JsonFields of_model(*model, fields.place("model"));
  recipe.model = text_field(of_model, "name");
  recipe.sha256 = text_field(of_model, "sha256");
  if (recipe.sha256.size() != 64 ||
      recipe.sha256.find_first_not_of("0123456789abcdef") != std::string::npos) {
    throw Error(of_model.place("sha256"), "not usable", "64 hexadecimal digits", recipe.sha256);
  }
  const json* const config = of_model.take("config");
  if (config == nullptr) throw Error(of_model.place("config"), "is missing");
  recipe.config = config_of_facts(*config, of_model.place("config"));
  of_model.finish("is no field of a golden's model");

  recipe.tokens = read_tokens(array_field(fields, "tokens"), fields.place("tokens"));
  const engine::Config& shape = recipe.config;
  if (recipe.tokens.empty() || recipe.tokens.size() > shape.max_positions) {
    throw Error(fields.place("tokens"), "not as many as a run can have",
                "1 to " + std::to_string(shape.max_positions),
                std::to_string(recipe.tokens.size()));
  }
  for (const std::int32_t token : recipe.tokens) {
    if (static_cast<std::size_t>(token) < shape.vocab) continue;
    throw Error(fields.place("tokens"), "outside the vocabulary",
                "0 to " + std::to_string(shape.vocab - 1), std::to_string(token));
  }
  const auto prompt = fields.integer("prompt_tokens", 0, recipe.tokens.size() - 1);
  if (!prompt) throw Error(fields.place("prompt_tokens"), "is missing");
  recipe.prompt_tokens = *prompt;
  const json* const press = fields.take("press");
  if (press == nullptr) throw Error(fields.place("press"), "is missing", "null or a press");
  if (!press->is_null()) {
    recipe.press = press_of_fields(*press, fields.place("press"));
    recipe.press->check(shape.layers, shape.head_dim, shape.rotary_dims);
  }
  return recipe;
}

TensorDigest read_digest(const json& object, const std::string& where) {
  JsonFields fields(object, where);
  TensorDigest entry;
  entry.name = text_field(fields, "name");
  entry.dtype = text_field(fields, "dtype");
  for (const json& extent : array_field(fields, "shape")) {
    if (!extent.is_number_unsigned()) {
      throw Error(fields.place("shape"), "not usable", "whole numbers", engine::describe(extent));
    }
    entry.shape.push_back(extent.get<std::uint64_t>());
  }
  const std::string digest = text_field(fields, "digest");
  if (const auto bytes = digest_from(digest)) {
    entry.digest = *bytes;
  } else {
    throw Error(fields.place("digest"), "not usable", "32 hexadecimal digits", digest);
  }
  if (const auto leaves = fields.text("leaves")) {
    for (std::size_t at = 0; at < leaves->size(); at += leaf_digits) {
      const auto leaf = from_hexadecimal(std::string_view(*leaves).substr(at, leaf_digits));
      if (!leaf || leaves->size() - at < leaf_digits) {
        throw Error(fields.place("leaves"), "not usable", "16 hexadecimal digits for each row",
                    leaves->substr(at, leaf_digits));
      }
      entry.leaves.push_back(*leaf);
    }
  }
  fields.finish("is no field of a digest");
  return entry;
}

/// Names, shapes and leaves are those that a run of the recipe has.
void check_digests(const Golden& golden, const std::string& where) {
  const engine::Config& config = golden.recipe.config;
  const std::size_t tokens = golden.recipe.tokens.size();
  std::size_t next = 0;
  const auto meet = [&](const NamedTensor& expected, bool leaves) {
    const std::string place = where + ": digests: " + expected.name;
    if (next == golden.tensors.size()) throw Error(place, "is missing");
    const TensorDigest& found = golden.tensors[next++];
    if (found.name != expected.name) {
      throw Error(where + ": digests", "not in the order of a run", expected.name, found.name);
    }
    if (found.dtype != expected.dtype || found.shape != expected.shape) {
      throw Error(place, "of another type or shape than in a run of the recipe",
                  expected.dtype + " " + engine::shape_text(expected.shape),
                  found.dtype + " " + engine::shape_text(found.shape));
    }
    const std::size_t rows = leaves ? expected.rows() : 0;
    if (found.leaves.size() != rows) {
      throw Error(place, "has another number of leaves", std::to_string(rows),
                  std::to_string(found.leaves.size()));
    }
  };
  for (const engine::TensorId& id : forward_tensors(config)) {
    meet(forward_tensor(id, config, tokens),
         golden.all_leaves || id.tensor == engine::Tensor::layer_output);
  }
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    // How many slots a press leaves only the run knows.
    std::size_t slots = tokens;
    if (golden.recipe.press && next < golden.tensors.size()) {
      const auto& shape = golden.tensors[next].shape;
      if (shape.size() == 4 && shape[2] >= 1 && shape[2] <= tokens) slots = shape[2];
    }
    for (const NamedTensor& tensor : cache_tensors(config, layer, slots)) meet(tensor, false);
  }
  while (next < golden.tensors.size()) {
    const std::string& name = golden.tensors[next].name;
    const auto extra = extra_tensor(name, config, tokens);
    if (!extra) throw Error(where + ": digests", "a tensor that this model has not", {}, name);
    meet(*extra, false);
  }
}

void open_tensors(Golden& golden, const json& names, const std::string& where) {
  if (names.empty()) return;
  const std::filesystem::path path = golden.folder / tensor_file;
  golden.file = std::make_shared<const engine::Safetensors>(engine::Safetensors::open(path));
  std::size_t others = 0;
  for (const engine::TensorView& tensor : golden.file->tensors()) {
    if (tensor.name == "input_ids") ++others;
  }
  for (const json& name : names) {
    if (!name.is_string()) {
      throw Error(where, "not usable", "names of tensors", engine::describe(name));
    }
    const TensorDigest* const entry = golden.find(name.get<std::string>());
    if (entry == nullptr) {
      throw Error(where, "a stored tensor without a digest", {}, name.get<std::string>());
    }
    const engine::TensorView* const tensor = golden.file->find(entry->name);
    if (tensor == nullptr) throw Error(path.string(), "a tensor is missing", entry->name);
    if (tensor->dtype != entry->dtype || tensor->shape != entry->shape) {
      throw Error(tensor->place(), "of another type or shape",
                  entry->dtype + " " + engine::shape_text(entry->shape),
                  tensor->dtype + " " + engine::shape_text(tensor->shape));
    }
  }
  if (golden.file->tensors().size() != names.size() + others) {
    throw Error(path.string(), "holds other tensors than golden.json names",
                std::to_string(names.size() + others),
                std::to_string(golden.file->tensors().size()));
  }
}

}  // namespace

DigestBytes tree_digest(std::span<const DigestBytes> rows) noexcept {
  return digest_of(std::as_bytes(rows));
}

std::uint64_t leaf_of(const DigestBytes& row) noexcept {
  std::uint64_t leaf = 0;
  for (std::size_t i = 0; i < 8; ++i) leaf = (leaf << 8) | row[i];
  return leaf;
}

std::vector<DigestBytes> row_digests(std::span<const std::byte> bytes, std::string_view dtype,
                                     std::size_t row_values) {
  const std::size_t row_bytes = row_values * 4;
  std::vector<DigestBytes> rows;
  rows.reserve(bytes.size() / row_bytes);
  std::vector<float> values(row_values);
  for (std::size_t at = 0; at < bytes.size(); at += row_bytes) {
    const auto row = bytes.subspan(at, row_bytes);
    if (dtype == "F32") {
      std::memcpy(values.data(), row.data(), row_bytes);
      rows.push_back(digest_of(std::span<const float>(values)));
    } else {
      rows.push_back(digest_of(row));
    }
  }
  return rows;
}

std::string Golden::text() const {
  nlohmann::ordered_json head{{"format", format_name},
                              {"tool", tool},
                              {"contract", contract_name},
                              {"model",
                               {{"name", recipe.model},
                                {"sha256", recipe.sha256},
                                {"config", config_facts(recipe.config)}}},
                              {"tokens", recipe.tokens},
                              {"prompt_tokens", recipe.prompt_tokens},
                              {"press", nullptr},
                              {"leaves", all_leaves ? "all" : "layers"},
                              {"stored", nlohmann::ordered_json::array()}};
  if (recipe.press) head["press"] = press_fields(*recipe.press);
  for (const TensorDigest& entry : tensors) {
    if (file != nullptr && file->find(entry.name) != nullptr) head["stored"].push_back(entry.name);
  }
  constexpr auto replace = nlohmann::ordered_json::error_handler_t::replace;
  std::string text = "{";
  for (const auto& [name, value] : head.items()) {
    text += "\n  \"" + name + "\": " + value.dump(-1, ' ', false, replace) + ",";
  }
  text += "\n  \"digests\": [";
  bool first = true;
  for (const TensorDigest& entry : tensors) {
    nlohmann::ordered_json fields{{"name", entry.name},
                                  {"dtype", entry.dtype},
                                  {"shape", entry.shape},
                                  {"digest", digest_text(entry.digest)}};
    if (!entry.leaves.empty()) {
      std::string leaves;
      for (const std::uint64_t leaf : entry.leaves) leaves += hexadecimal(leaf);
      fields["leaves"] = leaves;
    }
    text += (first ? "\n    " : ",\n    ") + fields.dump();
    first = false;
  }
  text += "\n  ],";
  return text + std::string(seal_start) + seal_of(text) + "\"\n}\n";
}

Golden Golden::read(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / json_file;
  const std::string where = path.string();
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    throw Error(folder.string(), "is no golden", "a folder with golden.json", "none");
  }
  const engine::MappedFile mapped(path);
  const std::string_view text = mapped.text();
  const json document = engine::parse_json(text, where, most_bytes, 6);
  JsonFields fields(document, where);
  const std::string format = text_field(fields, "format");
  if (format != format_name) {
    throw Error(fields.place("format"), "is another", std::string(format_name), format);
  }
  const std::string contract = text_field(fields, "contract");
  if (contract != contract_name) {
    throw Error(fields.place("contract"), "this golden follows another contract",
                std::string(contract_name), contract);
  }
  // What the file said when it was written, byte for byte.
  const std::string seal = text_field(fields, "seal");
  const std::size_t at = text.rfind(seal_start);
  const std::string computed = at == text.npos ? "no seal at the end" : seal_of(text.substr(0, at));
  if (computed != seal) {
    throw Error(fields.place("seal"), "the file was changed after it was written", seal, computed);
  }
  Golden golden;
  golden.folder = folder;
  golden.tool = text_field(fields, "tool");
  golden.recipe = read_recipe(fields);
  const std::string leaves = text_field(fields, "leaves");
  if (leaves != "all" && leaves != "layers") {
    throw Error(fields.place("leaves"), "not usable", "layers or all", leaves);
  }
  golden.all_leaves = leaves == "all";
  const json& digests = array_field(fields, "digests");
  for (std::size_t i = 0; i < digests.size(); ++i) {
    golden.tensors.push_back(
        read_digest(digests[i], fields.place("digests") + " " + std::to_string(i)));
  }
  check_digests(golden, where);
  const json& stored = array_field(fields, "stored");
  fields.finish("is no field of a golden");
  open_tensors(golden, stored, fields.place("stored"));
  return golden;
}

const TensorDigest* Golden::find(std::string_view name) const {
  for (const TensorDigest& entry : tensors) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

const engine::TensorView* Golden::stored(std::string_view name) const {
  const engine::TensorView* const tensor = file == nullptr ? nullptr : file->find(name);
  const TensorDigest* const entry = find(name);
  if (tensor == nullptr || entry == nullptr) return nullptr;
  const auto rows = row_digests(tensor->bytes, tensor->dtype, tensor->shape.back());
  if (tree_digest(rows) != entry->digest) {
    throw Error(tensor->place(), "does not have its digest: the file is damaged",
                digest_text(entry->digest), digest_text(tree_digest(rows)));
  }
  return tensor;
}

void check_same_model(const Golden& golden, const engine::Checkpoint& model, std::string sha256) {
  if (sha256.empty()) sha256 = checkpoint_sha256(model);
  if (sha256 != golden.recipe.sha256) {
    throw Error(golden.folder.empty() ? "golden" : golden.folder.string(),
                "made with another model than " + model.folder().string(),
                golden.recipe.model + ", SHA-256 " + golden.recipe.sha256, "SHA-256 " + sha256);
  }
  const auto expected = config_facts(golden.recipe.config);
  const auto found = config_facts(model.config());
  for (const auto& [name, value] : expected.items()) {
    if (found[name] == value) continue;
    throw Error(golden.folder.empty() ? "golden" : golden.folder.string(),
                "the config of the model is another: " + name, value.dump(), found[name].dump());
  }
}

}  // namespace neoxref::eval
