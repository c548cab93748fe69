// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE config
#include "engine/config.hpp"

#include <boost/test/unit_test.hpp>
#include <cfenv>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "engine/error.hpp"

namespace {

using namespace neoxref::engine;
using neoxref::simd::Function;
using nlohmann::json;
using Ids = std::vector<std::int32_t>;

Config parse(const json& document) {
  return parse_config(document.dump(), "config.json");
}

std::string refusal(const std::string& text) {
  try {
    parse_config(text, "config.json");
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

/// The document of pythia-70m with one field changed.
json pythia(const std::string& field = {}, const json& value = nullptr) {
  json document = json::parse(R"({
    "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0,
    "hidden_act": "gelu", "hidden_size": 512, "initializer_range": 0.02,
    "intermediate_size": 2048, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
    "model_type": "gpt_neox", "num_attention_heads": 8, "num_hidden_layers": 6,
    "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": false,
    "torch_dtype": "float16", "transformers_version": "4.24.0", "use_cache": true,
    "use_parallel_residual": true, "vocab_size": 50304})");
  if (!field.empty()) document[field] = value;
  return document;
}

void check_refused(const json& document, const std::string& place, const std::string& part = {}) {
  const std::string message = refusal(document.dump());
  BOOST_CHECK_MESSAGE(message.starts_with("config.json: " + place + ": "),
                      "'" << message << "', wanted the field " << place);
  BOOST_CHECK_MESSAGE(message.find(part) != message.npos, "'" << message << "' lacks " << part);
}

}  // namespace

BOOST_AUTO_TEST_CASE(defaults_are_those_of_transformers) {
  const Config config = parse({{"model_type", "gpt_neox"}});
  BOOST_CHECK_EQUAL(config.hidden, 6144U);
  BOOST_CHECK_EQUAL(config.layers, 44U);
  BOOST_CHECK_EQUAL(config.heads, 64U);
  BOOST_CHECK_EQUAL(config.head_dim, 96U);
  BOOST_CHECK_EQUAL(config.intermediate, 24576U);
  BOOST_CHECK_EQUAL(config.vocab, 50432U);
  BOOST_CHECK_EQUAL(config.max_positions, 2048U);
  BOOST_CHECK_EQUAL(config.rotary_pct, 0.25);
  BOOST_CHECK_EQUAL(config.rotary_dims, 24U);
  BOOST_CHECK_EQUAL(config.rotary_base, 10000.0f);
  BOOST_CHECK_EQUAL(config.layer_norm_eps, 1e-5f);
  BOOST_CHECK(config.parallel_residual);
  BOOST_CHECK(config.activation == Function::gelu);
  BOOST_CHECK(config.attention_bias);
  BOOST_CHECK(!config.tie_word_embeddings);
  BOOST_CHECK(config.bos_token_id == 0);
  BOOST_CHECK(config.eos_token_ids == Ids{2});
  BOOST_CHECK(parse({{"model_type", "gpt_neox"}, {"vocab_size", 2}}).eos_token_ids.empty());
}

BOOST_AUTO_TEST_CASE(published_spellings) {
  const Config config = parse(pythia());
  BOOST_CHECK_EQUAL(config.hidden, 512U);
  BOOST_CHECK_EQUAL(config.layers, 6U);
  BOOST_CHECK_EQUAL(config.heads, 8U);
  BOOST_CHECK_EQUAL(config.head_dim, 64U);
  BOOST_CHECK_EQUAL(config.intermediate, 2048U);
  BOOST_CHECK_EQUAL(config.vocab, 50304U);
  BOOST_CHECK_EQUAL(config.rotary_dims, 16U);
  BOOST_CHECK(config.eos_token_ids == Ids{0});

  // gpt-neox-20b, an older file.
  json old = pythia("attention_probs_dropout_prob", 0);
  old["hidden_dropout_prob"] = 0;
  old["hidden_act"] = "gelu_fast";
  BOOST_CHECK(parse(old).activation == Function::gelu_fast);

  json recent = pythia();
  recent.erase("rotary_emb_base");
  recent.erase("rotary_pct");
  recent.erase("torch_dtype");
  recent["dtype"] = "float16";
  recent["rope_scaling"] = nullptr;
  recent["rope_parameters"] = {
      {"rope_type", "default"}, {"rope_theta", 20000.0}, {"partial_rotary_factor", 0.5}};
  BOOST_CHECK_EQUAL(parse(recent).rotary_dims, 32U);
  BOOST_CHECK_EQUAL(parse(recent).rotary_base, 20000.0f);
  for (const json& nothing : {json(nullptr), json::object()}) {
    recent["rope_parameters"] = nothing;
    BOOST_CHECK_EQUAL(parse(recent).rotary_pct, 0.25);
    BOOST_CHECK_EQUAL(parse(recent).rotary_base, 10000.0f);
  }
}

BOOST_AUTO_TEST_CASE(the_embedded_default) {
  const char* root = std::getenv("NEOXREF_SOURCE_DIR");
  BOOST_REQUIRE_MESSAGE(root != nullptr, "NEOXREF_SOURCE_DIR is not set");
  const Config config =
      read_config(std::filesystem::path(root) / "datasets" / "mini" / "config.json");
  BOOST_CHECK_EQUAL(config.hidden, 192U);
  BOOST_CHECK_EQUAL(config.layers, 6U);
  BOOST_CHECK_EQUAL(config.head_dim, 32U);
  BOOST_CHECK_EQUAL(config.rotary_dims, 8U);
  BOOST_CHECK_EQUAL(config.max_positions, 1024U);
  BOOST_CHECK_EQUAL(config.vocab, 2048U);
  BOOST_CHECK(config.eos_token_ids == Ids{0});
}

BOOST_AUTO_TEST_CASE(rotary) {
  const auto dims = [](int hidden, const json& pct) {
    json document = pythia("hidden_size", hidden);
    document["rotary_pct"] = pct;
    return parse(document).rotary_dims;
  };
  BOOST_CHECK_EQUAL(dims(512, 0), 0U);
  BOOST_CHECK_EQUAL(dims(512, 1), 64U);
  BOOST_CHECK_EQUAL(dims(512, 1.0), 64U);
  BOOST_CHECK_EQUAL(dims(640, 0.25), 20U);
  // 0.29 * 100 is just below 29 in binary64, 0.28 * 100 just above 28.
  BOOST_CHECK_EQUAL(dims(800, 0.29), 28U);
  BOOST_CHECK_EQUAL(dims(800, 0.28), 28U);
  BOOST_CHECK_EQUAL(dims(512, 0.01), 0U);
  check_refused(pythia("rotary_pct", 0.3), "rotary_pct", "found 19");
  check_refused(pythia("rotary_pct", 1.0001), "rotary_pct", "from 0.0 to 1.0");
  check_refused(pythia("rotary_pct", -0.25), "rotary_pct");
  check_refused(pythia("rotary_pct", "0.25"), "rotary_pct");
  check_refused(pythia("rotary_pct", nullptr), "rotary_pct");
  check_refused(pythia("rotary_emb_base", 0), "rotary_emb_base");
  check_refused(pythia("rotary_emb_base", -10000), "rotary_emb_base");
  check_refused(pythia("rotary_emb_base", 1e39), "rotary_emb_base");

  json both = pythia("rope_parameters", {{"rope_theta", 10000}, {"partial_rotary_factor", 0.25}});
  BOOST_CHECK_EQUAL(parse(both).rotary_dims, 16U);
  both["rotary_emb_base"] = 10001;
  check_refused(both, "rotary_emb_base", "contradicts rope_parameters: rope_theta");
  both["rotary_emb_base"] = 10000;
  both["rotary_pct"] = 0.5;
  check_refused(both, "rotary_pct", "(expected 0.25, found 0.5)");

  const auto rope = [](const json& parameters) { return pythia("rope_parameters", parameters); };
  BOOST_CHECK_EQUAL(parse(rope({{"type", "default"}})).rotary_dims, 16U);
  for (const char* type : {"linear", "dynamic", "yarn", "llama3", "longrope", ""}) {
    check_refused(rope({{"rope_type", type}}), "rope_parameters: rope_type", "expected default");
    check_refused(rope({{"type", type}}), "rope_parameters: type", "expected default");
  }
  check_refused(rope({{"factor", 1.0}}), "rope_parameters: factor", "not understood");
  check_refused(rope({{"full_attention", {{"rope_theta", 10000}}}}),
                "rope_parameters: full_attention");
  check_refused(rope("default"), "rope_parameters", "expected an object");
  check_refused(pythia("rope_scaling", {{"type", "linear"}, {"factor", 2.0}}), "rope_scaling");
  check_refused(pythia("rope_theta", 10000), "rope_theta", "not understood");
  check_refused(pythia("partial_rotary_factor", 0.25), "partial_rotary_factor", "not understood");
}

BOOST_AUTO_TEST_CASE(activations) {
  const auto named = [](const char* name) { return parse(pythia("hidden_act", name)).activation; };
  BOOST_CHECK(named("gelu") == Function::gelu);
  BOOST_CHECK(named("gelu_python") == Function::gelu);
  BOOST_CHECK(named("gelu_new") == Function::gelu_tanh);
  BOOST_CHECK(named("gelu_pytorch_tanh") == Function::gelu_tanh);
  BOOST_CHECK(named("gelu_python_tanh") == Function::gelu_tanh);
  BOOST_CHECK(named("gelu_accurate") == Function::gelu_tanh);
  BOOST_CHECK(named("gelu_fast") == Function::gelu_fast);
  BOOST_CHECK(named("quick_gelu") == Function::quick_gelu);
  BOOST_CHECK(named("relu") == Function::relu);
  BOOST_CHECK(named("silu") == Function::silu);
  BOOST_CHECK(named("swish") == Function::silu);
  BOOST_CHECK(named("tanh") == Function::tanh);
  for (const char* name : {"gelu_10", "relu2", "relu6", "mish", "linear", "GELU", "", "exp"}) {
    check_refused(pythia("hidden_act", name), "hidden_act", "one of gelu");
  }
  check_refused(pythia("hidden_act", nullptr), "hidden_act");
}

BOOST_AUTO_TEST_CASE(sizes) {
  for (const char* name : {"hidden_size", "num_hidden_layers", "num_attention_heads",
                           "intermediate_size", "vocab_size", "max_position_embeddings"}) {
    for (const json& value :
         {json(0), json(-8), json(512.0), json("512"), json(nullptr), json(true), json(1e300),
          json(18446744073709551615U), json::array()}) {
      check_refused(pythia(name, value), name, "a whole number from 1");
    }
  }
  BOOST_CHECK_EQUAL(parse(pythia("max_position_embeddings", 16777216)).max_positions, 16777216U);
  check_refused(pythia("max_position_embeddings", 16777217), "max_position_embeddings",
                "to 16777216, found 16777217");
  check_refused(pythia("hidden_size", 510), "hidden_size", "a multiple of 8, found 510");
  check_refused(pythia("head_dim", 32), "head_dim", "expected 64, found 32");
  BOOST_CHECK_EQUAL(parse(pythia("head_dim", 64)).head_dim, 64U);
}

BOOST_AUTO_TEST_CASE(constants_and_switches) {
  BOOST_CHECK_EQUAL(parse(pythia("layer_norm_eps", 1e-12)).layer_norm_eps, 1e-12f);
  BOOST_CHECK_EQUAL(parse(pythia("layer_norm_eps", 0)).layer_norm_eps, 0.0f);
  for (const json& value : {json(-1e-5), json(-0.0), json(2), json("1e-5"), json(nullptr)}) {
    check_refused(pythia("layer_norm_eps", value), "layer_norm_eps", "a number from 0.0 to 1.0");
  }
  // Through binary64: the decimal lies just above the midpoint of two binary32 values, too close
  // for binary64, whose nearest value is the midpoint; ties go to the even neighbour, here 1.
  const std::string text = pythia("layer_norm_eps", 0.5).dump();
  const std::string midpoint = "0.9999999701976776123046876";
  std::string edited = text;
  edited.replace(edited.find("0.5"), 3, midpoint);
  BOOST_CHECK_EQUAL(parse_config(edited, "x").layer_norm_eps, 1.0f);

  BOOST_CHECK(!parse(pythia("use_parallel_residual", false)).parallel_residual);
  BOOST_CHECK(!parse(pythia("attention_bias", false)).attention_bias);
  BOOST_CHECK(parse(pythia("tie_word_embeddings", true)).tie_word_embeddings);
  for (const char* name : {"use_parallel_residual", "attention_bias", "tie_word_embeddings"}) {
    for (const json& value : {json(1), json("true"), json(nullptr)}) {
      check_refused(pythia(name, value), name, "true or false");
    }
  }
}

BOOST_AUTO_TEST_CASE(token_ids) {
  BOOST_CHECK(parse(pythia("eos_token_id", 7)).eos_token_ids == Ids{7});
  BOOST_CHECK(parse(pythia("eos_token_id", {3, 1})).eos_token_ids == (Ids{3, 1}));
  BOOST_CHECK(parse(pythia("eos_token_id", nullptr)).eos_token_ids.empty());
  BOOST_CHECK(parse(pythia("eos_token_id", json::array())).eos_token_ids.empty());
  BOOST_CHECK(!parse(pythia("bos_token_id", nullptr)).bos_token_id.has_value());
  BOOST_CHECK(parse(pythia("bos_token_id", 50303)).bos_token_id == 50303);
  for (const json& value : {json(50304), json(-1), json(1.0), json("0")}) {
    check_refused(pythia("bos_token_id", value), "bos_token_id", "below vocab_size = 50304");
    check_refused(pythia("eos_token_id", value), "eos_token_id", "below vocab_size = 50304");
    check_refused(pythia("eos_token_id", {0, value}), "eos_token_id");
  }
}

BOOST_AUTO_TEST_CASE(other_fields) {
  check_refused(pythia("model_type", "gpt2"), "model_type", "expected gpt_neox, found gpt2");
  check_refused(pythia("model_type", nullptr), "model_type");
  check_refused(json::object(), "model_type");
  for (const char* name : {"quantization_config", "add_cross_attention", "is_encoder_decoder",
                           "per_layer_config", "sliding_window", "pruned_heads"}) {
    check_refused(pythia(name, {{"0", 1}}), name, "not supported");
    BOOST_CHECK_EQUAL(parse(pythia(name, nullptr)).hidden, 512U);
  }
  for (const char* name :
       {"auto_map", "layer_types", "attn_logit_softcapping", "hidden_sise", "embedding_scale"}) {
    check_refused(pythia(name, 1), name, "not understood");
  }
  for (const char* name : {"attention_dropout", "hidden_dropout", "classifier_dropout", "use_cache",
                           "_name_or_path", "pad_token_id", "is_decoder", "temperature"}) {
    BOOST_CHECK_EQUAL(parse(pythia(name, 1)).hidden, 512U);
  }
  BOOST_CHECK(refusal("").find("not valid JSON") != std::string::npos);
  BOOST_CHECK(refusal("[]").find("expected an object") != std::string::npos);
  BOOST_CHECK(refusal(R"({"model_type":"gpt_neox","vocab_size":3,"vocab_size":4})")
                  .find("appears twice in one object (found vocab_size)") != std::string::npos);
  BOOST_CHECK(refusal(R"({"model_type":"gpt_neox","layer_norm_eps":NaN})").find("not valid JSON") !=
              std::string::npos);
  BOOST_CHECK(refusal(std::string(2 << 20, ' ')).find("too large") != std::string::npos);
  BOOST_CHECK(refusal(R"({"a":)" + std::string(100'000, '[')).find("nested") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(the_callers_arithmetic_changes_nothing_and_is_left_alone) {
  json document = pythia("layer_norm_eps", 1e-5);
  document["rotary_emb_base"] = 10000.1;
  const Config calm = parse(document);
  const std::string text = document.dump();
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    BOOST_REQUIRE_EQUAL(std::fesetround(mode), 0);
    const Config hostile = parse_config(text, "config.json");
    const int left = std::fegetround();
    std::fesetround(FE_TONEAREST);
    BOOST_CHECK_EQUAL(left, mode);
    BOOST_CHECK_EQUAL(hostile.layer_norm_eps, calm.layer_norm_eps);
    BOOST_CHECK_EQUAL(hostile.rotary_base, calm.rotary_base);
  }
#if defined(__SSE2__)
  std::string tiny = text;
  tiny.replace(tiny.find("1e-05"), 5, "1e-42");
  const unsigned before = _mm_getcsr();
  constexpr unsigned flush_and_zero = 0x8040;
  _mm_setcsr(before | flush_and_zero);
  const float eps = parse_config(tiny, "config.json").layer_norm_eps;
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  BOOST_CHECK_EQUAL(eps, 1e-42f);
  BOOST_CHECK_EQUAL(after & flush_and_zero, flush_and_zero);
#endif
}
