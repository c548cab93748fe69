// SPDX-License-Identifier: Apache-2.0
#include "engine/press.hpp"

#include <algorithm>
#include <array>

#include "engine/error.hpp"

namespace neoxref::engine {
namespace {

constexpr std::array<std::string_view, score_count> score_names = {
    "knorm",        "knorm-high", "knorm-rot", "knorm-pass", "knorm-centered", "vnorm",
    "vk-ratio",     "recent",     "keydiff",   "random",     "random-fresh",   "observed",
    "observed-sum", "tova",       "snapkv",    "own"};
constexpr std::array<std::string_view, 4> trigger_names = {"exceeds", "reaches", "after-prompt",
                                                           "every"};
constexpr std::array<std::string_view, 2> order_names = {"time", "score"};
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

std::string Budget::text() const {
  if (bytes > 0) return std::to_string(bytes) + " bytes";
  return slots > 0 ? std::to_string(slots) + " slots" : keep_ratio.text();
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

std::string_view order_name(Order order) {
  return order_names[static_cast<std::size_t>(order)];
}
Order parse_order(std::string_view name) {
  return parse<Order>(order_names, name, "order");
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
  if (score == Score::snapkv && (window == 0 || window > most || pool % 2 == 0 || pool > most)) {
    throw Error("score", "snapkv needs a window and an odd pool", "at least 1 each",
                "window " + std::to_string(window) + ", pool " + std::to_string(pool));
  }
  if ((score == Score::own) != (own != nullptr)) {
    throw Error("score", own == nullptr ? "`own` without a score of the caller's own"
                                        : "a score of the caller's own beside another");
  }
  if (order == Order::score && extras(rotary_dims).attention_window > 0) {
    throw Error("order",
                "tova and snapkv look for the last slots, so they need slots in time order", "time",
                "score");
  }
  if (!layer_budgets.empty() && layer_budgets.size() != layers) {
    throw Error("budget", "one for each layer, skipped ones too", std::to_string(layers),
                std::to_string(layer_budgets.size()));
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

void Press::resolve(std::size_t slot_bytes) {
  const auto make_slots = [&](Budget& of) {
    if (of.bytes > 0) of.slots = std::max<std::size_t>(1, of.bytes / slot_bytes);
  };
  make_slots(budget);
  for (Budget& of : layer_budgets) make_slots(of);
}

std::string Press::name() const {
  return score == Score::own && own != nullptr ? own->name() : std::string(score_name(score));
}

std::string Press::text() const {
  std::string skipped;
  for (const std::size_t layer : skip_layers) skipped += " " + std::to_string(layer);
  return "score " + name() + ", budget " + budget_text() + ", trigger " +
         std::string(trigger_name(trigger)) + ", prune_after " + std::to_string(prune_after) +
         ", interval " + std::to_string(interval) + ", sinks " + std::to_string(sinks) +
         ", recent " + std::to_string(recent) + ", positions " +
         std::string(positions_name(positions)) + ", order " + std::string(order_name(order)) +
         ", skip_layers" + (skipped.empty() ? " none" : skipped) + ", seed " +
         std::to_string(seed) + ", window " + std::to_string(window) + ", pool " +
         std::to_string(pool);
}

std::string Press::budget_text() const {
  std::string text;
  for (const Budget& of : layer_budgets) text += (text.empty() ? "" : ":") + of.text();
  return layer_budgets.empty() ? budget.text() : text;
}

std::size_t Press::keep(std::size_t layer, std::size_t length) const {
  return std::max(budget_of(layer).of(length), std::min(length, sinks + recent));
}

bool Press::protection_wins(std::size_t layer, std::size_t length) const {
  return std::min(length, sinks + recent) > budget_of(layer).of(length);
}

Extras Press::extras(std::size_t rotary_dims) const {
  Extras extras;
  if (positions == Positions::rerotate) extras.raw_dims = rotary_dims;
  extras.attention_sums = score == Score::observed || score == Score::observed_sum;
  if (score == Score::tova) extras.attention_window = 1;
  if (score == Score::snapkv) extras.attention_window = window;
  return extras;
}

Extras operator|(const Extras& a, const Extras& b) {
  return {std::max(a.raw_dims, b.raw_dims), a.attention_sums || b.attention_sums,
          std::max(a.attention_window, b.attention_window)};
}

}  // namespace neoxref::engine
