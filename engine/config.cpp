// SPDX-License-Identifier: Apache-2.0
#include "engine/config.hpp"

#include <array>
#include <cfenv>
#include <limits>
#include <string>
#include <utility>

#include "engine/error.hpp"
#include "engine/json.hpp"
#include "engine/mapped_file.hpp"

namespace neoxref::engine {
namespace {

constexpr std::size_t max_config_bytes = 1 << 20;
constexpr std::size_t max_config_depth = 16;
constexpr std::uint64_t max_width = 1 << 20;
constexpr std::uint64_t max_layers = 1 << 12;
constexpr std::uint64_t max_vocab = 1 << 28;
constexpr std::uint64_t max_position_limit = 1 << 24;  // every position is exact in binary32

constexpr std::array<std::pair<std::string_view, simd::Function>, 12> activations = {{
    {"gelu", simd::Function::gelu},
    {"gelu_python", simd::Function::gelu},
    {"gelu_new", simd::Function::gelu_tanh},
    {"gelu_pytorch_tanh", simd::Function::gelu_tanh},
    {"gelu_python_tanh", simd::Function::gelu_tanh},
    {"gelu_accurate", simd::Function::gelu_tanh},
    {"gelu_fast", simd::Function::gelu_fast},
    {"quick_gelu", simd::Function::quick_gelu},
    {"relu", simd::Function::relu},
    {"silu", simd::Function::silu},
    {"swish", simd::Function::silu},
    {"tanh", simd::Function::tanh},
}};

/// Rounding to nearest even with subnormals kept, until the end of the scope.
class DefaultArithmetic {
public:
  DefaultArithmetic() {
    std::fegetenv(&callers_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultArithmetic() { std::fesetenv(&callers_); }
  DefaultArithmetic(const DefaultArithmetic&) = delete;
  DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;

private:
  std::fenv_t callers_;
};

void read_size(JsonFields& fields, std::string_view name, std::uint64_t most, std::size_t& size) {
  size = fields.integer(name, 1, most).value_or(size);
}

std::optional<std::int32_t> read_token(const JsonFields& fields, std::string_view name,
                                       const nlohmann::json& value, std::size_t vocab) {
  if (value.is_null()) return std::nullopt;
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= vocab) {
    throw Error(fields.place(name), "is not a token of this model",
                "a whole number below vocab_size = " + std::to_string(vocab), describe(value));
  }
  return value.get<std::int32_t>();
}

void read_tokens(JsonFields& fields, Config& config) {
  if (const auto* bos = fields.take("bos_token_id")) {
    config.bos_token_id = read_token(fields, "bos_token_id", *bos, config.vocab);
  }
  if (const auto* eos = fields.take("eos_token_id")) {
    config.eos_token_ids.clear();
    const bool list = eos->is_array();
    for (std::size_t i = 0; i < (list ? eos->size() : 1); ++i) {
      const auto& value = list ? (*eos)[i] : *eos;
      const auto token = read_token(fields, "eos_token_id", value, config.vocab);
      if (token) config.eos_token_ids.push_back(*token);
    }
  } else if (config.vocab <= 2) {
    config.eos_token_ids.clear();
  }
}

/// One value of two spellings: both may be given if they agree.
double merge(const JsonFields& fields, std::string_view old_name, std::optional<double> old_value,
             std::string_view new_name, std::optional<double> new_value, double otherwise) {
  if (old_value && new_value && *old_value != *new_value) {
    throw Error(fields.place(old_name), "contradicts rope_parameters: " + std::string(new_name),
                nlohmann::json(*new_value).dump(), nlohmann::json(*old_value).dump());
  }
  return new_value.value_or(old_value.value_or(otherwise));
}

void check_rope_type(JsonFields& rope, std::string_view name) {
  const auto type = rope.text(name);
  if (type && *type != "default") {
    throw Error(rope.place(name), "this kind of rotary embedding is not supported", "default",
                *type);
  }
}

void read_rotary(JsonFields& fields, Config& config) {
  // An angle of base^-1 below 1 would grow past binary32 with the position.
  constexpr double least_base = 1;
  constexpr double most_base = std::numeric_limits<float>::max();
  const auto old_base = fields.number("rotary_emb_base", least_base, most_base);
  const auto old_pct = fields.number("rotary_pct", 0, 1);
  std::optional<double> new_base;
  std::optional<double> new_pct;
  const auto* parameters = fields.take("rope_parameters");
  if (parameters != nullptr && !parameters->is_null()) {
    JsonFields rope(*parameters, fields.place("rope_parameters"));
    check_rope_type(rope, "rope_type");
    check_rope_type(rope, "type");
    new_base = rope.number("rope_theta", least_base, most_base);
    new_pct = rope.number("partial_rotary_factor", 0, 1);
    rope.finish("is not understood and could change the results");
  }
  const auto* scaling = fields.take("rope_scaling");
  if (scaling != nullptr && !scaling->is_null()) {
    throw Error(fields.place("rope_scaling"), "scaled rotary embeddings are not supported", "null",
                describe(*scaling));
  }
  config.rotary_pct =
      merge(fields, "rotary_pct", old_pct, "partial_rotary_factor", new_pct, config.rotary_pct);
  config.rotary_base = static_cast<float>(
      merge(fields, "rotary_emb_base", old_base, "rope_theta", new_base, config.rotary_base));
  config.rotary_dims =
      static_cast<std::size_t>(static_cast<double>(config.head_dim) * config.rotary_pct);
  if (config.rotary_dims % 2 != 0) {
    throw Error(fields.place("rotary_pct"), "turns an odd number of dimensions of a head",
                "an even part of head_dim = " + std::to_string(config.head_dim),
                std::to_string(config.rotary_dims));
  }
}

void read_heads(JsonFields& fields, Config& config) {
  if (config.hidden % config.heads != 0) {
    throw Error(fields.place("hidden_size"), "is not a multiple of num_attention_heads",
                "a multiple of " + std::to_string(config.heads), std::to_string(config.hidden));
  }
  config.head_dim = config.hidden / config.heads;
  const auto head_dim = fields.integer("head_dim", 1, max_width);
  if (head_dim.value_or(config.head_dim) != config.head_dim) {
    throw Error(fields.place("head_dim"), "contradicts hidden_size / num_attention_heads",
                std::to_string(config.head_dim), std::to_string(*head_dim));
  }
}

void read_activation(JsonFields& fields, Config& config) {
  const auto name = fields.text("hidden_act");
  if (!name) return;
  const auto function = activation_from_name(*name);
  if (!function) {
    std::string known;
    for (const auto& entry : activations) {
      known += (known.empty() ? "one of " : ", ") + std::string(entry.first);
    }
    throw Error(fields.place("hidden_act"), "is not supported", known, *name);
  }
  config.activation = *function;
}

/// Fields that would change the model if they were anything but off.
void check_off(JsonFields& fields) {
  for (const std::string_view name :
       {"add_cross_attention", "is_encoder_decoder", "tie_encoder_decoder", "use_bfloat16",
        "cross_attention_hidden_size", "per_layer_config", "pruned_heads", "quantization_config",
        "sliding_window"}) {
    const auto* value = fields.take(name);
    if (value == nullptr || value->is_null() || *value == false ||
        (value->is_object() && value->empty())) {
      continue;
    }
    throw Error(fields.place(name), "is not supported", "it to be absent or off", describe(*value));
  }
}

/// Fields without a say in what a forward pass computes.
void ignore_harmless(JsonFields& fields) {
  fields.ignore({"_attn_implementation",
                 "_commit_hash",
                 "_name_or_path",
                 "architectures",
                 "attn_implementation",
                 "chunk_size_feed_forward",
                 "custom_pipelines",
                 "dtype",
                 "finetuning_task",
                 "gradient_checkpointing",
                 "id2label",
                 "initializer_range",
                 "is_decoder",
                 "label2id",
                 "name_or_path",
                 "num_labels",
                 "output_attentions",
                 "output_hidden_states",
                 "pad_token_id",
                 "problem_type",
                 "return_dict",
                 "sep_token_id",
                 "tie_last_hidden_states",
                 "tokenizer_class",
                 "torch_dtype",
                 "torchscript",
                 "transformers_version",
                 "unk_token_id",
                 "use_cache"});
  // Dropout happens in training only.
  fields.ignore({"attention_dropout", "attention_dropout_prob", "attention_probs_dropout_prob",
                 "classifier_dropout", "hidden_dropout", "hidden_dropout_prob"});
  // Defaults of somebody's generation loop; this project's own are options of its commands.
  fields.ignore({"bad_words_ids",
                 "begin_suppress_tokens",
                 "decoder_start_token_id",
                 "diversity_penalty",
                 "do_sample",
                 "early_stopping",
                 "encoder_no_repeat_ngram_size",
                 "exponential_decay_length_penalty",
                 "forced_bos_token_id",
                 "forced_eos_token_id",
                 "length_penalty",
                 "max_length",
                 "min_length",
                 "no_repeat_ngram_size",
                 "num_beam_groups",
                 "num_beams",
                 "num_return_sequences",
                 "output_scores",
                 "prefix",
                 "remove_invalid_values",
                 "repetition_penalty",
                 "return_dict_in_generate",
                 "suppress_tokens",
                 "task_specific_params",
                 "temperature",
                 "tf_legacy_loss",
                 "top_k",
                 "top_p",
                 "typical_p"});
}

// Not inlined: its arithmetic must stay between the two changes of the environment.
[[gnu::noinline]] Config parse_in_default_arithmetic(std::string_view text,
                                                     std::string_view where) {
  const auto document = parse_json(text, where, max_config_bytes, max_config_depth);
  JsonFields fields(document, std::string(where));
  const auto model_type = fields.text("model_type");
  if (model_type != "gpt_neox") {
    throw Error(fields.place("model_type"), "this is not a GPT-NeoX model", "gpt_neox",
                model_type.value_or("nothing"));
  }
  Config config;
  read_size(fields, "hidden_size", max_width, config.hidden);
  read_size(fields, "num_hidden_layers", max_layers, config.layers);
  read_size(fields, "num_attention_heads", max_width, config.heads);
  read_size(fields, "intermediate_size", max_width, config.intermediate);
  read_size(fields, "vocab_size", max_vocab, config.vocab);
  read_size(fields, "max_position_embeddings", max_position_limit, config.max_positions);
  read_heads(fields, config);
  read_rotary(fields, config);
  read_activation(fields, config);
  read_tokens(fields, config);
  if (const auto eps = fields.number("layer_norm_eps", 0, 1)) {
    config.layer_norm_eps = static_cast<float>(*eps);
  }
  config.parallel_residual =
      fields.boolean("use_parallel_residual").value_or(config.parallel_residual);
  config.attention_bias = fields.boolean("attention_bias").value_or(config.attention_bias);
  config.tie_word_embeddings =
      fields.boolean("tie_word_embeddings").value_or(config.tie_word_embeddings);
  check_off(fields);
  ignore_harmless(fields);
  fields.finish("is not understood and could change the results");
  return config;
}

}  // namespace

std::optional<simd::Function> activation_from_name(std::string_view name) {
  for (const auto& [known, function] : activations) {
    if (known == name) return function;
  }
  return std::nullopt;
}

Config parse_config(std::string_view text, std::string_view where) {
  const DefaultArithmetic arithmetic;
  return parse_in_default_arithmetic(text, where);
}

Config read_config(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_config(file.text(), path.native());
}

}  // namespace neoxref::engine
