// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "engine/checkpoint.hpp"
#include "engine/error.hpp"
#include "engine/model_path.hpp"
#include "eval/compare.hpp"
#include "eval/golden.hpp"
#include "eval/golden_make.hpp"
#include "tools/compare_report.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

using engine::Error;

void write_file(const std::string& path, const std::string& text) {
  OutputFile file(path);
  file.write(text);
  file.commit();
}

std::vector<std::string> names_of(const std::optional<std::string>& list) {
  std::vector<std::string> names;
  std::istringstream text(list.value_or(""));
  for (std::string name; std::getline(text, name, ',');) {
    if (!name.empty()) names.push_back(name);
  }
  return names;
}

struct CompareCommand {
  Common common;
  std::string golden_path, other_path;
  std::optional<std::string> model, profile, rules_path, require, html, junit;
  std::uint64_t envelope_runs = 8;
  std::string causes = "auto";

  /// Errors: Error that says whose model is missing.
  void find_model(const eval::Golden& golden) {
    common.model = model.value_or(golden.recipe.model);
    if (model) return;
    try {
      engine::resolve_model(common.model);
    } catch (const Error& problem) {
      throw Error(golden_path, "its model is needed and is not here; name it with --model", {},
                  problem.what());
    }
  }

  Exit operator()() {
    const auto start = std::chrono::steady_clock::now();
    const eval::Golden golden = eval::Golden::read(golden_path);
    if (golden.recipe.press) {
      throw Error(golden_path,
                  "a golden with a press has no tensors that others could be judged by",
                  "one of an uncut run", golden.recipe.press->name());
    }
    const eval::ForeignRules rules =
        rules_path ? eval::parse_rules(read_file(*rules_path), *rules_path) : eval::ForeignRules{};
    const eval::ForeignFile file = eval::open_foreign(other_path, rules.raw);
    std::optional<eval::Profile> asked;
    if (profile) asked = eval::read_profile(*profile);
    find_model(golden);
    engine::Model loaded = common.load();
    const engine::Checkpoint checkpoint =
        engine::Checkpoint::open(engine::resolve_model(common.model));
    const auto reference = eval::golden_source(loaded, golden);
    const eval::ForeignSource other(file, rules, loaded.config(), *reference);
    eval::CompareOptions options;
    options.profile = asked ? *asked : eval::shipped_profile(eval::fitting_profile(file, other));
    options.envelope_runs = static_cast<std::size_t>(envelope_runs);
    options.require = names_of(require);
    options.causes = parse_causes(causes);
    options.isa = common.isa;
    eval::CompareReport report;
    {
      Progress progress("compare");
      options.progress = [&](double share) { progress(share); };
      report = eval::compare(file, other, *reference, checkpoint, loaded.team(), options);
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const CompareContext context{golden_path, other_path, common.model, command_line(),
                                 seconds.count()};
    if (junit) write_file(*junit, compare_junit(report, context));
    if (html) write_file(*html, compare_page(report, context));
    if (common.json) {
      print_json(compare_json(report, context));
    } else {
      print(compare_text(report, context));
    }
    return report.agrees() ? Exit::ok : Exit::failed;
  }
};

}  // namespace

Command add_compare(CommandLine program) {
  auto state = std::make_shared<CompareCommand>();
  const CommandLine app = program.add_subcommand(
      "compare", "Compare another backend's tensors with a golden's, first divergence first",
      "OTHER is a .safetensors, .npz, .npy, .pb (ONNX), .json (Polygraphy) or .kld (llama.cpp) "
      "file,\n"
      "or a folder of such files, .json left out. docs/compare.md: names, rules, verdicts.\n"
      "Exit status: 0 agrees, 1 diverges.\n"
      "Example: neoxref compare golden/ dump.safetensors --profile bf16-acc32 --html page.html");
  app.add_option("GOLDEN", state->golden_path, "A folder that neoxref golden has made")
      .type_name("DIR")
      .required();
  app.add_option("OTHER", state->other_path, "What the other backend computed")
      .type_name("FILE|DIR")
      .required();
  app.add_text("--model", state->model, "MODEL", "The golden's model, if it lies elsewhere now");
  app.add_text("--profile", state->profile, "NAME|FILE.json",
               "How the backend rounds: f32, tf32, bf16-acc32, f16-acc32,\n"
               "bf16-flash, kld16 or a file\n(default: what OTHER's numbers look like)");
  app.add_text("--rules", state->rules_path, "FILE", "What OTHER's names and layouts mean (JSON)");
  app.add_text("--require", state->require, "NAMES|all",
               "Tensors that must be there, with commas; * stands for any characters");
  app.add_count(
      "--envelope", state->envelope_runs, 0, 64,
      "Simulated runs of the profile, made where bounds do not suffice; 0: none\n(default: 8)");
  app.add_option("--causes", state->causes,
                 "Known deviations that explain the divergence: auto, looked for\nwhere tensors "
                 "fail and the search is no long one; always;\nnever (default: auto)")
      .type_name("WHEN")
      .check([](const std::string& name) {
        return name == "auto" || name == "always" || name == "never"
                   ? std::string{}
                   : "expected auto, always or never";
      });
  app.add_text("--html", state->html, "FILE", "Also write a page with maps and histograms");
  app.add_text("--junit", state->junit, "FILE", "Also write JUnit XML");
  state->common.add_to_without_model(app);
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
