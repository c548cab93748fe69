// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <filesystem>
#include <memory>

#include "datasets/reader.hpp"
#include "engine/error.hpp"
#include "engine/model_path.hpp"
#include "eval/digest.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;

/// What digest.json says: the digest of all logits of the first `tokens` tokens of a text.
struct KnownAnswer {
  std::string contract;
  std::string text;
  std::size_t tokens;
  std::string digest;
};

KnownAnswer read_known_answer(const std::string& path) {
  const Json file = Json::parse(read_file(path), nullptr, false);
  const auto refuse = [&](const char* field, const char* expected) {
    throw engine::Error(path + ": " + field, "not usable", expected);
  };
  if (!file.is_object()) throw engine::Error(path, "is not a JSON object");
  for (const char* field : {"contract", "text", "digest"}) {
    if (!file.contains(field) || !file[field].is_string()) refuse(field, "a string");
  }
  if (!file.contains("tokens") || !file["tokens"].is_number_unsigned() || file["tokens"] == 0) {
    refuse("tokens", "a whole number above 0");
  }
  return {file["contract"], file["text"], file["tokens"], file["digest"]};
}

struct VerifyCommand {
  Common common;

  /// Computes the known answer again: the logits of the embedded default on its embedded text.
  Exit operator()() {
    common.model = "mini";
    const auto folder = engine::resolve_model(common.model);
    const KnownAnswer known = read_known_answer((folder / "digest.json").string());
    const auto text = datasets::read_plain(folder.parent_path() / "texts" / known.text);
    engine::Model model = common.load();
    std::vector<std::int32_t> ids = load_tokenizer(common.model).encode(text.text);
    const std::size_t usable = std::min(ids.size(), model.config().max_positions);
    if (known.tokens > usable) {
      throw engine::Error(text.name, "has too few tokens for the known answer",
                          std::to_string(known.tokens), std::to_string(usable));
    }
    ids.resize(known.tokens);
    std::vector<float> logits(ids.size() * model.config().vocab);
    engine::Sequence sequence = model.sequence(ids.size());
    engine::Step step{&sequence, ids, engine::LogitRows::all, logits.data()};
    if (!model.forward({&step, 1})) throw engine::Error("mini", engine::describe(*step.failure));
    eval::Digest digest;
    digest.add(logits);
    const bool same = digest.hex() == known.digest;
    if (common.json) {
      print_json({{"same", same},
                  {"contract", known.contract},
                  {"text", known.text},
                  {"tokens", known.tokens},
                  {"expected", known.digest},
                  {"digest", digest.hex()},
                  {"compiler", NEOXREF_COMPILER},
                  {"machine", machine_json(model)}});
    } else {
      print(fmt::format("{}: {} on {}, built by {}\n  expected {}\n  computed {}\n",
                        same ? "same bits" : "OTHER BITS", known.contract, machine_text(model),
                        NEOXREF_COMPILER, known.digest, digest.hex()));
    }
    return same ? Exit::ok : Exit::failed;
  }
};

}  // namespace

Command add_verify(CLI::App& program) {
  auto state = std::make_shared<VerifyCommand>();
  CLI::App* app = program.add_subcommand(
      "verify", "Compute the embedded default's known answer here and compare the bits");
  app->footer("Exits with 1 when the bits differ.");
  state->common.add_to_without_model(*app);
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
