// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>

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
  std::string tokens;
  std::string text;
  std::string file;
  std::string output;

  Exit operator()() {
    if ((tokens.empty() ? 0 : 1) + (text.empty() ? 0 : 1) + (file.empty() ? 0 : 1) != 1) {
      throw std::invalid_argument("logits: give --tokens, --text or --file, one of them");
    }
    const std::vector<std::int32_t> ids =
        !tokens.empty()
            ? parse_ids(tokens, "--tokens")
            : load_tokenizer(common.model).encode(file.empty() ? text : read_file(file));
    if (ids.empty()) throw engine::Error("logits", "no tokens");
    engine::Model model = common.load();
    const std::size_t vocab = model.config().vocab;
    engine::Sequence sequence = model.sequence(std::min(ids.size(), model.config().max_positions));
    constexpr std::size_t chunk = 256;
    std::vector<float> logits(std::min(chunk, ids.size()) * vocab);
    eval::Digest digest;
    OutputFile out(output);
    out.write(npy_header(ids.size(), vocab));
    Progress progress("logits");
    if (ids.size() > model.config().max_positions) {
      throw engine::Error("tokens", "longer than the context of the model",
                          std::to_string(model.config().max_positions), std::to_string(ids.size()));
    }
    for (std::size_t first = 0; first < ids.size(); first += chunk) {
      progress(static_cast<double>(first) / static_cast<double>(ids.size()));
      const std::size_t count = std::min(chunk, ids.size() - first);
      engine::Step step{&sequence, std::span(ids).subspan(first, count), engine::LogitRows::all,
                        logits.data()};
      if (!model.forward({&step, 1})) {
        step.failure->token += first;
        throw engine::Error("logits", engine::describe(*step.failure));
      }
      const std::span<const float> rows(logits.data(), count * vocab);
      digest.add(rows);
      out.write({reinterpret_cast<const char*>(rows.data()), rows.size_bytes()});
    }
    out.commit();
    if (common.json) {
      print_json({{"file", output},
                  {"shape", {ids.size(), vocab}},
                  {"digest", digest.hex()},
                  {"machine", machine_json(model)}});
    } else {
      fmt::print("{}: float32 [{}, {}], digest {}\n", output, ids.size(), vocab, digest.hex());
    }
    return Exit::ok;
  }
};

}  // namespace

Command add_logits(CLI::App& program) {
  auto state = std::make_shared<LogitsCommand>();
  CLI::App* app = program.add_subcommand("logits", "Write the logits of every token as .npy");
  state->common.add_to(*app);
  app->add_option("--tokens", state->tokens, "Token ids with commas between");
  app->add_option("--text", state->text, "A text");
  app->add_option("--file", state->file, "A file with a text");
  app->add_option("-o,--output", state->output, "The file to write, float32 [tokens, vocab]")
      ->required();
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
