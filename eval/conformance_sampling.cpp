// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "engine/sampler.hpp"
#include "eval/conformance_cases.hpp"
#include "simd/kernels.hpp"

namespace neoxref::eval::conformance {
namespace {

struct Setting {
  const char* name;
  const char* temperature;
  double temperature_value;
  std::size_t top_k;
  const char* top_p;
  double top_p_value;
};

constexpr Setting settings[] = {
    {"plain", "1", 1.0, 0, "1", 1.0},       {"cool", "0.7", 0.7, 0, "1", 1.0},
    {"top-k", "1.3", 1.3, 5, "1", 1.0},     {"top-k-all", "1.3", 1.3, 1000, "1", 1.0},
    {"top-p", "1", 1.0, 0, "0.9", 0.9},     {"narrow", "2", 2.0, 0, "0.000001", 0.000001},
    {"both", "0.9", 0.9, 20, "0.95", 0.95}, {"hot", "100", 100.0, 0, "0.5", 0.5},
    {"greedy", "0", 0.0, 0, "1", 1.0}};

void add_draws(ConformanceKit& kit, const std::string& kind, const std::vector<float>& logits) {
  for (const Setting& setting : settings) {
    const std::uint64_t seed = 0xfedcba9876543210;
    engine::Sampler sampler(
        {static_cast<float>(setting.temperature_value), setting.top_k, setting.top_p_value, seed},
        simd::kernels(simd::Isa::scalar));
    Json places = Json::array();
    Json tokens = Json::array();
    for (std::uint64_t i = 0; i < 12; ++i) {
      // Far ones show that all 64 bits of both counters count.
      const std::uint64_t position = i % 3 == 2 ? (i << 33) + 5 : 7 * i;
      const std::uint64_t sequence = i % 4 == 3 ? (std::uint64_t{1} << 40) + i : i % 4;
      places.push_back({position, sequence});
      tokens.push_back(sampler.draw(logits, position, sequence));
    }
    kit.push_back({"sample/" + kind + "-" + setting.name,
                   "operation",
                   "sample",
                   {{"logits", words(logits)},
                    {"temperature", setting.temperature},
                    {"top_k", setting.top_k},
                    {"top_p", setting.top_p},
                    {"seed", word(seed)},
                    {"positions_and_sequences", places}},
                   {{"tokens", tokens}}});
  }
}

}  // namespace

void add_sampling(ConformanceKit& kit) {
  Draws draws(40);
  Json counters = Json::array({{0, 0, 0, 0}, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}});
  Json keys = Json::array({{0, 0}, {0xffffffff, 0xffffffff}});
  for (int i = 0; i < 6; ++i) {
    counters.push_back({draws.next(), draws.next(), draws.next(), draws.next()});
    keys.push_back({draws.next(), draws.next()});
  }
  Json answers = Json::array();
  for (std::size_t i = 0; i < counters.size(); ++i) {
    answers.push_back(engine::philox(counters[i].get<std::array<std::uint32_t, 4>>(),
                                     keys[i].get<std::array<std::uint32_t, 2>>()));
  }
  kit.push_back({"philox/words",
                 "operation",
                 "philox",
                 {{"counters", counters}, {"keys", keys}},
                 {{"words", answers}}});
  const std::vector<std::vector<float>> ties = {
      {1.0f, 3.0f, 3.0f, 2.0f}, {-0.0f, 0.0f}, {0.0f, -0.0f, 0.0f}, {-5.0f}, {2.0f, 2.0f, 2.0f}};
  Json lists = Json::array();
  Json best = Json::array();
  for (const auto& values : ties) {
    lists.push_back(words(values));
    best.push_back(engine::argmax(values));
  }
  kit.push_back({"argmax/ties", "operation", "argmax", {{"x", lists}}, {{"index", best}}});
  add_draws(kit, "spread", draws.symmetric(60, 6.0f));
  auto tied = draws.symmetric(60, 3.0f);
  for (std::size_t i = 0; i < tied.size(); ++i) {
    if (i % 3 != 0) tied[i] = tied[i - i % 3];
  }
  add_draws(kit, "tied", tied);
}

}  // namespace neoxref::eval::conformance
