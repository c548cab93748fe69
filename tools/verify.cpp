// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "datasets/reader.hpp"
#include "engine/error.hpp"
#include "engine/model_path.hpp"
#include "engine/tensors.hpp"
#include "eval/digest.hpp"
#include "eval/golden_make.hpp"
#include "eval/known_answers.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

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

/// The logits' digest of a known answer, computed here.
std::string compute(engine::Model& model, const KnownAnswer& known,
                    const std::filesystem::path& folder, const std::string& name) {
  const auto text = datasets::read_plain(folder.parent_path() / "texts" / known.text);
  std::vector<std::int32_t> ids = load_tokenizer(name).encode(text.text);
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
  return digest.hex();
}

/// "token 3" or "row 3 (head 1, slot 5)".
std::string row_text(const std::string& name, const std::vector<std::uint64_t>& shape,
                     std::size_t row) {
  if (engine::tensor_from_name(name)) return fmt::format("token {}", row);
  if (shape.size() < 3) return fmt::format("row {}", row);
  if (shape.size() == 3) return fmt::format("head {}", row);
  return fmt::format("head {}, {} {}", row / shape[2],
                     name.find("attention") == std::string::npos ? "slot" : "token",
                     row % shape[2]);
}

Json difference_json(const eval::GoldenDifference& difference) {
  Json json{{"name", difference.name}};
  if (const auto id = engine::tensor_from_name(difference.name)) {
    json["layer"] = engine::exists_per_layer(id->tensor) ? Json(id->layer) : Json(nullptr);
  }
  json["token"] = difference.row ? Json(*difference.row) : Json(nullptr);
  json["tokens_differing"] =
      difference.rows_differing ? Json(*difference.rows_differing) : Json(nullptr);
  json["channel"] = nullptr;
  if (difference.value) {
    json["channel"] = difference.value->channel;
    json["expected"] = difference.value->expected;
    json["found"] = difference.value->found;
  }
  return json;
}

struct VerifyCommand {
  Common common;
  std::string folder;

  Exit operator()() { return folder.empty() ? verify_machine() : verify_folder(); }

  /// Every kernel against the scalar one, then the logits of the embedded default.
  Exit verify_machine() {
    if (!common.model.empty()) throw UsageError("--model: needs a golden to compare with");
    const Clock::time_point begin = Clock::now();
    common.model = "mini";
    const auto place = engine::resolve_model(common.model);
    const KnownAnswer known = read_known_answer((place / "digest.json").string());
    engine::Model model = common.load();
    const std::vector<eval::KernelAnswer> kernels = eval::check_kernels(model.kernels());
    std::string wrong;
    std::size_t values = 0;
    for (const eval::KernelAnswer& kernel : kernels) {
      values += kernel.values;
      if (!kernel.same) wrong += (wrong.empty() ? "" : ", ") + kernel.name;
    }
    const std::string digest = compute(model, known, place, common.model);
    const bool same = wrong.empty() && digest == known.digest;
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (common.json) {
      Json list = Json::array();
      for (const eval::KernelAnswer& kernel : kernels) {
        list.push_back({{"name", kernel.name}, {"values", kernel.values}, {"same", kernel.same}});
      }
      print_json({{"same", same},
                  {"contract", known.contract},
                  {"text", known.text},
                  {"tokens", known.tokens},
                  {"expected", known.digest},
                  {"digest", digest},
                  {"kernels", list},
                  {"compiler", NEOXREF_COMPILER},
                  {"seconds", seconds},
                  {"machine", machine_json(model)}});
    } else {
      print(fmt::format("{}: {} on {}, built by {}\n", same ? "same bits" : "OTHER BITS",
                        known.contract, machine_text(model), NEOXREF_COMPILER));
      print(wrong.empty()
                ? fmt::format("  {} kernels of {} give the {} values of the scalar ones\n",
                              kernels.size(), model.kernels().name, values)
                : fmt::format("  kernels of {} that differ from the scalar ones: {}\n",
                              model.kernels().name, wrong));
      print(fmt::format("  mini, {} tokens:\n  expected {}\n  computed {}\n", known.tokens,
                        known.digest, digest));
    }
    return same ? Exit::ok : Exit::failed;
  }

  /// A golden's recipe, run here.
  Exit verify_folder() {
    const eval::Golden golden = eval::Golden::read(folder);
    if (common.model.empty()) {
      throw engine::Error("--model", "a golden holds digests and no weights: it needs its model",
                          golden.recipe.model + ", SHA-256 " + golden.recipe.sha256, "none");
    }
    engine::Model model = common.load();
    eval::Verification result;
    {
      Progress progress("verify");
      result = eval::verify_golden(model, golden, [&](double share) { progress(share); });
    }
    if (common.json) {
      print_verification_json(golden, result, model);
    } else {
      print_verification(golden, result, model);
    }
    return result.same() ? Exit::ok : Exit::failed;
  }

  void print_verification_json(const eval::Golden& golden, const eval::Verification& result,
                               const engine::Model& model) const {
    Json differences = Json::array();
    for (const auto& difference : result.differences) {
      differences.push_back(difference_json(difference));
    }
    print_json({{"same", result.same()},
                {"golden", folder},
                {"model", {{"name", common.model}, {"sha256", golden.recipe.sha256}}},
                {"contract", eval::contract_name},
                {"tokens", golden.recipe.tokens.size()},
                {"tensors", result.tensors},
                {"differences", differences},
                {"token_behind", result.token_behind ? Json(*result.token_behind) : Json(nullptr)},
                {"compiler", NEOXREF_COMPILER},
                {"machine", machine_json(model)}});
  }

  void print_verification(const eval::Golden& golden, const eval::Verification& result,
                          const engine::Model& model) const {
    print(fmt::format("{}: {}, {} tensors of {} tokens, {} on {}, built by {}\n",
                      result.same() ? "same bits" : "OTHER BITS", printable(folder), result.tensors,
                      golden.recipe.tokens.size(), eval::contract_name, machine_text(model),
                      NEOXREF_COMPILER));
    if (result.same()) return;
    const eval::GoldenDifference& first = result.differences.front();
    print(fmt::format("  first of {} tensors that differ: {}\n", result.differences.size(),
                      first.name));
    const std::vector<std::uint64_t>& shape = golden.find(first.name)->shape;
    if (first.row) {
      print(fmt::format("  first {}{}\n", row_text(first.name, shape, *first.row),
                        first.rows_differing
                            ? fmt::format(", {} of {} differ", *first.rows_differing, shape[1])
                            : ""));
    } else if (result.token_behind) {
      print(
          fmt::format("  token not known: no leaves of this operation (made with --digests "
                      "layers); the layer's output differs from token {} on\n",
                      *result.token_behind));
    } else {
      print("  token not known: the golden has no leaves of this operation (see --digests all)\n");
    }
    if (first.value) {
      print(fmt::format("  channel {}: expected {}, found {}\n", first.value->channel,
                        first.value->expected, first.value->found));
    } else {
      print("  channel not known: the golden holds digests of it, not values (see --tensors)\n");
    }
  }
};

}  // namespace

Command add_verify(CommandLine program) {
  auto state = std::make_shared<VerifyCommand>();
  const CommandLine app = program.add_subcommand(
      "verify", "Run a golden's recipe here and compare bits; without one, test this machine",
      "Without DIR: every kernel in use against its plain definition, then the known answer\n"
      "of the embedded default. Exits with 1 when bits differ.\n"
      "Example: neoxref verify golden --model mini");
  app.add_option("DIR", state->folder, "A golden (neoxref golden)").type_name("");
  app.add_option("--model", state->common.model, "The golden's model, as for neoxref golden")
      .type_name("MODEL");
  state->common.add_to_without_model(app);
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
