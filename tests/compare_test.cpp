// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE compare
#include "eval/compare.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "eval/golden_make.hpp"
#include "tests/checkpoints.hpp"
#include "tests/foreign_files.hpp"

namespace {

using namespace neoxref;
using engine::Tensor;
using engine::TensorId;
using eval::Matrix;

/// A model, its golden, and a dump that is bit for bit the golden's until a test changes it.
struct Bench {
  tests::TemporaryFolder folder;
  std::unique_ptr<engine::Model> model;
  std::unique_ptr<engine::Checkpoint> checkpoint;
  std::unique_ptr<eval::GoldenSource> reference;
  std::map<TensorId, Matrix> dump;
  std::vector<std::int32_t> tokens = tests::random_tokens(24, 61, 7);

  Bench() {
    std::filesystem::create_directory(folder.path() / "model");
    tests::write_checkpoint(folder.path() / "model", tests::Shape{});
    model = std::make_unique<engine::Model>(
        engine::Model::load(folder.path() / "model", engine::RunOptions{}));
    checkpoint =
        std::make_unique<engine::Checkpoint>(engine::Checkpoint::open(folder.path() / "model"));
    const eval::Golden golden =
        eval::make_golden(*model, eval::make_recipe(*model, "tiny", tokens), {"test"});
    reference = eval::golden_source(*model, golden);
    for (const TensorId& id : eval::forward_tensors(model->config())) {
      dump[id] = reference->get(id).value();
    }
  }

  std::vector<tests::Array> arrays() const {
    std::vector<tests::Array> result;
    for (const auto& [id, matrix] : dump) {
      result.push_back(
          tests::floats(engine::tensor_name(id), {1, matrix.rows, matrix.columns}, matrix.values));
    }
    std::vector<std::int64_t> ids(tokens.begin(), tokens.end());
    result.push_back(tests::longs("input_ids", {1, ids.size()}, ids));
    return result;
  }

  eval::CompareReport compare(const std::vector<tests::Array>& arrays,
                              const std::vector<std::string>& require = {},
                              const std::string& rules_text = "{}") const {
    const auto path = folder.path() / "dump.safetensors";
    tests::write_safetensors(path, arrays);
    const eval::ForeignRules rules = eval::parse_rules(rules_text, "rules");
    const eval::ForeignFile file = eval::open_foreign(path);
    const eval::ForeignSource other(file, rules, model->config(), *reference);
    eval::CompareOptions options;
    options.profile = eval::shipped_profile("f32");
    options.require = require;
    return eval::compare(file, other, *reference, *checkpoint, model->team(), options);
  }
  eval::CompareReport compare() const { return compare(arrays()); }
};

std::string first(const eval::CompareReport& report) {
  return report.first_diverging ? report.tensors[*report.first_diverging].label() : "none";
}

const eval::TensorReport& tensor(const eval::CompareReport& report, const TensorId& id) {
  for (const auto& each : report.tensors) {
    if (each.id == id) return each;
  }
  throw std::runtime_error("no such tensor in the report");
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_golden_agrees_with_itself) {
  const Bench bench;
  const eval::CompareReport report = bench.compare();
  BOOST_TEST(report.agrees());
  BOOST_TEST(report.tensors.size() == bench.dump.size());
  BOOST_TEST(report.missing.empty());
  BOOST_TEST(report.findings.empty());
  for (const auto& each : report.tensors) {
    BOOST_TEST(each.figures.equal == each.figures.elements);
    BOOST_TEST(each.verdict.ratio <= 1.0);
  }
  BOOST_TEST(report.logits->top1 == 1.0);
  BOOST_TEST(report.logits->kl_max == 0.0);
}

BOOST_AUTO_TEST_CASE(an_error_is_found_where_it_is_made) {
  Bench bench;
  const TensorId dense{Tensor::dense, 1};
  // Both of what is wrong and of what comes of it there is a difference; only one step is wrong.
  bench.dump[dense].row(5)[3] += 0.25f;
  for (std::size_t i = 0; i < bench.tokens.size(); ++i) {
    for (std::size_t c = 0; c < bench.dump[dense].columns; ++c) {
      bench.dump[{Tensor::layer_output, 1}].row(i)[c] =
          (bench.dump[dense].row(i)[c] + bench.dump[{Tensor::dense_4h_to_h, 1}].row(i)[c]) +
          bench.dump[{Tensor::layer_output, 0}].row(i)[c];
    }
  }
  bench.dump.erase({Tensor::final_layer_norm});
  bench.dump.erase({Tensor::embed_out});
  const eval::CompareReport report = bench.compare();
  BOOST_TEST(!report.agrees());
  BOOST_TEST(report.failing() == 1u);
  BOOST_TEST(first(report) == "gpt_neox.layers.1.attention.dense");
  const auto& found = tensor(report, dense);
  BOOST_TEST((found.unit->first_over == std::pair<std::size_t, std::size_t>{5, 3}));
  BOOST_TEST(found.figures.max_abs == 0.25, boost::test_tools::tolerance(1e-3));
  const auto& behind = tensor(report, {Tensor::layer_output, 1});
  BOOST_TEST(!behind.fails);
  BOOST_TEST(behind.figures.max_abs > 0.2);
  BOOST_TEST(behind.unit->rms_inherited > 100 * behind.unit->rms_own);
  BOOST_TEST(found.why.find("token 5, channel 3") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(values_that_are_not_finite_are_named) {
  Bench bench;
  const TensorId act{Tensor::act, 0};
  bench.dump[act].row(2)[9] = std::numeric_limits<float>::quiet_NaN();
  bench.dump[act].row(7)[1] = std::numeric_limits<float>::infinity();
  const eval::CompareReport report = bench.compare();
  BOOST_TEST(first(report) == "gpt_neox.layers.0.mlp.act");
  BOOST_TEST(tensor(report, act).why == "2 values are not finite, first at token 2, channel 9");
}

BOOST_AUTO_TEST_CASE(missing_tensors_fail_only_where_they_are_required) {
  Bench bench;
  std::erase_if(bench.dump, [](const auto& each) {
    return each.first.tensor != Tensor::layer_output && each.first.tensor != Tensor::embed_out;
  });
  const eval::CompareReport report = bench.compare();
  BOOST_TEST(report.agrees());
  BOOST_TEST(report.tensors.size() == 3u);
  BOOST_TEST(report.missing.size() == 22u);
  const eval::CompareReport strict = bench.compare(bench.arrays(), {"*.mlp.act"});
  BOOST_TEST(!strict.agrees());
  BOOST_TEST(strict.required.size() == 2u);
  BOOST_TEST(!bench.compare(bench.arrays(), {"all"}).agrees());
  BOOST_TEST(bench.compare(bench.arrays(), {"embed_out"}).agrees());
  BOOST_CHECK_THROW(bench.compare(bench.arrays(), {"nothing"}), engine::Error);
}

BOOST_AUTO_TEST_CASE(nothing_compared_and_other_ids_do_not_agree) {
  const Bench bench;
  const eval::CompareReport none = bench.compare({tests::floats("x", {1}, {0.0f})});
  BOOST_TEST(!none.agrees());
  BOOST_TEST(none.unknown.size() == 1u);
  std::vector<tests::Array> arrays = bench.arrays();
  std::vector<std::int64_t> ids(bench.tokens.begin(), bench.tokens.end());
  ids[3] += 1;
  arrays.back() = tests::longs("input_ids", {1, ids.size()}, ids);
  const eval::CompareReport other = bench.compare(arrays);
  BOOST_TEST(!other.agrees());
  BOOST_TEST(other.tensors.empty());
  BOOST_TEST(other.alignment.difference == 3u);
}

BOOST_AUTO_TEST_CASE(a_third_of_qkv_and_a_single_row_have_bounds_too) {
  const Bench bench;
  const TensorId qkv{Tensor::query_key_value, 0};
  const std::size_t heads = bench.model->config().heads;
  const Matrix values = eval::qkv_part(bench.dump.at(qkv), eval::QkvPart::v, heads);
  const std::string rules = R"({"tensors": [{"match": "v", "part": "v",
      "name": "gpt_neox.layers.0.attention.query_key_value"}]})";
  const Matrix& logits = bench.dump.at({Tensor::embed_out});
  const Matrix& norm = bench.dump.at({Tensor::final_layer_norm});
  for (const bool wrong : {false, true}) {
    std::vector<float> third = values.values;
    std::vector<float> last(logits.values.end() - 61, logits.values.end());
    if (wrong) third[2] += 0.1f;
    if (wrong) last[60] += 0.1f;
    const eval::CompareReport report =
        bench.compare({tests::floats("v", {24, values.columns}, third),
                       tests::floats("embed_out", {1, 1, 61}, last),
                       tests::floats("gpt_neox.final_layer_norm", {24, norm.columns}, norm.values)},
                      {}, rules);
    BOOST_TEST(report.tensors.size() == 3u);
    BOOST_TEST(report.agrees() == !wrong);
    BOOST_TEST(report.tensors[0].label() == "gpt_neox.layers.0.attention.query_key_value (v)");
    BOOST_TEST(report.tensors[0].fails == wrong);
    BOOST_TEST(!report.tensors[1].fails);
    BOOST_TEST(report.tensors[2].fails == wrong);
    BOOST_TEST(report.logits->tokens == 1u);
    BOOST_TEST(report.logits->first_token == 23u);
  }
}

BOOST_AUTO_TEST_CASE(the_rotary_table_has_a_bound_of_its_own) {
  const Bench bench;
  const std::size_t half = bench.model->config().rotary_dims / 2;
  for (const double eps : {0.0, 1e-3}) {
    std::vector<float> table;
    for (std::size_t i = 0; i < 24; ++i) {
      for (std::size_t k = 0; k < 2 * half; ++k) {
        const double exponent = static_cast<double>(k % half) / static_cast<double>(half);
        const double angle = static_cast<double>(i) * std::pow(10000.0, -exponent);
        table.push_back(static_cast<float>(std::cos(angle * (1 + eps))));
      }
    }
    std::vector<tests::Array> arrays = bench.arrays();
    arrays.push_back(tests::floats("rotary.cos", {1, 24, 2 * half}, table));
    const eval::CompareReport report = bench.compare(arrays);
    BOOST_TEST(report.tensors.front().label() == "rotary.cos");
    BOOST_TEST(report.agrees() == (eps == 0.0));
  }
}

BOOST_AUTO_TEST_CASE(flips_are_explained_by_small_margins_only) {
  Bench bench;
  const TensorId id{Tensor::embed_out};
  Matrix& logits = bench.dump[id];
  std::size_t best = 0;
  for (std::size_t c = 0; c < 61; ++c) {
    if (logits.row(4)[c] > logits.row(4)[best]) best = c;
  }
  const std::size_t wrong = (best + 1) % 61;
  logits.row(4)[wrong] = logits.row(4)[best] + 1.0f;
  const eval::CompareReport report = bench.compare();
  BOOST_TEST(first(report) == "embed_out");
  BOOST_REQUIRE(report.logits->flips.size() == 1u);
  const eval::Flip& flip = report.logits->flips.front();
  BOOST_TEST(flip.token == 4u);
  BOOST_TEST(flip.other_id == static_cast<std::int32_t>(wrong));
  BOOST_TEST(flip.exact);
  BOOST_TEST((flip.explained == false));
  BOOST_TEST(report.logit_error_999.value() > 0.0);
  BOOST_TEST(report.logit_error_999.value() < 1e-3);
}

BOOST_AUTO_TEST_CASE(the_profile_is_read_off_the_numbers) {
  Bench bench;
  const auto fitting = [&] {
    const auto path = bench.folder.path() / "profile.safetensors";
    tests::write_safetensors(path, bench.arrays());
    const eval::ForeignRules rules;
    const eval::ForeignFile file = eval::open_foreign(path);
    const eval::ForeignSource other(file, rules, bench.model->config(), *bench.reference);
    return eval::fitting_profile(file, other);
  };
  BOOST_TEST(fitting() == "f32");
  const std::map<TensorId, Matrix> exact = bench.dump;
  for (const auto format : {eval::Format::bf16, eval::Format::f16}) {
    bench.dump = exact;
    for (auto& [id, matrix] : bench.dump) {
      for (float& value : matrix.values) {
        value = static_cast<float>(eval::round_to(format, static_cast<double>(value)));
      }
    }
    BOOST_TEST(fitting() == (format == eval::Format::bf16 ? "bf16-acc32" : "f16-acc32"));
  }
}

BOOST_AUTO_TEST_CASE(a_logit_base_is_compared_as_log_probabilities) {
  const Bench bench;
  const Matrix& logits = bench.dump.at({Tensor::embed_out});
  const std::size_t count = bench.tokens.size(), from = count / 2, vocab = logits.columns;
  for (const bool wrong : {false, true}) {
    std::string text("_logits_");
    const auto add = [&](auto value) {
      text.append(reinterpret_cast<const char*>(&value), sizeof value);
    };
    for (const std::size_t number : {count, vocab, std::size_t{1}}) {
      add(static_cast<std::int32_t>(number));
    }
    for (const std::int32_t id : bench.tokens) add(id);
    for (std::size_t i = from; i + 1 < count; ++i) {
      double sum = 0.0;
      std::vector<double> row;
      for (std::size_t c = 0; c < vocab; ++c) {
        // The wrong backend has another temperature.
        row.push_back(static_cast<double>(logits.row(i)[c]) * (wrong ? 1.1 : 1.0));
        sum += std::exp(row.back());
      }
      const double least = *std::min_element(row.begin(), row.end());
      const double most = *std::max_element(row.begin(), row.end());
      const double scale = (most - least) / 65535.0;
      add(static_cast<float>(scale));
      add(static_cast<float>(least - std::log(sum)));
      for (const double value : row) {
        add(static_cast<std::uint16_t>(std::lround((value - least) / scale)));
      }
      if (vocab % 2 == 1) add(std::uint16_t{0});
    }
    const auto path = bench.folder.path() / "base.kld";
    std::ofstream(path, std::ios::binary) << text;
    const eval::ForeignRules rules;
    const eval::ForeignFile file = eval::open_foreign(path);
    const eval::ForeignSource other(file, rules, bench.model->config(), *bench.reference);
    BOOST_TEST(eval::fitting_profile(file, other) == "kld16");
    eval::CompareOptions options;
    options.profile = eval::shipped_profile("kld16");
    const eval::CompareReport report = eval::compare(
        file, other, *bench.reference, *bench.checkpoint, bench.model->team(), options);
    BOOST_TEST(report.tensors.size() == 1u);
    BOOST_TEST(report.agrees() == !wrong);
    BOOST_TEST(report.logits->first_token == from);
    BOOST_TEST(report.logits->tokens == count - 1 - from);
    BOOST_TEST((report.logits->kl_max < 1e-6) == !wrong);
  }
}
