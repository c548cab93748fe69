// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE foreign_formats
#include <bit>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <fstream>
#include <limits>
#include <numeric>

#include "eval/compare_figures.hpp"
#include "tests/foreign_bench.hpp"

using namespace neoxref;
using namespace neoxref::tests;
using engine::Tensor;
using engine::TensorId;
using eval::Matrix;

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
