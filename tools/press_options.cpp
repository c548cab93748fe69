// SPDX-License-Identifier: Apache-2.0
#include "tools/press_options.hpp"

#include <algorithm>
#include <charconv>
#include <limits>

#include "engine/error.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

constexpr const char* press_group = "Compression";

std::vector<std::string> split(const std::string& text, char at = ',') {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (;;) {
    const std::size_t comma = std::min(text.find(at, begin), text.size());
    parts.push_back(text.substr(begin, comma - begin));
    if (comma == text.size()) return parts;
    begin = comma + 1;
  }
}

std::vector<std::size_t> parse_layers(const std::string& text) {
  std::vector<std::size_t> layers;
  if (text == "none") return layers;
  for (const std::string& part : split(text)) {
    std::uint32_t layer = 0;
    const char* const end = part.data() + part.size();
    const auto [next, error] = std::from_chars(part.data(), end, layer);
    if (error != std::errc{} || next != end) {
      throw UsageError(engine::Error("--skip-layers", "not usable",
                                     "layer numbers with commas between, such as 0,1, or none",
                                     text.empty() ? "nothing" : text)
                           .what());
    }
    layers.push_back(layer);
  }
  return layers;
}

/// One budget, or one for each layer with colons between.
std::vector<engine::Budget> parse_budgets(const std::string& text,
                                          engine::Budget (*parse)(const std::string&)) {
  std::vector<engine::Budget> budgets;
  for (const std::string& part : split(text, ':')) budgets.push_back(parse(part));
  return budgets;
}

engine::Budget ratio_budget(const std::string& text) {
  engine::Budget budget;
  try {
    budget.keep_ratio = engine::KeepRatio::parse(text);
  } catch (const engine::Error&) {
    throw UsageError(engine::Error("--keep-ratio", "not usable",
                                   "a decimal number above 0 and at most 1, such as 0.9, with "
                                   "at most 9 digits behind the point",
                                   text.empty() ? "nothing" : text)
                         .what());
  }
  return budget;
}

std::size_t count_of(const std::string& option, const std::string& text) {
  std::size_t count = 0;
  const char* const end = text.data() + text.size();
  const auto [next, error] = std::from_chars(text.data(), end, count);
  if (error != std::errc{} || next != end || count == 0 || count > largest_count) {
    throw UsageError(engine::Error(option, "not usable",
                                   "a number from 1 to " + std::to_string(largest_count),
                                   text.empty() ? "nothing" : text)
                         .what());
  }
  return count;
}

engine::Budget slots_budget(const std::string& text) {
  engine::Budget budget;
  budget.slots = count_of("--keep-slots", text);
  return budget;
}

engine::Budget bytes_budget(const std::string& text) {
  engine::Budget budget;
  budget.bytes = count_of("--keep-bytes", text);
  return budget;
}

Option add_budgets(CommandLine app, const std::string& name, std::vector<std::string>& texts,
                   bool many, const std::string& unit, engine::Budget (*parse)(const std::string&),
                   const std::string& help) {
  const auto read = [&texts, many, parse](const std::string& text) {
    texts = many ? split(text) : std::vector<std::string>{text};
    for (const std::string& each : texts) parse_budgets(each, parse);
  };
  return app.add_function(name, read, help)
      .type_name(many ? unit + "," + unit + ",..." : unit)
      .group(press_group);
}

}  // namespace

Option add_keep_ratio(CommandLine app, std::vector<std::string>& ratios, bool many,
                      const std::string& help) {
  return add_budgets(app, "--keep-ratio", ratios, many, "R", ratio_budget, help);
}

namespace {

/// An option with names of an enumeration, commas between.
template <class Enum>
Option add_names(CommandLine app, const std::string& name, std::vector<Enum>& values, bool many,
                 Enum (*parse)(std::string_view), const std::string& help) {
  const auto read = [&values, many, parse](const std::string& text) {
    values.clear();
    for (const std::string& part : many ? split(text) : std::vector<std::string>{text}) {
      try {
        values.push_back(parse(part));
      } catch (const engine::Error& error) {
        throw UsageError(error.what());
      }
    }
  };
  return app.add_function(name, read, help).type_name(many ? "NAME,..." : "NAME");
}

Option add_counts(CommandLine app, const std::string& name, std::vector<std::size_t>& values,
                  const std::string& help) {
  const auto read = [&values, name](const std::string& text) {
    values.clear();
    for (const std::string& part : split(text)) {
      std::uint64_t number = 0;
      const char* const end = part.data() + part.size();
      const auto [next, error] = std::from_chars(part.data(), end, number);
      if (error != std::errc{} || next != end || number > largest_count) {
        throw UsageError(engine::Error(name, "not usable",
                                       "whole numbers up to " + std::to_string(largest_count) +
                                           " with commas between",
                                       text.empty() ? "nothing" : text)
                             .what());
      }
      values.push_back(number);
    }
  };
  return app.add_function(name, read, help).type_name("N,N,...");
}

/// An option with one of the names of an enumeration.
template <class Enum>
Option add_name(CommandLine app, const std::string& name, Enum& value,
                Enum (*parse)(std::string_view), const std::string& help) {
  return app
      .add_function(
          name,
          [&value, parse](const std::string& text) {
            try {
              value = parse(text);
            } catch (const engine::Error& error) {
              throw UsageError(error.what());
            }
          },
          help)
      .type_name("NAME");
}

}  // namespace

Option add_trigger(CommandLine app, engine::Trigger& trigger) {
  return add_name(app, "--trigger", trigger, engine::parse_trigger,
                  "When a layer is cut: exceeds, reaches, after-prompt,\nevery (default: exceeds)");
}

Option add_scores(CommandLine app, std::vector<engine::Score>& scores, const std::string& help) {
  return add_names(app, "--score", scores, true, engine::parse_score, help);
}

Option add_skip_layers(CommandLine app, std::vector<std::size_t>& layers) {
  return app
      .add_function(
          "--skip-layers", [&layers](const std::string& text) { layers = parse_layers(text); },
          "Layers that are never cut, such as 0,1, or none\n(default: 0)")
      .type_name("N,N,...");
}

void PressOptions::add_to(CommandLine app, bool many, bool bench) {
  many_ = many;
  const std::string prune_help =
      "exceeds: cut a layer that holds more slots than this\nafter a token has entered; "
      "reaches: as many, before one\nenters (default: 256)";
  budgets_ = {
      add_keep_ratio(
          app, keep_ratios, many,
          bench  ? "Shares of the slots that a cut keeps, beside the\nuncompressed run"
          : many ? "Shares of the slots that a cut keeps\n(default: 1,0.9,0.5,0.1; 1 cuts nothing)"
                 : "Cut the cache; R is the share of the slots that a cut\nkeeps"),
      add_budgets(app, "--keep-slots", keep_slots, many, "N", slots_budget,
                  "Instead of shares: a cut keeps this many slots"),
      add_budgets(app, "--keep-bytes", keep_bytes, many, "B", bytes_budget,
                  "Instead of shares: a cut keeps as many slots as have\ntheir keys and values in "
                  "this many bytes a layer.\nEach of the three takes one value for all layers, "
                  "or\none a layer with colons between: 1:0.5:0.5:0.5:0.1:0.1")};
  dependent_ = {
      add_names(app, "--score", scores, many, engine::parse_score,
                "What is kept: knorm, knorm-high, knorm-rot,\nknorm-pass, knorm-centered, vnorm, "
                "vk-ratio, recent,\nkeydiff, random, random-fresh, observed,\nobserved-sum, tova, "
                "snapkv (default: knorm)"),
      add_trigger(app, trigger),
      many ? add_counts(app, "--prune-after", prune_afters, prune_help)
           : app.add_count("--prune-after", prune_afters.front(), 0, largest_count, prune_help),
      app.add_count("--interval", interval, 1, largest_count, "every: tokens between two cuts"),
      app.add_count("--sinks", sinks, 0, largest_count,
                    "First slots that are always kept (default: 0)"),
      app.add_count("--recent", recent, 0, largest_count,
                    "Last slots that are always kept (default: 0)"),
      add_name(app, "--positions", positions, engine::parse_positions,
               "After a cut: original, rerotate, cache-length\n(default: original)"),
      add_skip_layers(app, skip_layers),
      app.add_count("--press-seed", seed, 0, std::numeric_limits<std::uint64_t>::max(),
                    "Seed of the random scores (default: 0)"),
      app.add_count("--window", window, 1, largest_count,
                    "snapkv: last queries that it looks at (default: 32)"),
      app.add_count("--pool", pool, 1, largest_count,
                    "snapkv: slots that it smooths over, odd (default: 5)"),
      app.add_flag("--allow-no-cuts", allow_no_cuts,
                   "Exit with 0 instead of 3 when nothing was cut")};
  if (!bench) {
    dependent_.push_back(
        add_name(app, "--order", order, engine::parse_order,
                 "Of the slots that a cut keeps: time, or score, the best\nfirst (default: time)"));
  }
  for (Option option : dependent_) option.group(press_group);
}

void PressOptions::check_usage() const {
  if (!keep_ratios.empty() + !keep_slots.empty() + !keep_bytes.empty() > 1) {
    throw UsageError("--keep-ratio, --keep-slots, --keep-bytes: one of them only");
  }
  if (interval > 0 && trigger != engine::Trigger::every) {
    throw UsageError("--interval: needs --trigger every");
  }
  if (interval == 0 && trigger == engine::Trigger::every) {
    throw UsageError("--trigger every: needs --interval");
  }
  // A list has a default.
  if (many_ || given()) return;
  for (const Option option : dependent_) {
    if (option.given()) {
      throw UsageError(option.name() + ": needs --keep-ratio, --keep-slots or --keep-bytes");
    }
  }
}

std::vector<std::pair<std::string, engine::Press>> PressOptions::make(
    const engine::Config& config) const {
  engine::Press press;
  press.trigger = trigger;
  press.interval = interval;
  press.sinks = sinks;
  press.recent = recent;
  press.positions = positions;
  press.order = order;
  press.skip_layers = skip_layers;
  press.seed = seed;
  press.window = window;
  press.pool = pool;
  std::vector<std::pair<std::string, engine::Press>> presses;
  const auto add = [&](const std::vector<std::string>& texts,
                       engine::Budget (*parse)(const std::string&)) {
    for (const std::string& text : texts) {
      const std::vector<engine::Budget> budgets = parse_budgets(text, parse);
      press.budget = budgets.front();
      press.layer_budgets = budgets.size() > 1 ? budgets : std::vector<engine::Budget>{};
      for (const engine::Score score : scores) {
        press.score = score;
        press.check(config.layers, config.head_dim, config.rotary_dims);
        bool cuts = false;
        for (std::size_t layer = 0; layer < config.layers; ++layer) {
          cuts = cuts || !press.budget_of(layer).keeps_all();
        }
        if (cuts) presses.emplace_back(press.budget_text(), press);
      }
    }
  };
  for (const std::size_t limit : prune_afters) {
    press.prune_after = limit;
    add(keep_ratios, ratio_budget);
    add(keep_slots, slots_budget);
    add(keep_bytes, bytes_budget);
  }
  return presses;
}

std::string PressOptions::text() const {
  std::string layers;
  for (const std::size_t layer : skip_layers) {
    layers += (layers.empty() ? "" : ",") + std::to_string(layer);
  }
  std::string names;
  for (const engine::Score score : scores) {
    names += (names.empty() ? "" : ",") + std::string(engine::score_name(score));
  }
  std::string limits;
  for (const std::size_t limit : prune_afters) {
    limits += (limits.empty() ? "" : ",") + std::to_string(limit);
  }
  std::string all = "score " + names + ", trigger " + std::string(engine::trigger_name(trigger));
  if (interval > 0) all += " " + std::to_string(interval);
  all += ", prune_after " + limits + ", skip layers " + (layers.empty() ? "none" : layers);
  if (sinks > 0) all += ", sinks " + std::to_string(sinks);
  if (recent > 0) all += ", recent " + std::to_string(recent);
  if (positions != engine::Positions::original) {
    all += ", positions " + std::string(engine::positions_name(positions));
  }
  if (order != engine::Order::time) all += ", order " + std::string(engine::order_name(order));
  const auto among = [&](engine::Score score) {
    return std::find(scores.begin(), scores.end(), score) != scores.end();
  };
  if (among(engine::Score::random) || among(engine::Score::random_fresh)) {
    all += ", seed " + std::to_string(seed);
  }
  if (among(engine::Score::snapkv)) {
    all += ", window " + std::to_string(window) + ", pool " + std::to_string(pool);
  }
  return all;
}

std::vector<std::string> PressOptions::given_names() const {
  std::vector<std::string> names;
  for (const auto& options : {budgets_, dependent_}) {
    for (const Option option : options) {
      if (option.given() && option.name() != "--allow-no-cuts") {
        names.push_back(option.name());
      }
    }
  }
  return names;
}

}  // namespace neoxref::tools
