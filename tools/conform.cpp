// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <bit>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/error.hpp"
#include "engine/model_path.hpp"
#include "eval/conformance.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kit_file = "kit.jsonl";

struct ConformCommand {
  Common common;  // --json alone
  std::optional<std::string> answers;
  std::optional<std::string> kit;
  std::optional<std::string> output;
  std::vector<std::string> levels;
  bool make = false;

  Exit operator()() const;
  Exit make_kit() const;
  Exit grade() const;
};

Exit ConformCommand::make_kit() const {
  if (answers || kit || !levels.empty()) {
    throw UsageError("--make goes with --output alone");
  }
  if (!output || output->empty()) throw UsageError("--output: needs the name of a folder");
  const fs::path folder(*output);
  std::error_code error;
  if (fs::exists(fs::symlink_status(folder))) {
    throw engine::Error(*output, "exists already", "a new name", "");
  }
  fs::create_directories(folder, error);
  if (error) throw engine::Error(*output, "cannot be made", "", error.message());
  const auto cases = eval::make_conformance_kit(folder);
  OutputFile file((folder / kit_file).string());
  file.write(eval::conformance_text(cases));
  file.commit();
  if (common.json) {
    print_json({{"kit", (folder / kit_file).string()}, {"cases", cases.size()}});
  } else {
    print(fmt::format("{}: {} cases\n", (folder / kit_file).string(), cases.size()));
  }
  return Exit::ok;
}

/// "1.5 (3fc00000)" for a binary32 or binary64 number, else the text itself.
std::string readable(const std::string& word) {
  if (word.find_first_not_of("0123456789abcdefABCDEF") != word.npos) return word;
  if (word.size() == 8) {
    const auto bits = static_cast<std::uint32_t>(std::stoul(word, nullptr, 16));
    return fmt::format("{} ({:.9g})", word, std::bit_cast<float>(bits));
  }
  if (word.size() == 16) {
    return fmt::format("{} ({:.17g})", word,
                       std::bit_cast<double>(std::uint64_t{std::stoull(word, nullptr, 16)}));
  }
  return word;
}

std::string shortened(std::string text) {
  constexpr std::size_t most = 400;
  if (text.size() > most) text = text.substr(0, most) + "...";
  return printable(text);
}

Json grade_json(const eval::ConformanceGrade& grade) {
  Json json = {{"level", grade.level},
               {"passed", grade.passed},
               {"failed", grade.failed},
               {"missing", grade.missing}};
  if (grade.first) {
    const auto& [question, place, expected, found] = *grade.first;
    json["first_failure"] = {{"id", question->id},       {"operation", question->operation},
                             {"input", question->input}, {"place", place},
                             {"expected", expected},     {"found", found}};
  }
  return json;
}

Exit ConformCommand::grade() const {
  if (!answers) throw UsageError("expected FILE with the answers, or --make");
  if (output) throw UsageError("--output goes with --make");
  const std::string path =
      kit ? *kit
          : (engine::resolve_model("mini").parent_path() / "conformance" / kit_file).string();
  const auto cases = eval::parse_conformance_kit(read_file(path), path);
  std::vector<std::string> wanted = levels;
  if (wanted.empty()) {
    wanted.assign(std::begin(eval::conformance_levels), std::end(eval::conformance_levels));
  }
  const auto grades = eval::grade_conformance(cases, read_file(*answers), *answers, wanted);
  bool conformant = true;
  Json list = Json::array();
  for (const auto& grade : grades) {
    conformant = conformant && grade.failed + grade.missing == 0;
    list.push_back(grade_json(grade));
  }
  if (common.json) {
    print_json({{"contract", eval::contract_name}, {"conformant", conformant}, {"levels", list}});
    return conformant ? Exit::ok : Exit::failed;
  }
  for (const auto& grade : grades) {
    print(fmt::format("{:<11} {:>4} passed, {:>3} failed, {:>3} without an answer\n", grade.level,
                      grade.passed, grade.failed, grade.missing));
    if (!grade.first) continue;
    const auto& [question, place, expected, found] = *grade.first;
    print(fmt::format("  first: {}{}\n    expected {}\n    got      {}\n    input    {}\n",
                      printable(question->id), place.empty() ? "" : ", " + printable(place),
                      printable(readable(expected)), printable(readable(found)),
                      shortened(question->input.dump())));
  }
  print(fmt::format("{} {}\n", conformant ? "conforms to" : "DOES NOT CONFORM to",
                    eval::contract_name));
  return conformant ? Exit::ok : Exit::failed;
}

Exit ConformCommand::operator()() const {
  return make ? make_kit() : grade();
}

}  // namespace

Command add_conform(CommandLine program) {
  auto state = std::make_shared<ConformCommand>();
  const CommandLine app = program.add_subcommand(
      "conform", "Grade another implementation of the contract, or make the kit it answers",
      "Exits with 1 when an answer is missing or not the expected one. The kit is text, and\n"
      "docs/conformance.md says what it asks.\n"
      "Example: neoxref conform answers.jsonl --level operation,layer");
  app.add_text("FILE", state->answers, "", "Answers, JSON lines (-: standard input)");
  app.add_text("--kit", state->kit, "FILE", "The kit that was answered (default: the one here)");
  app.add_option("--level", state->levels, "Only these levels")
      .with_commas()
      .one_of({"operation", "layer", "model", "generation"})
      .type_name("NAME,...");
  app.add_flag("--make", state->make, "Make the kit and its models");
  app.add_text("-o,--output", state->output, "DIR", "The folder to make");
  state->common.add_to_without_model(app);
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
