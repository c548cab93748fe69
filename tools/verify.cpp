// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include "datasets/reader.hpp"
#include "engine/error.hpp"
#include "engine/model_path.hpp"
#include "eval/digest.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

struct VerifyCommand {
  Common common;

  /// Computes the known answer again: the logits of the embedded default on its embedded text.
  Exit operator()() {
    common.model = "mini";
    const auto folder = engine::resolve_model("mini");
    const std::string path = (folder / "digest.json").string();
    const auto known = nlohmann::ordered_json::parse(read_file(path), nullptr, false);
    if (!known.is_object() || !known.contains("tokens") || !known.contains("digest") ||
        !known.contains("text") || !known.contains("contract")) {
      throw engine::Error(path, "not a digest file", "contract, text, tokens and digest");
    }
    const auto tokens = known["tokens"].get<std::size_t>();
    const auto expected = known["digest"].get<std::string>();
    const auto text =
        datasets::read_plain(folder.parent_path() / "texts" / known["text"].get<std::string>());
    engine::Model model = common.load();
    std::vector<std::int32_t> ids = load_tokenizer("mini").encode(text.text);
    if (ids.size() < tokens) {
      throw engine::Error(text.name, "too short", std::to_string(tokens),
                          std::to_string(ids.size()));
    }
    ids.resize(tokens);
    std::vector<float> logits(tokens * model.config().vocab);
    engine::Sequence sequence = model.sequence(tokens);
    engine::Step step{&sequence, ids, engine::LogitRows::all, logits.data()};
    if (!model.forward({&step, 1})) throw engine::Error("mini", engine::describe(*step.failure));
    eval::Digest digest;
    digest.add(logits);
    const bool same = digest.hex() == expected;
    if (common.json) {
      print_json({{"same", same},
                  {"contract", known["contract"]},
                  {"expected", expected},
                  {"digest", digest.hex()},
                  {"compiler", NEOXREF_COMPILER},
                  {"machine", machine_json(model)}});
    } else {
      fmt::print("{}: {} on {}, {} x {}, built by {}\n  expected {}\n  computed {}\n",
                 same ? "same bits" : "OTHER BITS", known["contract"].get<std::string>(),
                 model.kernels().name, engine::backend_name(model.team().backend()),
                 model.team().threads(), NEOXREF_COMPILER, expected, digest.hex());
    }
    return same ? Exit::ok : Exit::failed;
  }
};

}  // namespace

Command add_verify(CLI::App& program) {
  auto state = std::make_shared<VerifyCommand>();
  CLI::App* app = program.add_subcommand(
      "verify", "Compute the embedded default's known answer here and compare the bits");
  state->common.add_to_without_model(*app);
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
