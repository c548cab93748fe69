// SPDX-License-Identifier: Apache-2.0
// Units: the same truth as Oracle<double>, from anybody's own inputs; the engine is inside the bounds of
// its profile, the bounds are sharp enough to say something, and what is planted is found.
#define BOOST_TEST_MODULE units
#include "eval/units.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include "engine/oracle.hpp"
#include "eval/envelope.hpp"
#include "eval/verdict.hpp"
#include "tests/checkpoints.hpp"
#include "tests/engine_tensors.hpp"

namespace {

using namespace neoxref;
using engine::Tensor;
using engine::TensorId;

std::filesystem::path mini() {
  return tests::source_dir() / "datasets/mini";
}

}  // namespace

BOOST_AUTO_TEST_CASE(look) {
  const char* path = std::getenv("UNITS_MODEL");
  const char* length = std::getenv("UNITS_TOKENS");
  const std::string profile = std::getenv("UNITS_PROFILE") ? std::getenv("UNITS_PROFILE") : "f32";
  auto model = engine::Model::load(path ? std::filesystem::path(path) : mini(), {});
  const auto tokens = tests::random_tokens(length ? std::strtoul(length, nullptr, 10) : 100,
                                           model.config().vocab, 3);
  auto engine = tests::engine_tensors(model, tokens);
  if (const char* folder = std::getenv("UNITS_OTHER")) {
    {
      std::filesystem::create_directories(folder);
      std::ofstream(std::string(folder) + "/ids.i32", std::ios::binary).write(reinterpret_cast<const char*>(tokens.data()), static_cast<std::streamsize>(4*tokens.size()));
    }
    for (auto it = engine.all.begin(); it != engine.all.end();) {
      std::ifstream file(std::string(folder) + "/" + engine::tensor_name(it->first) + ".f32", std::ios::binary);
      if (!file) { it = engine.all.erase(it); continue; }
      file.read(reinterpret_cast<char*>(it->second.values.data()), static_cast<std::streamsize>(4 * it->second.values.size()));
      ++it;
    }
  }
  eval::UnitOracle oracle(model.checkpoint(), model.team(), eval::shipped_profile(profile));
  const auto start = std::chrono::steady_clock::now();
  for (const TensorId& id : tests::all_tensors(model.config())) {
    if (!engine.has(id)) continue;
    const auto begin = std::chrono::steady_clock::now();
    const auto summary = oracle.measure(engine, id, engine.all.at(id));
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    BOOST_TEST_MESSAGE(eval::describe(summary.unit)
                       << ": ratio " << summary.largest_ratio << " over " << summary.over_bound
                       << " no bound " << summary.without_bound << " largest own "
                       << summary.largest_own << " median bound / that "
                       << summary.median_bound / summary.largest_own << " rms own "
                       << summary.rms_own << " s " << taken.count());
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  BOOST_TEST_MESSAGE("all: " << taken.count() << " s");
}

BOOST_AUTO_TEST_CASE(look_envelope) {
  const char* path = std::getenv("UNITS_MODEL");
  const char* length = std::getenv("UNITS_TOKENS");
  const std::string profile = std::getenv("UNITS_PROFILE") ? std::getenv("UNITS_PROFILE") : "f32";
  auto model = engine::Model::load(path ? std::filesystem::path(path) : mini(), {});
  const auto tokens =
      tests::random_tokens(length ? std::strtoul(length, nullptr, 10) : 100, model.config().vocab, 3);
  auto engine = tests::engine_tensors(model, tokens);
  if (const char* folder = std::getenv("UNITS_OTHER")) {
    {
      std::filesystem::create_directories(folder);
      std::ofstream(std::string(folder) + "/ids.i32", std::ios::binary).write(reinterpret_cast<const char*>(tokens.data()), static_cast<std::streamsize>(4*tokens.size()));
    }
    for (auto it = engine.all.begin(); it != engine.all.end();) {
      std::ifstream file(std::string(folder) + "/" + engine::tensor_name(it->first) + ".f32", std::ios::binary);
      if (!file) { it = engine.all.erase(it); continue; }
      file.read(reinterpret_cast<char*>(it->second.values.data()), static_cast<std::streamsize>(4 * it->second.values.size()));
      ++it;
    }
  }
  const auto start = std::chrono::steady_clock::now();
  const auto envelope = eval::make_envelope(model.checkpoint(), model.team(),
                                            eval::shipped_profile(profile), tokens, {}, &engine);
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  for (const TensorId& id : tests::all_tensors(model.config())) {
    if (!engine.has(id)) continue;
    const auto& tensor = envelope.tensors.at(id);
    std::string runs;
    for (const double run : tensor.rms_of_runs) runs += " " + std::to_string(run / tensor.rms);
    BOOST_TEST_MESSAGE(engine::tensor_name(id) << " truth " << tensor.rms_truth << " envelope "
                                               << tensor.rms << " engine / envelope "
                                               << tensor.rms_other / tensor.rms << runs);
  }
  BOOST_TEST_MESSAGE("99.9 % logit error " << envelope.logit_error_999);
  BOOST_TEST_MESSAGE("envelope: " << taken.count() << " s");
}
