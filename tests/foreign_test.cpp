// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE foreign
#include <boost/test/unit_test.hpp>

#include "tests/foreign_bench.hpp"

using namespace neoxref;
using namespace neoxref::tests;
using engine::Tensor;
using engine::TensorId;
using eval::Matrix;

BOOST_AUTO_TEST_SUITE(layouts)

BOOST_AUTO_TEST_CASE(names_of_the_page_need_no_map) {
  const Opened opened({own(qkv), own({Tensor::embed_out})});
  BOOST_TEST(opened.source->bindings().map == "none");
  check_equal(opened.get(qkv), *reference().get(qkv));
  check_equal(opened.get({Tensor::embed_out}), *reference().get({Tensor::embed_out}));
  BOOST_TEST(!opened.source->has(norm));
  BOOST_TEST(opened.source->find(qkv, eval::QkvPart::whole).how == "");
}

BOOST_AUTO_TEST_CASE(a_square_transposed_matrix_is_known_by_its_values) {
  const Matrix matrix = *reference().get(norm);
  BOOST_REQUIRE(matrix.columns == length);
  const std::string name = engine::tensor_name(norm);
  const Opened opened({tests::floats(name, {1, length, length}, transposed(matrix))});
  check_equal(opened.get(norm), matrix);
  BOOST_TEST(opened.source->find(norm, eval::QkvPart::whole).how == "transposed");
  const Opened plain({own(norm)});
  BOOST_TEST(plain.source->find(norm, eval::QkvPart::whole).how == "");
}

BOOST_AUTO_TEST_CASE(a_shape_that_fits_only_transposed_is_taken_so) {
  const TensorId act{Tensor::act, 0};
  const Matrix matrix = *reference().get(act);
  const Opened opened(
      {tests::floats(engine::tensor_name(act), {matrix.columns, length}, transposed(matrix))});
  check_equal(opened.get(act), matrix);
  BOOST_TEST(opened.source->find(act, eval::QkvPart::whole).how == "transposed");
}

BOOST_AUTO_TEST_CASE(a_wrong_backend_is_not_taken_for_another_layout) {
  Matrix noise = *reference().get(norm);
  tests::Numbers numbers(99);
  for (float& value : noise.values) value = numbers.symmetric();
  const Opened opened({tests::floats(engine::tensor_name(norm), {length, length}, noise.values)});
  check_equal(opened.get(norm), noise);
  BOOST_TEST(opened.source->find(norm, eval::QkvPart::whole).how == "");
}

BOOST_AUTO_TEST_CASE(the_order_of_qkv_is_known_by_its_values_or_its_rule) {
  const auto& config = reference().config();
  const Matrix whole = *reference().get(qkv);
  std::vector<float> by_part;
  for (std::size_t i = 0; i < length; ++i) {
    for (const auto part : {eval::QkvPart::q, eval::QkvPart::k, eval::QkvPart::v}) {
      const Matrix third = eval::qkv_part(whole, part, config.heads);
      by_part.insert(by_part.end(), third.row(i), third.row(i) + third.columns);
    }
  }
  const Opened found({tests::floats(engine::tensor_name(qkv), {length, 24}, by_part)});
  check_equal(found.get(qkv), whole);
  BOOST_TEST(found.source->find(qkv, eval::QkvPart::whole).how ==
             "columns [q, k, v][heads][head_dim]");
  const Opened named({tests::floats("bqkv-1", {length, 24}, by_part)});
  BOOST_TEST(named.source->bindings().map == "llama.cpp");
  check_equal(named.get(qkv), whole);
  BOOST_TEST(named.source->find(qkv, eval::QkvPart::whole).how == "");
}

// The names of one layer as llama.cpp's callback gives them (llama-cpp-python 0.3.36).
BOOST_AUTO_TEST_CASE(of_llama_cpp_only_what_includes_its_bias_is_an_output) {
  const Matrix whole = *reference().get(qkv);
  const Matrix up = *reference().get({Tensor::dense_h_to_4h, 1});
  std::vector<Array> arrays = {tests::floats("wqkv_b-1", {length, 24}, whole.values),
                               tests::floats("ffn_up_b-1", {length, up.columns}, up.values)};
  for (const char* name : {"wqkv-1", "ffn_up-1", "ffn_down-1", "ffn_out-1", "Kcur-1 (view)",
                           "cache_v_l1 (reshaped) (view)", "node_37"}) {
    arrays.push_back(tests::floats(name, {length, 8}, std::vector<float>(length * 8, 1.0f)));
  }
  const Opened opened(arrays);
  const auto& bindings = opened.source->bindings();
  BOOST_TEST(bindings.map == "llama.cpp");
  BOOST_TEST(bindings.tensors.size() == 2u);
  BOOST_TEST(bindings.ignored.size() == 7u);
  BOOST_TEST(bindings.unknown.empty());
  check_equal(opened.get({Tensor::dense_h_to_4h, 1}), up);
}

BOOST_AUTO_TEST_CASE(separate_q_k_v_become_one_tensor) {
  const auto& config = reference().config();
  const Matrix whole = *reference().get(qkv);
  const std::string rules = R"({"tensors": [
    {"match": "layer(\\d+)\\.(?:q)_proj", "name": "gpt_neox.layers.{layer}.attention.query_key_value", "part": "q"},
    {"match": "layer(\\d+)\\.k_proj", "name": "gpt_neox.layers.{layer}.attention.query_key_value", "part": "k"},
    {"match": "layer(\\d+)\\.v_proj", "name": "gpt_neox.layers.{layer}.attention.query_key_value", "part": "v"}]})";
  std::vector<Array> arrays;
  for (const auto& [part, name] :
       {std::pair{eval::QkvPart::q, "layer1.q_proj"}, std::pair{eval::QkvPart::k, "layer1.k_proj"},
        std::pair{eval::QkvPart::v, "layer1.v_proj"}}) {
    const Matrix third = eval::qkv_part(whole, part, config.heads);
    arrays.push_back(tests::floats(name, {1, length, 2, 4}, third.values));
  }
  const Opened all(arrays, rules);
  check_equal(all.get(qkv), whole);
  arrays.erase(arrays.begin() + 1);
  const Opened some(arrays, rules);
  BOOST_TEST(!some.source->has(qkv));
  BOOST_TEST((some.source->parts(qkv) == std::vector{eval::QkvPart::q, eval::QkvPart::v}));
  check_equal(some.source->find(qkv, eval::QkvPart::v).matrix,
              eval::qkv_part(whole, eval::QkvPart::v, config.heads));
}

BOOST_AUTO_TEST_CASE(the_cache_of_transformers_holds_heads_before_tokens) {
  const TensorId key{Tensor::rotary_k, 1};
  const Matrix matrix = *reference().get(key);
  std::vector<float> by_head;
  for (std::size_t head = 0; head < 2; ++head) {
    for (std::size_t i = 0; i < length; ++i) {
      by_head.insert(by_head.end(), matrix.row(i) + head * 4, matrix.row(i) + head * 4 + 4);
    }
  }
  for (const char* name : {"past_key_values.1.key", "present.1.key", "past_key_values.1.0"}) {
    const Opened opened({tests::floats(name, {1, 2, length, 4}, by_head)});
    check_equal(opened.get(key), matrix);
    BOOST_TEST(opened.source->find(key, eval::QkvPart::whole).how == "");
  }
}

BOOST_AUTO_TEST_CASE(rules_slice_squeeze_and_permute) {
  const Matrix matrix = *reference().get(norm);
  // [hidden, 1, 2 * length]: every second column of the last axis is one of ours.
  std::vector<float> values(8 * 16, 7.0f);
  for (std::size_t c = 0; c < 8; ++c) {
    for (std::size_t i = 0; i < length; ++i) values[c * 16 + 2 * i] = matrix.row(i)[c];
  }
  const Opened opened({tests::floats("x", {8, 1, 16}, values)}, R"({"tensors": [{"match": "x",
      "name": "gpt_neox.layers.1.input_layernorm", "slice": [{"axis": 2, "step": 2}],
      "squeeze": [1], "permute": [1, 0]}]})");
  check_equal(opened.get(norm), matrix);
  BOOST_TEST(opened.source->find(norm, eval::QkvPart::whole).how == "");
}

BOOST_AUTO_TEST_CASE(stacked_hidden_states_become_layers) {
  std::vector<float> values;
  const TensorId stack[] = {
      {Tensor::embed_in}, {Tensor::layer_output, 0}, {Tensor::final_layer_norm}};
  for (const TensorId& id : stack) {
    const Matrix matrix = *reference().get(id);
    values.insert(values.end(), matrix.values.begin(), matrix.values.end());
  }
  const Opened opened({tests::floats("hidden_states", {3, 1, length, 8}, values)});
  BOOST_TEST(opened.source->bindings().map == "transformers");
  for (const TensorId& id : stack) check_equal(opened.get(id), *reference().get(id));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(token_maps)

/// Rows of norm at [row, offset + i] of a batch, all else 3.
Array padded(std::size_t batch, std::size_t length, std::size_t row, std::size_t offset) {
  const Matrix matrix = *reference().get(norm);
  std::vector<float> values(batch * length * 8, 3.0f);
  std::copy(matrix.values.begin(), matrix.values.end(),
            values.begin() + static_cast<std::ptrdiff_t>((row * length + offset) * 8));
  return tests::floats(engine::tensor_name(norm), {batch, length, 8}, values);
}

BOOST_AUTO_TEST_CASE(ids_find_row_and_padding) {
  std::vector<std::int64_t> all(3 * 12, 0);
  const auto golden = reference().tokens();
  std::copy(golden.begin(), golden.end(), all.begin() + 12 + 4);
  const Opened opened({padded(3, 12, 1, 4), ids({3, 12}, all)});
  const eval::Alignment& found = opened.source->alignment();
  BOOST_TEST(found.agrees);
  BOOST_TEST(found.row == 1u);
  BOOST_TEST(found.offset == 4u);
  BOOST_TEST(found.count == length);
  check_equal(opened.get(norm), *reference().get(norm));
}

BOOST_AUTO_TEST_CASE(without_ids_values_or_rules_find_the_padding) {
  for (const std::size_t offset : {std::size_t{0}, std::size_t{4}}) {
    const Opened by_value({padded(1, 12, 0, offset)});
    check_equal(by_value.get(norm), *reference().get(norm));
  }
  const Opened by_rule({padded(2, 12, 1, 3)}, R"({"tokens": {"row": 1, "offset": 3}})");
  check_equal(by_rule.get(norm), *reference().get(norm));
}

BOOST_AUTO_TEST_CASE(fewer_tokens_are_compared_as_far_as_they_go) {
  const Matrix matrix = *reference().get(norm);
  const std::vector<float> some(matrix.values.begin(), matrix.values.begin() + 5 * 8);
  const Opened opened(
      {tests::floats(engine::tensor_name(norm), {1, 5, 8}, some), ids({1, 5}, {5, 7, 7, 1, 2})});
  BOOST_TEST(opened.source->alignment().agrees);
  BOOST_TEST(opened.source->alignment().count == 5u);
  BOOST_TEST(opened.source->tokens().size() == 5u);
  BOOST_TEST((opened.get(norm).values == some));
}

BOOST_AUTO_TEST_CASE(other_ids_are_named) {
  const Opened opened({ids({8}, {5, 7, 7, 1, 2, 4, 9, 4})});
  const eval::Alignment& found = opened.source->alignment();
  BOOST_TEST(!found.agrees);
  BOOST_TEST(found.difference == 5u);
  BOOST_TEST(found.golden_id == 3);
  BOOST_TEST(found.other_id.value() == 4);
  const Opened missing_first({ids({7}, {7, 7, 1, 2, 3, 9, 4})});
  BOOST_TEST(!missing_first.source->alignment().agrees);
  BOOST_TEST(missing_first.source->alignment().difference == 0u);
}

BOOST_AUTO_TEST_CASE(logits_of_the_last_token_alone) {
  const TensorId logits{Tensor::embed_out};
  const Matrix matrix = *reference().get(logits);
  const std::vector<float> last(matrix.values.end() - 20, matrix.values.end());
  const Opened opened(
      {tests::floats("logits", {1, 20}, last), ids({1, 8}, {5, 7, 7, 1, 2, 3, 9, 4})});
  BOOST_TEST(!opened.source->has(logits));
  const eval::Mapped found = opened.source->find(logits, eval::QkvPart::whole);
  BOOST_TEST(found.first_token == 7u);
  BOOST_TEST((found.matrix.values == last));
}

BOOST_AUTO_TEST_SUITE_END()
