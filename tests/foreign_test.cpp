// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE foreign
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <numeric>

#include "engine/error.hpp"
#include "eval/compare_figures.hpp"
#include "eval/foreign_source.hpp"
#include "tests/checkpoints.hpp"
#include "tests/foreign_files.hpp"

namespace {

using namespace neoxref;
using engine::Tensor;
using engine::TensorId;
using eval::ForeignType;
using eval::Matrix;
using tests::Array;
using tests::TemporaryFolder;

constexpr std::size_t length = 8;

engine::Config small() {
  engine::Config config;
  config.layers = 2;
  config.heads = 2;
  config.head_dim = 4;
  config.hidden = 8;  // as many as length: shapes cannot tell a transposed matrix
  config.intermediate = 24;
  config.vocab = 20;
  config.max_positions = 64;
  return config;
}

/// A reference with random values, which no two layouts of share.
class Reference : public eval::TensorSource {
public:
  Reference() {
    ids_ = {5, 7, 7, 1, 2, 3, 9, 4};
    std::uint64_t seed = 1;
    const auto add = [&](const TensorId& id) {
      tests::Numbers numbers(seed++);
      Matrix matrix{length, engine::tensor_width(id.tensor, config_), {}};
      matrix.values.resize(matrix.rows * matrix.columns);
      for (float& value : matrix.values) value = numbers.symmetric();
      tensors_[id] = matrix;
    };
    add({Tensor::embed_in});
    for (std::size_t layer = 0; layer < config_.layers; ++layer) {
      for (const Tensor tensor : engine::layer_tensors) add({tensor, layer});
    }
    add({Tensor::final_layer_norm});
    add({Tensor::embed_out});
  }
  bool has(const TensorId& id) const override { return tensors_.contains(id); }
  std::optional<Matrix> get(const TensorId& id) const override { return tensors_.at(id); }
  std::span<const std::int32_t> tokens() const override { return ids_; }
  const engine::Config& config() const { return config_; }

private:
  engine::Config config_ = small();
  std::vector<std::int32_t> ids_;
  std::map<TensorId, Matrix> tensors_;
};

const Reference& reference() {
  static const Reference one;
  return one;
}

const TensorId qkv{Tensor::query_key_value, 1};
const TensorId norm{Tensor::input_layernorm, 1};

/// [1, length, width] float32 under its own name.
Array own(const TensorId& id) {
  const Matrix matrix = *reference().get(id);
  return tests::floats(engine::tensor_name(id), {1, length, matrix.columns}, matrix.values);
}

Array ids(std::vector<std::uint64_t> shape, const std::vector<std::int64_t>& values) {
  return tests::longs("input_ids", std::move(shape), values);
}

/// A written file, opened and mapped.
struct Opened {
  TemporaryFolder folder;
  eval::ForeignRules rules;
  eval::ForeignFile file;
  std::unique_ptr<eval::ForeignSource> source;

  explicit Opened(const std::vector<Array>& arrays, const std::string& rules_text = "{}")
      : rules(eval::parse_rules(rules_text, "rules")) {
    const auto path = folder.path() / "dump.safetensors";
    tests::write_safetensors(path, arrays);
    file = eval::open_foreign(path, rules.raw);
    source = std::make_unique<eval::ForeignSource>(file, rules, reference().config(), reference());
  }
  Matrix get(const TensorId& id) const { return source->get(id).value(); }
};

void check_equal(const Matrix& a, const Matrix& b) {
  BOOST_TEST(a.rows == b.rows);
  BOOST_TEST(a.columns == b.columns);
  BOOST_TEST(a.values == b.values);
}

/// [columns, rows]
std::vector<float> transposed(const Matrix& matrix) {
  std::vector<float> result;
  for (std::size_t c = 0; c < matrix.columns; ++c) {
    for (std::size_t i = 0; i < matrix.rows; ++i) result.push_back(matrix.row(i)[c]);
  }
  return result;
}

std::string message(const std::function<void()>& action) {
  try {
    action();
  } catch (const engine::Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

void check_refused(const std::function<void()>& action, const std::string& fragment) {
  const std::string found = message(action);
  BOOST_TEST(found.find(fragment) != std::string::npos, found << " lacks " << fragment);
  BOOST_TEST(found.find('\n') == std::string::npos);
}

}  // namespace

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

BOOST_AUTO_TEST_SUITE(formats)

BOOST_AUTO_TEST_CASE(sixteen_bits_are_widened) {
  const std::vector<std::uint16_t> halves = {0x3c00, 0xc000, 0x0001, 0x7bff,
                                             0x3555, 0x8000, 0x0400, 0x4248};
  const std::vector<float> widened = {1.0f,  -2.0f,    0x1p-24f, 65504.0f, 0.333251953125f,
                                      -0.0f, 0x1p-14f, 3.140625f};
  for (const bool is_integer : {false, true}) {
    std::vector<Array> arrays = {
        tests::halves(engine::tensor_name(norm), is_integer ? "U16" : "F16", {1, 8}, halves)};
    const Opened opened(arrays, is_integer ? R"({"tensors": [{"match": ".*", "dtype": "f16",
        "name": "gpt_neox.layers.1.input_layernorm"}]})"
                                           : "{}");
    const eval::Mapped found = opened.source->find(norm, eval::QkvPart::whole);
    BOOST_TEST((found.matrix.values == widened));
    BOOST_TEST(found.type == "f16");
  }
}

BOOST_AUTO_TEST_CASE(bfloat16_kept_as_uint16_is_known_by_its_values) {
  const Matrix matrix = *reference().get(norm);
  std::vector<std::uint16_t> cut;
  std::vector<float> values;
  for (const float value : matrix.values) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    cut.push_back(static_cast<std::uint16_t>(bits >> 16));
    values.push_back(std::bit_cast<float>(bits & 0xffff0000u));
  }
  const Opened opened({tests::halves(engine::tensor_name(norm), "U16", {1, length, 8}, cut)});
  const eval::Mapped found = opened.source->find(norm, eval::QkvPart::whole);
  BOOST_TEST((found.matrix.values == values));
  BOOST_TEST(found.how == "uint16 taken as bf16");
}

BOOST_AUTO_TEST_CASE(npy_of_either_order_and_a_folder_of_them) {
  const TemporaryFolder folder;
  const Matrix matrix = *reference().get(norm);
  const std::string name = engine::tensor_name(norm);
  tests::write_npy(folder.path() / (name + ".npy"), "<f4", true, {length, 8},
                   tests::bytes_of(transposed(matrix)));
  std::vector<double> wide;
  const Matrix logits = *reference().get({Tensor::embed_out});
  for (const float value : logits.values) wide.push_back(static_cast<double>(value));
  tests::write_npy(folder.path() / "logits.npy", "<f8", false, {1, length, 20},
                   tests::bytes_of(wide));
  std::ofstream(folder.path() / "notes.txt") << "no array";
  std::ofstream(folder.path() / "act.bin", std::ios::binary)
      .write(reinterpret_cast<const char*>(matrix.values.data()),
             static_cast<std::streamsize>(matrix.values.size() * 4));
  const auto rules = eval::parse_rules(
      R"({"raw": [{"file": "act.bin", "name": "hidden_states.1", "shape": [8, 8]}]})", "rules");
  const eval::ForeignFile file = eval::open_foreign(folder.path(), rules.raw);
  BOOST_TEST(file.arrays.size() == 3u);
  BOOST_TEST(file.notes.size() == 1u);
  const eval::ForeignSource source(file, rules, reference().config(), reference());
  BOOST_TEST(source.bindings().map == "transformers");
  check_equal(*source.get(norm), matrix);
  BOOST_TEST(source.find(norm, eval::QkvPart::whole).how == "");
  check_equal(*source.get({Tensor::embed_out}), logits);
  check_equal(*source.get({Tensor::layer_output, 0}), matrix);
}

BOOST_AUTO_TEST_CASE(tensor_protos_raw_and_in_fields) {
  const TemporaryFolder folder;
  const Matrix matrix = *reference().get(norm);
  const std::string name = engine::tensor_name(norm);
  for (const bool raw : {true, false}) {
    const auto path = folder.path() / "x.pb";
    tests::write_tensor_proto(path, name, {length, 8}, matrix.values, raw);
    const eval::ForeignFile file = eval::open_foreign(path);
    BOOST_TEST(file.format == "TensorProto");
    const eval::ForeignRules rules;
    const eval::ForeignSource source(file, rules, reference().config(), reference());
    check_equal(*source.get(norm), matrix);
  }
}

BOOST_AUTO_TEST_CASE(broken_files_get_one_clear_error) {
  const TemporaryFolder folder;
  const auto write = [&](const std::string& name, const std::string& bytes) {
    const auto path = folder.path() / name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  };
  const auto refused = [&](const std::string& name, const std::string& bytes,
                           const std::string& fragment) {
    const auto path = write(name, bytes);
    check_refused([&] { eval::open_foreign(path); }, fragment);
  };
  const auto npy = [](const std::string& header, std::size_t data) {
    std::string bytes("\x93NUMPY\x01\x00", 8);
    bytes += static_cast<char>(header.size() & 0xff);
    bytes += static_cast<char>(header.size() >> 8);
    return bytes + header + std::string(data, '\0');
  };
  refused("empty.npy", "", "empty");
  refused("a.npz", "\x93NUMPY", "not what its name says");
  refused("a.npy", "PK\x03\x04 rest", "not what its name says");
  refused("a.txt", "hello", "not a format that is read here");
  refused("a.npz", "PK\x03\x04 rest", "not a whole zip archive");
  refused("a.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 20),
          "truncated");
  refused("a.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 28),
          "longer than its shape says");
  refused("a.npy", npy("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", 4),
          "big-endian");
  refused("a.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 4), "pickled");
  refused("a.npy", npy("{'descr': '<f4', 'shape': (1,), }", 4), "missing");
  refused(
      "a.npy",
      npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 16), }", 4),
      "larger than any memory");
  refused("a.npy",
          npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4).substr(0, 30),
          "truncated in the header");
  refused("a.pb", std::string("\x08\x02\x08", 3), "truncated");
  refused("a.pb", std::string("\x08\x02\x10\x01\x4a\x03\x00\x00\x00", 9), "not as many values");
  refused("a.pb", std::string("\x10\x08", 2), "element type");
  refused("a.json", "{\"outputs\": 3}", "no arrays");
  refused("a.json", R"({"x": {"array": "k05VTVBZ"}})", "not a .npy file");
  refused("a.kld", "_logits_", "truncated in its header");
  std::string kld("_logits_");
  for (const std::int32_t number : {8, 20, 1}) {
    kld.append(reinterpret_cast<const char*>(&number), 4);
  }
  refused("a.kld", kld, "truncated");
  check_refused([&] { eval::open_foreign(folder.path() / "none.npz"); }, "none.npz");
  const auto raw = eval::parse_rules(R"({"raw": [{"file": "x.bin", "shape": [4]}]})", "rules").raw;
  const auto path = write("x.bin", "123");
  check_refused([&] { eval::open_foreign(path, raw); }, "not as long");
}

BOOST_AUTO_TEST_CASE(rules_are_checked) {
  const auto refused = [](const std::string& text, const std::string& fragment) {
    check_refused([&] { eval::parse_rules(text, "rules.json"); }, fragment);
  };
  refused("[]", "rules.json");
  refused(R"({"tensor": []})", "unknown field");
  refused(R"({"tensors": [{"match": "("}]})", "regular expression");
  refused(R"({"tensors": [{"match": "x"}]})", "either a name or");
  refused(R"({"tensors": [{"match": "x", "name": "y", "dtype": "f8"}]})", "no such type");
  refused(R"({"tensors": [{"match": "x", "name": "y", "part": "w"}]})", "no such part");
  refused(R"({"map": "keras"})", "no such built-in map");
  refused(R"({"tokens": {"row": -1}})", "row");
  refused(R"({"raw": [{"file": "x", "shape": [1.5]}]})", "whole number");
  check_refused([] { Opened({own(norm)}, R"({"tensors": [{"match": ".*", "name": "nothing"}]})"); },
                "none of docs/tensors.md");
  check_refused(
      [] {
        Opened({own(norm)}, R"({"tensors": [{"match": ".*", "permute": [0, 0],
      "name": "gpt_neox.layers.1.input_layernorm"}]})");
      },
      "no order of the axes");
}

BOOST_AUTO_TEST_CASE(what_cannot_be_used_is_said) {
  const Opened opened(
      {tests::floats("gpt_neox.layers.7.mlp.act", {1, length, 24}, std::vector<float>(length * 24)),
       tests::floats("gpt_neox.embed_in", {1, 5, 9}, std::vector<float>(5 * 9)),
       tests::floats("something", {1}, {0.0f}), own(norm)});
  BOOST_TEST(opened.source->unusable().size() == 2u);
  BOOST_TEST((opened.source->bindings().unknown == std::vector<std::string>{"something"}));
  BOOST_TEST(opened.source->has(norm));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(figures)

BOOST_AUTO_TEST_CASE(steps_between_floats) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  BOOST_TEST(eval::ulp_distance(1.0f, 1.0f) == 0u);
  BOOST_TEST(eval::ulp_distance(0.0f, -0.0f) == 0u);
  BOOST_TEST(eval::ulp_distance(tiny, -tiny) == 2u);
  BOOST_TEST(eval::ulp_distance(1.0f, std::nextafter(1.0f, 2.0f)) == 1u);
  BOOST_TEST(eval::ulp_distance(1.0f, 2.0f) == 1u << 23);
  BOOST_TEST(eval::ulp_class(0) == 0u);
  BOOST_TEST(eval::ulp_class(1) == 1u);
  BOOST_TEST(eval::ulp_class(3) == 2u);
  BOOST_TEST(eval::ulp_class(4) == 3u);
}

BOOST_AUTO_TEST_CASE(planted_differences_are_found_where_they_are) {
  const Matrix matrix = *reference().get(norm);
  Matrix other = matrix;
  other.row(5)[2] += 0.5f;
  other.row(6)[1] += 0.5f;
  other.row(1)[7] = std::numeric_limits<float>::quiet_NaN();
  const eval::ErrorFigures found = eval::error_figures(other, matrix, 0);
  BOOST_TEST(found.elements == 63u);
  BOOST_TEST(found.not_finite == 1u);
  BOOST_TEST(found.first_not_finite->first == 1u);
  BOOST_TEST(found.first_not_finite->second == 7u);
  BOOST_TEST(found.equal == 61u);
  BOOST_TEST(found.max_abs == 0.5, boost::test_tools::tolerance(1e-6));
  BOOST_TEST(found.rms == std::sqrt(0.5 / 63.0), boost::test_tools::tolerance(1e-6));
  BOOST_TEST(found.rms_of_tokens[0] == 0.0);
  BOOST_TEST(found.rms_of_tokens[5] == 0.5 / std::sqrt(8.0), boost::test_tools::tolerance(1e-6));
  BOOST_TEST(std::accumulate(found.ulps.begin(), found.ulps.end(), std::uint64_t{0}) == 63u);
}

BOOST_AUTO_TEST_CASE(logits_are_compared_as_distributions) {
  Matrix p{2, 3, {std::log(0.5f), std::log(0.25f), std::log(0.25f), 1.0f, 0.0f, -1.0f}};
  Matrix q{
      2,
      3,
      {std::log(0.25f) + 9.0f, std::log(0.5f) + 9.0f, std::log(0.25f) + 9.0f, 1.0f, 0.0f, -1.0f}};
  const eval::LogitFigures found = eval::logit_figures(q, p, 0);
  // 0.5 log 2 - 0.25 log 2
  BOOST_TEST(found.kl_max == 0.25 * std::log(2.0), boost::test_tools::tolerance(1e-5));
  BOOST_TEST(found.kl_of_tokens[1] == 0.0);
  BOOST_TEST(found.kl_mean == found.kl_max / 2);
  BOOST_TEST(found.top1 == 0.5);
  BOOST_TEST(found.top5 == 1.0);
  BOOST_TEST(found.flips.size() == 1u);
  BOOST_TEST(found.flips[0].reference_id == 0);
  BOOST_TEST(found.flips[0].other_id == 1);
  BOOST_TEST(found.flips[0].margin == std::log(2.0), boost::test_tools::tolerance(1e-5));
  BOOST_TEST(eval::quantile({3.0, 1.0, 2.0}, 0.5) == 2.0);
  BOOST_TEST(eval::quantile({3.0, 1.0, 2.0}, 0.999) == 3.0);
}

BOOST_AUTO_TEST_SUITE_END()
