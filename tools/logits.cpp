// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "engine/error.hpp"
#include "eval/digest.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

/// Header of NumPy's format 1.0 for a C-ordered little-endian float32 matrix, padded to 64 bytes.
std::string npy_header(std::size_t rows, std::size_t columns) {
  std::string dictionary =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  constexpr std::size_t preamble = 10;
  const std::size_t total = (preamble + dictionary.size() + 1 + 63) / 64 * 64;
  dictionary.resize(total - preamble - 1, ' ');
  dictionary += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(dictionary.size() & 0xff);
  header += static_cast<char>(dictionary.size() >> 8);
  return header + dictionary;
}

struct LogitsCommand {
  Common common;
  std::optional<std::string> tokens;
  std::optional<std::string> text;
  std::optional<std::string> file;
  std::string output;

  std::vector<std::int32_t> ids() const {
    if (tokens) return parse_ids(*tokens, "--tokens");
    const engine::Tokenizer tokenizer = load_tokenizer(common.model);
    return text ? encode_some(tokenizer, *text, "--text")
                : encode_some(tokenizer, read_file(*file), *file);
  }

  /// What forward() would find too, said before a file is begun.
  static void check(const std::vector<std::int32_t>& ids, const engine::Config& config) {
    if (ids.size() > config.max_positions) {
      throw engine::Error("tokens", "longer than the context of the model",
                          "at most " + std::to_string(config.max_positions) + " tokens",
                          std::to_string(ids.size()));
    }
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= 0 && static_cast<std::size_t>(ids[i]) < config.vocab) continue;
      throw engine::Error("tokens", "token " + std::to_string(i) + " is outside the vocabulary",
                          "0 to " + std::to_string(config.vocab - 1), std::to_string(ids[i]));
    }
  }

  Exit operator()() {
    if ((tokens ? 1 : 0) + (text ? 1 : 0) + (file ? 1 : 0) != 1) {
      throw UsageError("expected exactly one of --tokens, --text and --file");
    }
    engine::Model model = common.load();
    const std::vector<std::int32_t> all = ids();
    check(all, model.config());
    const std::size_t vocab = model.config().vocab;
    engine::Sequence sequence = model.sequence(all.size());
    constexpr std::size_t chunk = 256;
    std::vector<float> logits(std::min(chunk, all.size()) * vocab);
    eval::Digest digest;
    OutputFile out(output);
    out.write(npy_header(all.size(), vocab));
    {
      Progress progress("logits");
      for (std::size_t first = 0; first < all.size(); first += chunk) {
        progress(static_cast<double>(first) / static_cast<double>(all.size()));
        const std::size_t count = std::min(chunk, all.size() - first);
        engine::Step step{&sequence, std::span(all).subspan(first, count), engine::LogitRows::all,
                          logits.data()};
        if (!model.forward({&step, 1})) {
          step.failure->token += first;
          throw engine::Error("logits", engine::describe(*step.failure));
        }
        const std::span<const float> rows(logits.data(), count * vocab);
        digest.add(rows);
        out.write({reinterpret_cast<const char*>(rows.data()), rows.size_bytes()});
      }
    }
    out.commit();
    if (common.json) {
      print_json({{"file", output},
                  {"shape", {all.size(), vocab}},
                  {"tokens", all},
                  {"digest", digest.hex()},
                  {"machine", machine_json(model)}});
    } else {
      print(fmt::format("{}: float32 [{}, {}], digest {}\n", output, all.size(), vocab,
                        digest.hex()));
    }
    return Exit::ok;
  }
};

}  // namespace

Command add_logits(CommandLine program) {
  auto state = std::make_shared<LogitsCommand>();
  const CommandLine app =
      program.add_subcommand("logits", "Write the logits of every token as .npy",
                             "Example: neoxref logits mini --tokens 1,2,3 -o logits.npy");
  state->common.add_to(app);
  app.add_text("--tokens", state->tokens, "N,N,...", "Token ids");
  app.add_text("--text", state->text, "TEXT", "A text");
  app.add_text("--file", state->file, "FILE", "A file with a text (-: standard input)");
  app.add_option("-o,--output", state->output, "The file to write, float32 [tokens, vocab]")
      .type_name("FILE")
      .required();
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
