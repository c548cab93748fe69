// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "engine/error.hpp"
#include "eval/foreign_rules.hpp"

namespace neoxref::eval {
namespace {

using Rules = std::vector<ForeignRule>;

ForeignRule named(std::string match, std::string name) {
  ForeignRule rule;
  rule.pattern = std::regex(match, std::regex::ECMAScript | std::regex::optimize);
  rule.match = std::move(match);
  rule.name = std::move(name);
  return rule;
}

ForeignRule part(std::string match, QkvPart which) {
  ForeignRule rule = named(std::move(match), "gpt_neox.layers.{layer}.attention.query_key_value");
  rule.part = which;
  return rule;
}

ForeignRule ignored(std::string match) {
  ForeignRule rule = named(std::move(match), "");
  rule.ignore = true;
  return rule;
}

constexpr const char* layer = "gpt_neox.layers.{layer}";

/// Modules as named_modules() calls them, what forward hooks see of them, and the fields of the
/// model's output. hidden_states.N and past_key_values are names of docs/tensors.md.
Rules transformers() {
  const std::string begin = R"((?:(?:module|model|base_model)\.)*(?:gpt_neox\.)?)";
  const std::string in_layer = begin + R"(layers[.\[](\d+)\]?)";
  const std::string end = R"((?:[._]outputs?)?(?:\.0)?)";
  const std::string input = R"((?:[._]inputs?)(?:\.0)?)";
  const std::string l = layer;
  Rules rules = {
      named(begin + "embed_in" + end, "gpt_neox.embed_in"),
      named(begin + "final_layer_norm" + end, "gpt_neox.final_layer_norm"),
      named(R"((?:(?:module|model)\.)*(?:lm_head|embed_out|logits))" + end, "embed_out"),
      named("last_hidden_state", "gpt_neox.final_layer_norm"),
      named(in_layer + end, l),
      named(in_layer + R"(\.attention\.dense)" + input, l + ".attention.context"),
      named(in_layer + R"(\.mlp\.dense_4h_to_h)" + input, l + ".mlp.act"),
      named(in_layer + R"(\.input_layernorm)" + end, l + ".input_layernorm"),
      named(in_layer + R"(\.post_attention_layernorm)" + end, l + ".post_attention_layernorm"),
      named(in_layer + R"(\.attention\.query_key_value)" + end, l + ".attention.query_key_value"),
      named(in_layer + R"(\.attention\.(?:rotary_q|query_rot))", l + ".attention.rotary_q"),
      named(in_layer + R"(\.attention\.(?:rotary_k|key_rot))", l + ".attention.rotary_k"),
      named(in_layer + R"(\.attention\.context)", l + ".attention.context"),
      named(in_layer + R"(\.(?:attention(?:\.dense)?|post_attention_dropout))" + end,
            l + ".attention.dense"),
      named(in_layer + R"(\.mlp\.dense_h_to_4h)" + end, l + ".mlp.dense_h_to_4h"),
      named(in_layer + R"(\.mlp\.act)" + end, l + ".mlp.act"),
      named(in_layer + R"(\.(?:mlp(?:\.dense_4h_to_h)?|post_mlp_dropout))" + end,
            l + ".mlp.dense_4h_to_h"),
      named(R"(hidden_states?[._\[](\d+)\]?)", "hidden_states.{layer}"),
      named(R"((?:past_key_values|past|present)[._\[](\d+)\]?[._\[](?:keys?|0)\]?)",
            "past_key_values.{layer}.key"),
      named(R"((?:past_key_values\.)?key_cache[._\[](\d+)\]?)", "past_key_values.{layer}.key"),
      named(R"((?:past_key_values|past|present)[._\[](\d+)\]?[._\[](?:values?|1)\]?)",
            "past_key_values.{layer}.value"),
      named(R"((?:past_key_values\.)?value_cache[._\[](\d+)\]?)", "past_key_values.{layer}.value"),
      ignored(R"(attentions[._\[]\d+\]?|.*\.attention\.(?:scores|probabilities))"),
      ignored(begin + R"((?:layers\.\d+\..*|emb_)dropout)" + end),
      ignored(R"(position_ids|cache_position|past_key_values\.\d+\.(?:position|norm))"),
  };
  ForeignRule stacked = named("hidden_states", "hidden_states.{layer}");
  stacked.stack = 0;
  rules.push_back(stacked);
  return rules;
}

/// Names of the graph that llama.cpp builds (src/models/gptneox.cpp), as its evaluation callback shows
/// them. Its converter moves the rows of query_key_value to [q, k, v][heads][head_dim]; Qcur and Kcur
/// have been turned. wqkv, ffn_up and ffn_down are products before their biases; ffn_out is first the
/// mlp's output and then a partial sum, l_out the layer's.
Rules llama_cpp() {
  const std::string l = layer;
  Rules rules = {
      named("(?:inp_)?embd", "gpt_neox.embed_in"),
      named(R"(attn_norm-(\d+))", l + ".input_layernorm"),
      named(R"(Qcur-(\d+))", l + ".attention.rotary_q"),
      named(R"(Kcur-(\d+))", l + ".attention.rotary_k"),
      part(R"(Vcur-(\d+))", QkvPart::v),
      named(R"(kqv_out-(\d+))", l + ".attention.context"),
      named(R"(attn_out-(\d+))", l + ".attention.dense"),
      named(R"(ffn_norm-(\d+))", l + ".post_attention_layernorm"),
      named(R"(ffn_up_b-(\d+))", l + ".mlp.dense_h_to_4h"),
      named(R"(ffn_gelu-(\d+))", l + ".mlp.act"),
      named(R"(ffn_down_b-(\d+))", l + ".mlp.dense_4h_to_h"),
      named(R"(l_out-(\d+))", l),
      named("result_norm", "gpt_neox.final_layer_norm"),
      named("result_output", "embed_out"),
      ignored(
          R"((?:norm|norm_w|wqkv|kq|kqv|kq_soft_max(?:_ext)?|ffn_(?:up|down|out|inp)|inpL)(?:-\d+)?)"
          R"(|inp_.*|node_\d+|.* \((?:view|reshaped|permuted|transposed|cont|copy).*)"),
  };
  ForeignRule fused = named(R"((?:wqkv_b|bqkv)-(\d+))", l + ".attention.query_key_value");
  fused.order = StoredQkvOrder::by_part;
  rules.push_back(fused);
  return rules;
}

/// Value names that torch.onnx.export gives: the module's path and the last operation in it.
Rules onnx() {
  const std::string begin = R"(/?(?:gpt_neox/)?)";
  const std::string in_layer = begin + R"(layers\.(\d+))";
  const std::string linear = "/Add_output_0";
  const std::string norm = "/(?:LayerNormalization|Add_1)_output_0";
  const std::string l = layer;
  return {
      named(begin + "embed_in/Gather_output_0", "gpt_neox.embed_in"),
      named(begin + "final_layer_norm" + norm, "gpt_neox.final_layer_norm"),
      named("logits|/?(?:lm_head|embed_out)/MatMul_output_0", "embed_out"),
      named("last_hidden_state", "gpt_neox.final_layer_norm"),
      named(in_layer + "/input_layernorm" + norm, l + ".input_layernorm"),
      named(in_layer + "/post_attention_layernorm" + norm, l + ".post_attention_layernorm"),
      named(in_layer + "/attention/query_key_value" + linear, l + ".attention.query_key_value"),
      named(in_layer + "/attention/dense" + linear, l + ".attention.dense"),
      named(in_layer + "/mlp/dense_h_to_4h" + linear, l + ".mlp.dense_h_to_4h"),
      named(in_layer + "/mlp/act/(?:Mul_1|Gelu)_output_0", l + ".mlp.act"),
      named(in_layer + "/mlp/dense_4h_to_h" + linear, l + ".mlp.dense_4h_to_h"),
      named(in_layer + "/Add_1_output_0", l),
      named(R"(present\.(\d+)\.(?:key|decoder\.key))", "past_key_values.{layer}.key"),
      named(R"(present\.(\d+)\.(?:value|decoder\.value))", "past_key_values.{layer}.value"),
      ignored("position_ids|/.*"),
  };
}

constexpr std::string_view names[] = {"transformers", "llama.cpp", "onnx"};

}  // namespace

std::span<const std::string_view> built_in_maps() {
  return names;
}

std::span<const ForeignRule> built_in_map(std::string_view name) {
  static const Rules maps[] = {transformers(), llama_cpp(), onnx()};
  const auto* const found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) {
    throw engine::Error("map", "no such built-in map", "transformers, llama.cpp, onnx or none",
                        name);
  }
  return maps[found - std::begin(names)];
}

}  // namespace neoxref::eval
