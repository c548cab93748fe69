// SPDX-License-Identifier: Apache-2.0
#include "eval/plan.hpp"

#include <fmt/core.h>

#include "eval/perplexity.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

struct PlanCommand {
  std::size_t length = 0;
  std::size_t prune_after = 256;
  std::vector<std::string> keep_ratios;
  bool json = false;

  Exit operator()() const {
    if (length < eval::least_tokens) {
      throw std::invalid_argument("plan: --length must be at least " +
                                  std::to_string(eval::least_tokens));
    }
    const std::size_t prefix = eval::effective_prune_after(prune_after, length);
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    if (!json) {
      fmt::print("two-phase, {} tokens, prune_after {} (effective {}), each layer not skipped\n",
                 length, prune_after, prefix);
      fmt::print("{:>10} {:>6}  {}\n", "keep_ratio", "cuts", "slots before and after each cut");
    }
    for (const std::string& text : keep_ratios) {
      const auto cuts = eval::plan(length - 1, prefix, prefix, eval::Ratio::parse(text));
      nlohmann::ordered_json list = nlohmann::ordered_json::array();
      std::string shown;
      for (const eval::PlannedCut& cut : cuts) {
        list.push_back({{"token", cut.token}, {"before", cut.before}, {"after", cut.after}});
        if (list.size() <= 4) shown += fmt::format("{}->{} ", cut.before, cut.after);
      }
      if (cuts.size() > 4) shown += "...";
      rows.push_back({{"keep_ratio", text}, {"cuts", cuts.size()}, {"plan", list}});
      if (!json) fmt::print("{:>10} {:>6}  {}\n", text, cuts.size(), shown);
    }
    if (json) {
      print_json({{"length", length},
                  {"prune_after", prune_after},
                  {"effective_prune_after", prefix},
                  {"rows", rows}});
    }
    return Exit::ok;
  }
};

}  // namespace

Command add_plan(CLI::App& program) {
  auto state = std::make_shared<PlanCommand>();
  CLI::App* app = program.add_subcommand("plan", "The cuts to come, before anything runs");
  app->add_option("--length", state->length, "Tokens of the text")->required();
  app->add_option("--prune-after", state->prune_after,
                  "A layer that is longer than this after a token entered is cut")
      ->capture_default_str();
  app->add_option("--keep-ratio", state->keep_ratios, "Shares that a cut keeps, such as 0.9,0.5")
      ->delimiter(',')
      ->required();
  app->add_flag("--json", state->json, "Print one JSON document");
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
