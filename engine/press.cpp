// SPDX-License-Identifier: Apache-2.0
#include "engine/press.hpp"

#include <algorithm>
#include <array>

#include "engine/error.hpp"

namespace neoxref::engine {
namespace {

constexpr std::array<std::string_view, 11> score_names = {
    "knorm",    "knorm-high", "knorm-rot", "knorm-pass", "knorm-centered", "vnorm",
    "vk-ratio", "recent",     "keydiff",   "random",     "random-fresh"};
constexpr std::array<std::string_view, 4> trigger_names = {"exceeds", "reaches", "after-prompt",
                                                           "every"};
constexpr std::array<std::string_view, 3> positions_names = {"original", "rerotate",
                                                             "cache-length"};

template <class Enum, std::size_t count>
Enum parse(const std::array<std::string_view, count>& names, std::string_view name,
           std::string_view what) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<Enum>(found - names.begin());
  std::string expected;
  for (const std::string_view known : names) {
    expected += (expected.empty() ? "" : ", ") + std::string(known);
  }
  throw Error(what, "unknown name", expected, name);
}

}  // namespace

KeepRatio KeepRatio::parse(std::string_view text) {
  const auto refuse = [&]() -> KeepRatio {
    throw Error("keep_ratio", "not usable", "a decimal number above 0 and at most 1, such as 0.9",
                text);
  };
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const std::size_t point = std::min(text.find('.'), text.size());
  const std::string_view whole = text.substr(0, point);
  const std::string_view rest = point < text.size() ? text.substr(point + 1) : std::string_view{};
  if (whole.size() + rest.size() == 0 || whole.size() > 1 || rest.size() > 9) return refuse();
  KeepRatio ratio;
  ratio.text_ = text;
  ratio.numerator_ = 0;
  for (const std::string_view digits : {whole, rest}) {
    for (const char c : digits) {
      if (!digit(c)) return refuse();
      ratio.numerator_ = ratio.numerator_ * 10 + static_cast<std::uint64_t>(c - '0');
    }
  }
  for (std::size_t i = 0; i < rest.size(); ++i) ratio.denominator_ *= 10;
  if (ratio.numerator_ == 0 || ratio.numerator_ > ratio.denominator_) return refuse();
  return ratio;
}

std::size_t KeepRatio::of(std::size_t length) const {
  return (length * numerator_ + denominator_ - 1) / denominator_;
}

std::string_view score_name(Score score) {
  return score_names[static_cast<std::size_t>(score)];
}
Score parse_score(std::string_view name) {
  return parse<Score>(score_names, name, "score");
}
std::string_view trigger_name(Trigger trigger) {
  return trigger_names[static_cast<std::size_t>(trigger)];
}
Trigger parse_trigger(std::string_view name) {
  return parse<Trigger>(trigger_names, name, "trigger");
}
std::string_view positions_name(Positions positions) {
  return positions_names[static_cast<std::size_t>(positions)];
}
Positions parse_positions(std::string_view name) {
  return parse<Positions>(positions_names, name, "positions");
}

void Press::check(std::size_t layers, std::size_t head_dim, std::size_t rotary_dims) const {
  constexpr std::size_t most = std::size_t{1} << 40;
  if (sinks > most || recent > most) {
    throw Error("sinks, recent", "too many slots", "at most 2^40 each",
                std::to_string(std::max(sinks, recent)));
  }
  for (const std::size_t layer : skip_layers) {
    if (layer >= layers) {
      throw Error("skip_layers", "no such layer", "0 to " + std::to_string(layers - 1),
                  std::to_string(layer));
    }
  }
  if (trigger == Trigger::every && interval == 0) {
    throw Error("interval", "the trigger `every` needs one", "1 or more", "0");
  }
  if (score == Score::knorm_rot && rotary_dims == 0) {
    throw Error("score", "knorm-rot has nothing to rank by: no dim of this model rotates");
  }
  if (score == Score::knorm_pass && rotary_dims == head_dim) {
    throw Error("score", "knorm-pass has nothing to rank by: every dim of this model rotates");
  }
  if (positions == Positions::rerotate && !skip_layers.empty()) {
    throw Error(
        "skip_layers",
        "rerotate renumbers the slots of each layer, so a layer that is never cut would run "
        "out of positions and see others than its neighbours",
        "none", std::to_string(skip_layers.size()) + " skipped");
  }
}

bool Press::skips(std::size_t layer) const {
  return std::find(skip_layers.begin(), skip_layers.end(), layer) != skip_layers.end();
}

std::size_t Press::keep(std::size_t length) const {
  const std::size_t budget = slots > 0 ? std::min(slots, length) : keep_ratio.of(length);
  return std::max(budget, std::min(length, sinks + recent));
}

bool Press::protection_wins(std::size_t length) const {
  const std::size_t budget = slots > 0 ? std::min(slots, length) : keep_ratio.of(length);
  return std::min(length, sinks + recent) > budget;
}

}  // namespace neoxref::engine
