// SPDX-License-Identifier: Apache-2.0
#include "eval/synth.hpp"

#include <fmt/core.h>

#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/error.hpp"
#include "tools/interrupt.hpp"
#include "tools/options.hpp"
#include "tools/shape_options.hpp"

namespace neoxref::tools {
namespace {

constexpr std::uint64_t megabyte = 1'000'000;

struct SynthCommand {
  Common common;  // --json alone
  std::string shape;
  std::size_t layers = 0;
  std::size_t hidden = 0;
  std::size_t heads = 0;
  std::size_t intermediate = 0;
  std::size_t vocab = 0;
  std::size_t max_positions = 0;
  std::string dtype = "f16";
  std::uint64_t seed = 1;
  std::uint64_t shard_megabytes = 5000;
  std::optional<std::string> tokenizer;
  std::optional<std::string> output;
  bool force = false;

  engine::Config config() const;
  Exit operator()() const;
};

engine::Config SynthCommand::config() const {
  engine::Config config;
  if (shape.empty()) {
    if (layers == 0 || hidden == 0 || heads == 0 || intermediate == 0 || vocab == 0) {
      throw UsageError(
          "expected --shape, or all of --layers --hidden --heads --intermediate --vocab");
    }
    config.eos_token_ids = {0};
  } else {
    config = parse_shape(shape);
  }
  const auto replace = [](std::size_t& value, std::size_t given) {
    if (given > 0) value = given;
  };
  replace(config.layers, layers);
  replace(config.hidden, hidden);
  replace(config.heads, heads);
  replace(config.intermediate, intermediate);
  replace(config.vocab, vocab);
  replace(config.max_positions, max_positions);
  return config;
}

Exit SynthCommand::operator()() const {
  if (!output || output->empty()) throw UsageError("--output: needs the name of a folder");
  eval::SynthOptions options;
  options.seed = seed;
  options.dtype = parse_dtype(dtype);
  options.most_shard_bytes = shard_megabytes * megabyte;
  options.force = force;
  if (tokenizer) options.tokenizer = *tokenizer;
  std::vector<eval::SynthFile> files;
  try {
    const InterruptGuard guard;
    Progress progress("synth");
    files = eval::write_synth(config(), options, *output, [&](double share) {
      guard.check();
      progress(share);
    });
  } catch (const Interrupted& interrupted) {
    interrupted.end();
  }
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  if (!common.json) print(*output + "\n");
  for (const eval::SynthFile& file : files) {
    if (common.json) {
      list.push_back({{"file", file.name}, {"bytes", file.bytes}, {"xxh3", file.xxh3}});
    } else {
      print(fmt::format("  {} {:>14} bytes  {}\n", file.xxh3, file.bytes, file.name));
    }
  }
  if (common.json) {
    print_json({{"folder", *output}, {"seed", seed}, {"dtype", dtype}, {"files", list}});
  }
  return Exit::ok;
}

}  // namespace

Command add_synth(CommandLine program) {
  auto state = std::make_shared<SynthCommand>();
  const CommandLine app = program.add_subcommand(
      "synth", "Write a checkpoint of a true shape with seeded weights",
      "The same options give the same bytes on every machine; the digests are XXH3-128.\n"
      "Example: neoxref synth --shape pythia-70m -o pythia-70m-synth");
  add_shape(app, state->shape);
  app.add_count("--layers", state->layers, 1, 4096, "Layers, instead of the shape's");
  app.add_count("--hidden", state->hidden, 1, 1 << 20, "Width of the residual stream");
  app.add_count("--heads", state->heads, 1, 1 << 20, "Attention heads");
  app.add_count("--intermediate", state->intermediate, 1, 1 << 20, "Width of the mlp");
  app.add_count("--vocab", state->vocab, 1, 1 << 28, "Tokens of the vocabulary");
  app.add_count("--max-positions", state->max_positions, 1, 1 << 24,
                "Longest text (default: 2048)");
  add_dtype(app, state->dtype);
  app.add_count("--seed", state->seed, 0, std::numeric_limits<std::uint64_t>::max(),
                "Seed of the weights (default: 1)");
  app.add_count("--max-shard", state->shard_megabytes, 1, largest_count / megabyte,
                "Megabytes of tensors in one file (default: 5000)");
  app.add_text("--tokenizer", state->tokenizer, "FILE", "Copied as tokenizer.json");
  app.add_text("-o,--output", state->output, "DIR", "The folder to make");
  app.add_flag("--force", state->force, "Replace a checkpoint that is there");
  state->common.add_to_without_model(app);
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
