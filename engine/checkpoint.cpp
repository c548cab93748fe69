// SPDX-License-Identifier: Apache-2.0
#include "engine/checkpoint.hpp"

#include <array>
#include <cstring>
#include <set>
#include <system_error>
#include <utility>

#include "engine/error.hpp"
#include "engine/json.hpp"

namespace neoxref::engine {
namespace {

constexpr std::size_t max_index_bytes = 16 << 20;
constexpr std::size_t max_index_depth = 8;
constexpr std::string_view single_file = "model.safetensors";
constexpr std::string_view index_file = "model.safetensors.index.json";
constexpr std::string_view layers_prefix = "gpt_neox.layers.";
// transformers calls its module lm_head since 5.x and reads and writes embed_out for it; a file
// that kept the module's name means the same tensor.
constexpr std::string_view embed_out_alias = "lm_head.weight";

struct WeightFacts {
  Weight weight;
  bool in_layer;
  std::string_view name;  // in a layer: what follows "gpt_neox.layers.N."
};

constexpr std::array<WeightFacts, 16> weights = {{
    {Weight::embed_in, false, "gpt_neox.embed_in.weight"},
    {Weight::input_norm_weight, true, "input_layernorm.weight"},
    {Weight::input_norm_bias, true, "input_layernorm.bias"},
    {Weight::qkv_weight, true, "attention.query_key_value.weight"},
    {Weight::qkv_bias, true, "attention.query_key_value.bias"},
    {Weight::dense_weight, true, "attention.dense.weight"},
    {Weight::dense_bias, true, "attention.dense.bias"},
    {Weight::post_norm_weight, true, "post_attention_layernorm.weight"},
    {Weight::post_norm_bias, true, "post_attention_layernorm.bias"},
    {Weight::mlp_up_weight, true, "mlp.dense_h_to_4h.weight"},
    {Weight::mlp_up_bias, true, "mlp.dense_h_to_4h.bias"},
    {Weight::mlp_down_weight, true, "mlp.dense_4h_to_h.weight"},
    {Weight::mlp_down_bias, true, "mlp.dense_4h_to_h.bias"},
    {Weight::final_norm_weight, false, "gpt_neox.final_layer_norm.weight"},
    {Weight::final_norm_bias, false, "gpt_neox.final_layer_norm.bias"},
    {Weight::embed_out, false, "embed_out.weight"},
}};

const WeightFacts& facts_of(Weight weight) {
  return weights[static_cast<std::size_t>(weight)];
}

std::vector<std::uint64_t> shape_of(const Config& config, Weight weight) {
  switch (weight) {
    case Weight::embed_in:
    case Weight::embed_out:
      return {config.vocab, config.hidden};
    case Weight::qkv_weight:
      return {3 * config.hidden, config.hidden};
    case Weight::qkv_bias:
      return {3 * config.hidden};
    case Weight::dense_weight:
      return {config.hidden, config.hidden};
    case Weight::mlp_up_weight:
      return {config.intermediate, config.hidden};
    case Weight::mlp_up_bias:
      return {config.intermediate};
    case Weight::mlp_down_weight:
      return {config.hidden, config.intermediate};
    default:
      return {config.hidden};
  }
}

bool exists(const Config& config, Weight weight) {
  const bool attention_bias = weight == Weight::qkv_bias || weight == Weight::dense_bias;
  return !attention_bias || config.attention_bias;
}

/// Buffers that old versions stored: all of them follow from the config.
bool is_old_buffer(std::string_view name, const Config& config) {
  if (name == "gpt_neox.rotary_emb.inv_freq") return true;
  if (!name.starts_with(layers_prefix)) return false;
  name.remove_prefix(layers_prefix.size());
  const std::string_view number = name.substr(0, name.find('.'));
  name.remove_prefix(number.size());
  if (number.empty() || number.size() > 5 ||
      number.find_first_not_of("0123456789") != number.npos ||
      (number.size() > 1 && number.front() == '0') ||
      std::stoul(std::string(number)) >= config.layers) {
    return false;
  }
  return name == ".attention.bias" || name == ".attention.masked_bias" ||
         name == ".attention.rotary_emb.inv_freq" || name == ".attention.rotary_emb.cos_cached" ||
         name == ".attention.rotary_emb.sin_cached";
}

/// Shards are files of the folder itself: a name that could lead elsewhere is refused.
void check_shard_name(const std::string& name, const std::string& where) {
  const bool plain =
      name.size() <= 255 && name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
  if (!plain || name.starts_with('.') || !name.ends_with(".safetensors")) {
    throw Error(where, "does not name a shard beside the index", "a file name NAME.safetensors",
                name);
  }
}

/// The bits of a float format, as lanes of a 64-bit word.
struct FloatBits {
  std::size_t width;       // bytes of an element
  std::uint64_t sign;      // the sign bit
  std::uint64_t infinity;  // the exponent bits
  std::uint64_t repeat;    // times this, an element's bits stand in every lane
};

FloatBits float_bits(simd::Dtype dtype) {
  switch (dtype) {
    case simd::Dtype::f32:
      return {4, 0x80000000, 0x7f800000, 0x00000001'00000001};
    case simd::Dtype::f16:
      return {2, 0x8000, 0x7c00, 0x0001'0001'0001'0001};
    default:
      return {2, 0x8000, 0x7f80, 0x0001'0001'0001'0001};
  }
}

constexpr std::size_t words_at_once = 512;
constexpr std::size_t bytes_at_once = words_at_once * sizeof(std::uint64_t);

/// Without its sign, an element whose exponent is all ones is at least `infinity`: adding
/// sign - infinity reaches the sign bit then and only then, and never the next lane.
/// Reads exactly bytes_at_once bytes, so that the compiler vectorises it; they need no alignment.
bool has_non_finite(const std::byte* bytes, const FloatBits& format) {
  const std::uint64_t magnitude = (format.sign - 1) * format.repeat;
  const std::uint64_t carry = (format.sign - format.infinity) * format.repeat;
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < words_at_once; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + i * sizeof word, sizeof word);
    seen |= (word & magnitude) + carry;
  }
  return (seen & (format.sign * format.repeat)) != 0;
}

}  // namespace

std::string weight_name(Weight weight, std::size_t layer) {
  const WeightFacts& facts = facts_of(weight);
  if (!facts.in_layer) return std::string(facts.name);
  return std::string(layers_prefix) + std::to_string(layer) + "." + std::string(facts.name);
}

std::vector<TensorSpec> required_tensors(const Config& config) {
  std::vector<TensorSpec> specs;
  const auto add = [&](Weight weight, std::size_t layer) {
    specs.push_back({weight_name(weight, layer), shape_of(config, weight)});
  };
  add(Weight::embed_in, 0);
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    for (const WeightFacts& facts : weights) {
      if (facts.in_layer && exists(config, facts.weight)) add(facts.weight, layer);
    }
  }
  add(Weight::final_norm_weight, 0);
  add(Weight::final_norm_bias, 0);
  if (!config.tie_word_embeddings) add(Weight::embed_out, 0);
  return specs;
}

simd::Dtype weight_dtype(const TensorView& tensor) {
  if (tensor.dtype == "F32") return simd::Dtype::f32;
  if (tensor.dtype == "F16") return simd::Dtype::f16;
  if (tensor.dtype == "BF16") return simd::Dtype::bf16;
  throw Error(tensor.place(), "has a dtype that weights cannot have", "F32, F16 or BF16",
              tensor.dtype);
}

void check_finite(const TensorView& tensor) {
  check_finite(tensor, 0, tensor.bytes.size());
}

void check_finite(const TensorView& tensor, std::size_t first, std::size_t count) {
  const FloatBits format = float_bits(weight_dtype(tensor));
  const std::span<const std::byte> bytes = tensor.bytes.first(first + count);
  std::size_t offset = first;
  while (bytes.size() - offset >= bytes_at_once && !has_non_finite(&bytes[offset], format)) {
    offset += bytes_at_once;
  }
  // What is left is the tail, or begins with the block that has a bad element.
  for (; offset < bytes.size(); offset += format.width) {
    std::uint64_t element = 0;
    std::memcpy(&element, &bytes[offset], format.width);
    const std::uint64_t magnitude = element & (format.sign - 1);
    if (magnitude < format.infinity) continue;
    const char* sign = (element & format.sign) != 0 ? "-" : "";
    throw Error(
        tensor.place(), "element " + std::to_string(offset / format.width) + " is not finite",
        "finite weights", magnitude > format.infinity ? "NaN" : std::string(sign) + "infinity");
  }
}

Checkpoint Checkpoint::open(const std::filesystem::path& folder) {
  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    throw Error(folder.native(), "is not a model", "a folder with config.json and weights",
                std::filesystem::exists(folder, ignored) ? "a file" : "nothing");
  }
  checkpoint.config_ = read_config(folder / "config.json");
  checkpoint.open_files();
  checkpoint.collect_tensors();
  checkpoint.check_tensors();
  return checkpoint;
}

void Checkpoint::open_files() {
  // symlink_status: a dangling link is a file that is missing, not one that nobody promised.
  const auto present = [&](std::string_view name) {
    std::error_code ignored;
    const auto status = std::filesystem::symlink_status(folder_ / name, ignored);
    return status.type() != std::filesystem::file_type::not_found;
  };
  if (present(single_file)) {
    files_.push_back(Safetensors::open(folder_ / single_file));
  } else if (present(index_file)) {
    open_shards(folder_ / index_file);
  } else if (present("pytorch_model.bin") || present("pytorch_model.bin.index.json")) {
    // Short enough that Error shows all of it.
    throw Error(folder_.native(),
                "its weights are only there as pytorch_model.bin, which is not read",
                "model.safetensors, made in this folder by: python3 -c 'import glob, torch, "
                "safetensors.torch as s; s.save_file({k: v.contiguous().clone() for f in "
                "glob.glob(\"pytorch_model*.bin\") for k, v in torch.load(f, "
                "weights_only=True).items()}, \"model.safetensors\", {\"format\": \"pt\"})'");
  } else {
    throw Error(folder_.native(), "has no weights",
                std::string(single_file) + " or " + std::string(index_file));
  }
}

void Checkpoint::open_shards(const std::filesystem::path& index) {
  const MappedFile file(index);
  const std::string where = index.native();
  const auto document = parse_json(file.text(), where, max_index_bytes, max_index_depth);
  JsonFields fields(document, where);
  fields.ignore({"metadata"});
  const auto* map = fields.take("weight_map");
  fields.finish("is not a field of an index");
  if (map == nullptr || !map->is_object()) {
    throw Error(where + ": weight_map", "is missing or of the wrong type",
                "an object of tensor names and shards");
  }
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [name, shard] : map->items()) {
    const std::string place = where + ": weight_map: " + name;
    if (!shard.is_string()) {
      throw Error(place, "has the wrong type", "the name of a shard", describe(shard));
    }
    check_shard_name(shard.get_ref<const std::string&>(), place);
    shards[shard.get<std::string>()].insert(name);
  }
  for (const auto& [shard, names] : shards) {
    files_.push_back(Safetensors::open(folder_ / shard));
    const Safetensors& opened = files_.back();
    for (const std::string& name : names) {
      if (opened.find(name) == nullptr) {
        throw Error(where + ": weight_map: " + name, "the shard lacks this tensor",
                    "it in " + shard);
      }
    }
    for (const TensorView& tensor : opened.tensors()) {
      if (!names.contains(tensor.name)) {
        throw Error(tensor.place(), "the index does not look for this tensor in this shard");
      }
    }
  }
}

void Checkpoint::collect_tensors() {
  for (const Safetensors& file : files_) {
    for (const TensorView& tensor : file.tensors()) {
      if (is_old_buffer(tensor.name, config_)) continue;
      std::string name =
          tensor.name == embed_out_alias ? weight_name(Weight::embed_out) : tensor.name;
      const auto [twin, added] = tensors_.try_emplace(std::move(name), &tensor);
      if (!added) throw Error(tensor.place(), "is the same weight as " + twin->second->place());
    }
  }
}

void Checkpoint::check_tensors() {
  std::vector<TensorSpec> specs = required_tensors(config_);
  const std::string embed_out = weight_name(Weight::embed_out);
  const bool stored_twice = config_.tie_word_embeddings && tensors_.contains(embed_out);
  if (stored_twice) specs.push_back({embed_out, shape_of(config_, Weight::embed_out)});
  std::set<std::string_view> expected;
  for (const TensorSpec& spec : specs) {
    const auto found = tensors_.find(spec.name);
    if (found == tensors_.end()) {
      throw Error(folder_.native() + ": tensor '" + spec.name + "'", "is missing",
                  shape_text(spec.shape));
    }
    const TensorView& tensor = *found->second;
    if (tensor.shape != spec.shape) {
      throw Error(tensor.place(), "has a shape that contradicts config.json",
                  shape_text(spec.shape), shape_text(tensor.shape));
    }
    weight_dtype(tensor);
    expected.insert(spec.name);
  }
  for (const auto& [name, tensor] : tensors_) {
    if (!expected.contains(name)) {
      throw Error(tensor->place(), "is not a tensor of the model that config.json describes");
    }
  }
  if (!stored_twice) return;
  const TensorView& in = tensor(weight_name(Weight::embed_in));
  const TensorView& out = tensor(embed_out);
  if (in.dtype != out.dtype ||
      std::memcmp(in.bytes.data(), out.bytes.data(), in.bytes.size()) != 0) {
    throw Error(out.place(),
                "differs from gpt_neox.embed_in.weight although config.json ties them");
  }
}

bool Checkpoint::has(Weight weight) const {
  return exists(config_, weight);
}

const TensorView& Checkpoint::tensor(Weight weight, std::size_t layer) const {
  const bool tied = weight == Weight::embed_out && config_.tie_word_embeddings;
  return tensor(weight_name(tied ? Weight::embed_in : weight, layer));
}

const TensorView& Checkpoint::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw Error(folder_.native() + ": tensor '" + std::string(name) + "'", "is not in this model");
  }
  return *found->second;
}

}  // namespace neoxref::engine
