// SPDX-License-Identifier: Apache-2.0
// Meaning: the goldens made by transformers (tests/golden/README.md), layer by layer. The oracle in
// binary32 stands for the engine, whose logits are compared with its bit for bit on the way.
#define BOOST_TEST_MODULE golden
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/model.hpp"
#include "engine/oracle.hpp"
#include "engine/safetensors.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;

template <class T>
std::vector<T> values(const engine::TensorView& tensor) {
  std::vector<T> result(tensor.elements());
  BOOST_REQUIRE_EQUAL(result.size() * sizeof(T), tensor.bytes.size());
  std::memcpy(result.data(), tensor.bytes.data(), tensor.bytes.size());
  return result;
}

struct Case {
  std::string name;
  std::filesystem::path model;
  engine::Safetensors golden;
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> rows;
};

std::vector<Case> cases() {
  const auto folder = tests::source_dir() / "tests/golden";
  std::ifstream file(folder / "cases.json");
  std::vector<Case> all;
  const auto index = nlohmann::json::parse(file);
  for (const auto& entry : index["cases"]) {
    const auto name = entry["name"].get<std::string>();
    auto golden = engine::Safetensors::open(folder / "cases" / name / "golden.safetensors");
    std::vector<std::int32_t> tokens;
    for (const auto id : values<std::int64_t>(*golden.find("input_ids"))) {
      tokens.push_back(static_cast<std::int32_t>(id));
    }
    auto rows = values<std::int64_t>(*golden.find("token_index"));
    all.push_back({name, tests::source_dir() / entry["model"].get<std::string>(), std::move(golden),
                   std::move(tokens), std::move(rows)});
  }
  BOOST_REQUIRE_GE(all.size(), 17u);
  return all;
}

template <class Real>
typename engine::Oracle<Real>::Record record(const Case& test) {
  engine::Oracle<Real> oracle(engine::Checkpoint::open(test.model));
  typename engine::Oracle<Real>::Record rows;
  for (const std::int32_t token : test.tokens) oracle.forward(token, &rows);
  return rows;
}

/// The rows of a tensor that the golden keeps.
template <class Real>
std::vector<Real> kept(const std::vector<Real>& tensor, const Case& test) {
  const std::size_t width = tensor.size() / test.tokens.size();
  std::vector<Real> result;
  for (const std::int64_t row : test.rows) {
    const auto first = tensor.begin() + row * static_cast<std::ptrdiff_t>(width);
    result.insert(result.end(), first, first + static_cast<std::ptrdiff_t>(width));
  }
  return result;
}

/// f(name without "f64/", truth) for every tensor of the golden.
template <class F>
std::size_t for_each_truth(const Case& test, F f) {
  std::size_t count = 0;
  for (const engine::TensorView& tensor : test.golden.tensors()) {
    if (!tensor.name.starts_with("f64/")) continue;
    f(tensor.name.substr(4), values<double>(tensor));
    ++count;
  }
  return count;
}

void check_argmax(const Case& test, const std::vector<float>& found,
                  const std::vector<double>& truth, double largest_error) {
  const std::size_t vocab = truth.size() / test.rows.size();
  for (std::size_t row = 0; row < test.rows.size(); ++row) {
    const auto first = truth.begin() + static_cast<std::ptrdiff_t>(row * vocab);
    std::vector<double> sorted(first, first + static_cast<std::ptrdiff_t>(vocab));
    std::sort(sorted.rbegin(), sorted.rend());
    if (sorted[0] - sorted[1] <= 2 * largest_error) continue;
    const auto mine = found.begin() + static_cast<std::ptrdiff_t>(row * vocab);
    BOOST_CHECK_EQUAL(std::max_element(first, first + static_cast<std::ptrdiff_t>(vocab)) - first,
                      std::max_element(mine, mine + static_cast<std::ptrdiff_t>(vocab)) - mine);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(errors_are_no_larger_than_those_of_transformers) {
  double log_sum = 0.0;
  std::size_t ratios = 0;
  double largest = 0.0;
  for (const Case& test : cases()) {
    const auto mine = record<float>(test);
    const std::size_t tensors = for_each_truth(test, [&](const std::string& name,
                                                         const std::vector<double>& truth) {
      BOOST_REQUIRE_MESSAGE(mine.contains(name), test.name << ": no tensor " << name);
      const std::vector<float> found = kept(mine.at(name), test);
      BOOST_REQUIRE_EQUAL(found.size(), truth.size());
      double squares = 0.0;
      double largest_error = 0.0;
      for (std::size_t i = 0; i < truth.size(); ++i) {
        const double error = static_cast<double>(found[i]) - truth[i];
        squares += error * error;
        largest_error = std::max(largest_error, std::abs(error));
      }
      const double rms = std::sqrt(squares / static_cast<double>(truth.size()));
      const double yardstick = values<double>(*test.golden.find("rms32/" + name)).front();
      BOOST_CHECK_MESSAGE(rms <= 1.25 * yardstick, test.name << ": " << name << ": RMS error "
                                                             << rms << " against " << yardstick);
      if (yardstick > 0.0) {
        log_sum += std::log(rms / yardstick);
        largest = std::max(largest, rms / yardstick);
        ++ratios;
      }
      if (name == "embed_out") check_argmax(test, found, truth, largest_error);
    });
    BOOST_CHECK_GE(tensors, 10u);
  }
  const double mean = std::exp(log_sum / static_cast<double>(ratios));
  BOOST_TEST_MESSAGE("RMS error over that of transformers in float32: geometric mean "
                     << mean << " over " << ratios << " tensors, largest " << largest);
  BOOST_CHECK_LE(mean, 1.0);
  BOOST_CHECK_GE(ratios, 250u);
}

BOOST_AUTO_TEST_CASE(engine_logits_are_the_oracles) {
  for (const Case& test : cases()) {
    engine::Model model = engine::Model::load(test.model, {"", engine::Backend::tbb, 2});
    engine::Sequence sequence = model.sequence(test.tokens.size());
    std::vector<float> logits(test.tokens.size() * model.config().vocab);
    engine::Step step{&sequence, test.tokens, engine::LogitRows::all, logits.data()};
    BOOST_REQUIRE(model.forward({&step, 1}));
    const std::vector<float> expected = record<float>(test).at("embed_out");
    std::size_t different = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (!tests::same_bits(expected[i], logits[i])) ++different;
    }
    BOOST_CHECK_MESSAGE(different == 0, test.name << ": " << different << " logits differ");
  }
}

BOOST_AUTO_TEST_CASE(the_binary64_oracle_is_the_truth) {
  for (const Case& test : cases()) {
    const auto mine = record<double>(test);
    for_each_truth(test, [&](const std::string& name, const std::vector<double>& truth) {
      const std::vector<double> found = kept(mine.at(name), test);
      double scale = 0.0;
      double largest = 0.0;
      for (std::size_t i = 0; i < truth.size(); ++i) {
        scale = std::max(scale, std::abs(truth[i]));
        largest = std::max(largest, std::abs(found[i] - truth[i]));
      }
      // binary64 sums of a few hundred terms through a few layers; binary32 is 10^7 times coarser.
      BOOST_CHECK_MESSAGE(largest <= 1e-12 * scale, test.name << ": " << name << ": differs by "
                                                              << largest << " of " << scale);
    });
  }
}

BOOST_AUTO_TEST_CASE(a_fixture_made_by_others) {
  const auto folder = tests::source_dir() / "../shared/data/models/tiny_gptneox";
  if (!std::filesystem::exists(folder)) {
    std::puts("SKIP golden/a_fixture_made_by_others: no external data beside the checkout");
    return;
  }
  const tests::TemporaryFolder model;
  std::filesystem::copy_file(folder / "tiny_gptneox_config.json", model.path() / "config.json");
  std::filesystem::copy_file(folder / "tiny_gptneox.safetensors",
                             model.path() / "model.safetensors");
  std::ifstream file(folder / "tiny_gptneox_logits.json");
  const auto published = nlohmann::json::parse(file);
  double largest32 = 0.0;
  double largest64 = 0.0;
  for (std::size_t s = 0; s < published["sequences"].size(); ++s) {
    const auto checkpoint = engine::Checkpoint::open(model.path());
    engine::Oracle<float> oracle32(checkpoint);
    engine::Oracle<double> oracle64(checkpoint);
    const auto tokens = published["sequences"][s].get<std::vector<std::int32_t>>();
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      const auto truth = published["logits"][s][t].get<std::vector<double>>();
      const auto mine32 = oracle32.forward(tokens[t]);
      const auto mine64 = oracle64.forward(tokens[t]);
      for (std::size_t i = 0; i < truth.size(); ++i) {
        largest32 = std::max(largest32, std::abs(static_cast<double>(mine32[i]) - truth[i]));
        largest64 = std::max(largest64, std::abs(mine64[i] - truth[i]));
      }
    }
  }
  BOOST_TEST_MESSAGE("largest difference: binary32 " << largest32 << ", binary64 " << largest64);
  // Logits up to 0.26 have binary32 spacing 3e-8; the published ones hold a float32 softmax.
  BOOST_CHECK_LE(largest32, 1.5e-7);
  BOOST_CHECK_LE(largest64, 3e-8);
}
