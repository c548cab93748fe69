// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/error.hpp"
#include "eval/golden_make.hpp"
#include "tools/golden.hpp"
#include "tools/options.hpp"
#include "tools/press_options.hpp"

namespace neoxref::tools {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<std::string> split_names(const std::string& text) {
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    names.push_back(text.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return names;
}

std::size_t bytes_in(const std::filesystem::path& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  return error ? 0 : size;
}

std::string size_text(std::size_t bytes) {
  if (bytes < 1000) return fmt::format("{} bytes", bytes);
  if (bytes < 1'000'000) return fmt::format("{:.1f} kB", static_cast<double>(bytes) / 1e3);
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

struct GoldenCommand {
  Common common;
  std::optional<std::string> tokens;
  std::optional<std::string> text;
  std::optional<std::string> file;
  std::size_t prompt_tokens = 0;
  PressOptions press;
  std::string digests = "layers";
  std::string tensors = "none";
  std::string output;

  std::vector<std::int32_t> ids() const {
    if (tokens) return parse_ids(*tokens, "--tokens");
    if (file) return parse_ids(read_file(*file), *file);
    return encode_some(load_tokenizer(common.model), *text, "--text");
  }

  void check_usage() const {
    if ((tokens ? 1 : 0) + (text ? 1 : 0) + (file ? 1 : 0) != 1) {
      throw UsageError("expected exactly one of --tokens, --text and --file");
    }
    press.check_usage();
    const bool after_prompt = press.given() && press.trigger == engine::Trigger::after_prompt;
    if (after_prompt && prompt_tokens == 0) {
      throw UsageError("--trigger after-prompt: needs --prompt-tokens");
    }
    if (!after_prompt && prompt_tokens > 0) {
      throw UsageError("--prompt-tokens: needs --trigger after-prompt");
    }
  }

  Exit operator()() {
    check_usage();
    eval::check_golden_folder(output);
    const Clock::time_point begin = Clock::now();
    engine::Model model = common.load();
    std::optional<engine::Press> rule;
    if (press.given()) {
      const auto presses = press.make(model.config());
      if (!presses.empty()) rule = presses.front().second;
    }
    const Clock::time_point loaded = Clock::now();
    const eval::GoldenRecipe recipe =
        eval::make_recipe(model, common.model, ids(), rule, rule ? prompt_tokens : 0);
    const Clock::time_point named = Clock::now();
    eval::GoldenOptions options;
    options.tool = "neoxref " NEOXREF_VERSION;
    options.all_leaves = digests == "all";
    options.stored = split_names(tensors);
    options.folder = output;
    std::optional<eval::Golden> golden;
    {
      Progress progress("golden");
      options.progress = [&](double share) { progress(share); };
      golden = eval::make_golden(model, recipe, options);
    }
    report(*golden, model, {begin, loaded, named, Clock::now()});
    return Exit::ok;
  }

  void report(const eval::Golden& golden, const engine::Model& model,
              const std::array<Clock::time_point, 4>& times) const {
    const std::size_t json_bytes = bytes_in(golden.folder / "golden.json");
    const std::size_t tensor_bytes =
        golden.file == nullptr ? 0 : bytes_in(golden.folder / "tensors.safetensors");
    const std::size_t stored = golden.file == nullptr ? 0 : golden.file->tensors().size() - 1;
    const auto seconds = [&](std::size_t which) {
      return std::chrono::duration<double>(times[which + 1] - times[which]).count();
    };
    if (common.json) {
      print_json({{"folder", output},
                  {"model", {{"name", golden.recipe.model}, {"sha256", golden.recipe.sha256}}},
                  {"contract", eval::contract_name},
                  {"tokens", golden.recipe.tokens.size()},
                  {"press", golden.recipe.press ? golden.recipe.press->text() : "none"},
                  {"digests", golden.tensors.size()},
                  {"leaves", golden.all_leaves ? "all" : "layers"},
                  {"tensors", stored},
                  {"bytes", {{"golden.json", json_bytes}, {"tensors.safetensors", tensor_bytes}}},
                  {"seconds", {{"load", seconds(0)}, {"sha256", seconds(1)}, {"run", seconds(2)}}},
                  {"machine", machine_json(model)}});
      return;
    }
    print(fmt::format("{}: golden of {}, {} tokens, {}, press {}\n", printable(output),
                      printable(golden.recipe.model), golden.recipe.tokens.size(),
                      eval::contract_name,
                      golden.recipe.press ? golden.recipe.press->text() : "none"));
    print(fmt::format("  {} digests, leaves of {}: {}\n", golden.tensors.size(),
                      golden.all_leaves ? "every operation" : "layer outputs",
                      size_text(json_bytes)));
    if (stored > 0) {
      print(fmt::format("  {} tensors stored: {}\n", stored, size_text(tensor_bytes)));
    }
    print(fmt::format("  loaded in {:.2f} s, SHA-256 {:.2f} s, run with digests {:.2f} s on {}\n",
                      seconds(0), seconds(1), seconds(2), machine_text(model)));
  }
};

}  // namespace

Command add_golden(CommandLine program) {
  auto state = std::make_shared<GoldenCommand>();
  const CommandLine app = program.add_subcommand(
      "golden", "Write a run's recipe, and digests of all its tensors, to compare with",
      "Example: neoxref golden mini --text \"The old captain\" -o golden\n"
      "Checked by neoxref verify; the format: docs/goldens.md.");
  state->common.add_to(app);
  app.add_text("--tokens", state->tokens, "N,N,...", "Token ids");
  app.add_text("--text", state->text, "TEXT", "A text");
  app.add_text("--file", state->file, "FILE",
               "A file with token ids, commas between\n(-: standard input)");
  app.add_option("-o,--output", state->output, "The folder to write; a golden there is replaced")
      .type_name("DIR")
      .required();
  app.add_option("--digests", state->digests,
                 "Leaves, a short digest for each token: layers, of layer\noutputs; all, of every "
                 "operation (default: layers)")
      .type_name("NAME")
      .check([](const std::string& name) {
        return name == "layers" || name == "all" ? std::string{} : "expected layers or all";
      });
  app.add_option("--tensors", state->tensors,
                 "Values to store: none, logits, layers (and logits), all\n(and the cache), or "
                 "names with commas between, * for any\ncharacters (default: none)")
      .type_name("NAME,...");
  app.add_count("--prompt-tokens", state->prompt_tokens, 1, largest_count,
                "--trigger after-prompt: tokens before the cut");
  state->press.add_to(app, false);
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
