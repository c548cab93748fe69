// SPDX-License-Identifier: Apache-2.0
#include <tuple>

#include "engine/plain_press.hpp"
#include "eval/conformance_cases.hpp"
#include "simd/scalar/ieee.hpp"

namespace neoxref::eval::conformance {
namespace {

using engine::Press;
using engine::Score;

constexpr std::size_t slots = 10;
constexpr std::size_t tokens = 13;
constexpr std::size_t head_dim = 6;
constexpr std::size_t rotary_dims = 2;

float length(const std::vector<float>& x) {
  const auto component = [&](std::size_t i) { return x[i]; };
  return simd::scalar::square_root(simd::scalar::dot(x.size(), component, component));
}

/// A head after some cuts: positions have gaps, two slots hold the same key, two the same attention.
[[gnu::noinline]] engine::PlainHead<float> draw_head(Draws& draws) {
  engine::PlainHead<float> head;
  for (std::size_t slot = 0; slot < slots; ++slot) {
    head.positions.push_back(static_cast<std::int32_t>(slot < 4 ? slot : slot + tokens - slots));
    head.keys.push_back(slot == 7 ? head.keys[2] : draws.symmetric(head_dim, 2.0f));
    head.values.push_back(draws.symmetric(head_dim));
    head.norms.push_back(length(head.keys.back()));
  }
  head.values[5].assign(head_dim, 0.0f);
  for (std::size_t t = 0; t < tokens; ++t) {
    std::vector<float>& given = head.attention.emplace_back(slots);
    for (std::size_t slot = 0; slot < slots; ++slot) {
      if (static_cast<std::size_t>(head.positions[slot]) > t) continue;
      given[slot] = 0.125f + 0.125f * draws.symmetric();
      if (slot == 6) given[6] = given[5];
    }
  }
  return head;
}

Json head_json(const engine::PlainHead<float>& head, bool with_weights) {
  const auto list = [](const auto& vectors) {
    Json json = Json::array();
    for (const auto& each : vectors) json.push_back(words(each));
    return json;
  };
  Json json = {{"positions", head.positions},
               {"keys", list(head.keys)},
               {"values", list(head.values)},
               {"norms", words(head.norms)}};
  if (with_weights) json["weights"] = list(head.attention);
  return json;
}

}  // namespace

void add_presses(ConformanceKit& kit) {
  Draws draws(30);
  const std::vector<engine::PlainHead<float>> heads = {draw_head(draws), draw_head(draws)};
  engine::PlainPlace<float> place{3, rotary_dims, {}, 2};
  for (std::size_t i = 0; i < heads.size(); ++i) {
    place.key_bias.push_back(draws.symmetric(head_dim));
  }
  Json bias = Json::array();
  for (const auto& each : place.key_bias) bias.push_back(words(each));
  for (std::size_t i = 0; i < engine::score_count; ++i) {
    const auto score = static_cast<Score>(i);
    if (score == Score::own) continue;
    for (const auto& [ratio, sinks, recent] :
         {std::tuple<const char*, std::size_t, std::size_t>{"0.55", 0, 0},
          {"0.55", 1, 2},
          {"0.1", 2, 3}}) {
      Press press;
      press.score = score;
      press.budget.keep_ratio = engine::KeepRatio::parse(ratio);
      press.sinks = sinks;
      press.recent = recent;
      press.seed = 0x123456789abcdef0;
      press.window = 3;
      press.pool = 3;
      const std::string name = std::string(engine::score_name(score)) + "-" + ratio + "-" +
                               std::to_string(sinks) + "-" + std::to_string(recent);
      Json input = {{"score", engine::score_name(score)},
                    {"keep_ratio", ratio},
                    {"sinks", sinks},
                    {"recent", recent},
                    {"seed", word(press.seed)},
                    {"window", press.window},
                    {"pool", press.pool},
                    {"layer", place.layer},
                    {"cuts", place.cuts},
                    {"rotary_dims", rotary_dims},
                    {"key_bias", bias},
                    {"heads", Json::array()}};
      const bool by_attention = press.extras(rotary_dims).attention_sums ||
                                press.extras(rotary_dims).attention_window > 0;
      for (const auto& head : heads) input["heads"].push_back(head_json(head, by_attention));
      kit.push_back({"kept/" + name,
                     "operation",
                     "kept",
                     std::move(input),
                     {{"kept", engine::kept_slots(press, heads, place)}}});
    }
  }
}

}  // namespace neoxref::eval::conformance
