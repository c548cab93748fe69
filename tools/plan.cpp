// SPDX-License-Identifier: Apache-2.0
#include "eval/plan.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "eval/protocol.hpp"
#include "tools/options.hpp"
#include "tools/press_options.hpp"

namespace neoxref::tools {
namespace {

/// A plan lists every cut; this bounds its memory.
constexpr std::uint64_t longest_text = 1'000'000;

struct PlanCommand {
  Common common;
  std::size_t length = 0;
  std::size_t prune_after = 256;
  engine::Trigger trigger = engine::Trigger::exceeds;
  std::size_t interval = 0;
  std::vector<std::string> keep_ratios;

  Exit operator()() const {
    if ((trigger == engine::Trigger::every) != (interval > 0)) {
      throw UsageError("--interval: goes with --trigger every");
    }
    for (const std::string& text : keep_ratios) {
      if (text.find(':') != std::string::npos) {
        throw UsageError("--keep-ratio: a plan is that of one layer, so it takes one value");
      }
    }
    const std::size_t prefix = eval::effective_prune_after(prune_after, length);
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    if (!common.json) {
      print(fmt::format(
          "two-phase, {} tokens, trigger {}, prune_after {} (effective {}), each layer not "
          "skipped\n{:>10} {:>6}  {}\n",
          length, engine::trigger_name(trigger), prune_after, prefix, "keep_ratio", "cuts",
          "slots before and after each cut"));
    }
    for (const std::string& text : keep_ratios) {
      engine::Press press;
      press.budget.keep_ratio = engine::KeepRatio::parse(text);
      press.trigger = trigger;
      press.interval = interval;
      press.prune_after = prefix;
      const auto cuts = eval::plan(press, length - 1, prefix);
      if (common.json) {
        nlohmann::ordered_json list = nlohmann::ordered_json::array();
        for (const eval::PlannedCut& cut : cuts) {
          list.push_back({{"token", cut.token}, {"before", cut.before}, {"after", cut.after}});
        }
        rows.push_back({{"keep_ratio", std::stod(text)}, {"cuts", cuts.size()}, {"plan", list}});
        continue;
      }
      constexpr std::size_t shown_cuts = 4;
      std::string shown;
      for (std::size_t i = 0; i < std::min(cuts.size(), shown_cuts); ++i) {
        shown += fmt::format("{}{}->{}", i == 0 ? "" : " ", cuts[i].before, cuts[i].after);
      }
      if (cuts.size() > shown_cuts) shown += " ...";
      print(fmt::format("{:>10} {:>6}  {}\n", text, cuts.size(), shown));
    }
    if (common.json) {
      print_json({{"length", length},
                  {"trigger", engine::trigger_name(trigger)},
                  {"prune_after", prune_after},
                  {"effective_prune_after", prefix},
                  {"rows", rows}});
    }
    return Exit::ok;
  }
};

}  // namespace

Command add_plan(CommandLine program) {
  auto state = std::make_shared<PlanCommand>();
  const CommandLine app = program.add_subcommand(
      "plan", "The cuts to come, before anything runs",
      "Example: neoxref plan --length 1024 --prune-after 256 --keep-ratio 0.9,0.5");
  state->common.add_to_without_model(app);
  app.add_count("--length", state->length, eval::least_tokens, longest_text, "Tokens of the text")
      .required();
  app.add_count("--prune-after", state->prune_after, 0, largest_count,
                "Cut a layer that holds more slots than this after a\ntoken has entered "
                "(default: 256)");
  add_trigger(app, state->trigger);
  app.add_count("--interval", state->interval, 1, largest_count, "every: tokens between two cuts");
  add_keep_ratio(app, state->keep_ratios, true, "Shares of the slots that a cut keeps")
      .group("Options")
      .required();
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
