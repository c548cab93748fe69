// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/checkpoint.hpp"
#include "engine/model_path.hpp"
#include "engine/safetensors.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;

Json tensor_json(const engine::TensorView& tensor) {
  return {{"name", tensor.name},
          {"dtype", tensor.dtype},
          {"shape", tensor.shape},
          {"bytes", tensor.bytes.size()}};
}

std::string_view function_name(simd::Function function) {
  static constexpr std::string_view names[] = {"exp",  "log",       "tanh",      "silu",
                                               "gelu", "gelu_tanh", "gelu_fast", "quick_gelu",
                                               "relu", "sin",       "cos"};
  return names[static_cast<std::size_t>(function)];
}

struct InspectCommand {
  Common common;

  Exit operator()() const {
    Json document;
    std::vector<const engine::Safetensors*> files;
    std::vector<engine::Safetensors> opened;
    std::optional<engine::Checkpoint> checkpoint;
    const std::string& source = common.model;
    std::error_code ignored;
    if (source != "mini" && std::filesystem::is_regular_file(source, ignored)) {
      opened.push_back(engine::Safetensors::open(source));
      files.push_back(&opened.front());
    } else {
      checkpoint = engine::Checkpoint::open(engine::resolve_model(source));
      for (const engine::Safetensors& file : checkpoint->files()) files.push_back(&file);
      check_weights(*checkpoint);
      document["config"] = config_json(checkpoint->config());
      const auto tokenizer = checkpoint->folder() / "tokenizer.json";
      if (std::filesystem::exists(tokenizer)) {
        document["tokenizer_vocab"] = engine::Tokenizer::open(tokenizer.string()).vocab_size();
      }
    }
    std::size_t bytes = 0;
    document["tensors"] = Json::array();
    for (const engine::Safetensors* file : files) {
      for (const engine::TensorView& tensor : file->tensors()) {
        document["tensors"].push_back(tensor_json(tensor));
        bytes += tensor.bytes.size();
      }
      if (!file->metadata().empty()) document["metadata"].update(file->metadata());
    }
    document["tensor_bytes"] = bytes;
    document["verdict"] = "ok";
    if (common.json) {
      print_json(document);
      return Exit::ok;
    }
    if (document.contains("config")) {
      for (const auto& [name, value] : document["config"].items()) {
        print(fmt::format("{:24} {}\n", name, value.dump()));
      }
      print("\n");
    }
    for (const engine::Safetensors* file : files) {
      for (const engine::TensorView& tensor : file->tensors()) {
        print(fmt::format("{:60} {:5} {}\n", printable(tensor.name), tensor.dtype,
                          engine::shape_text(tensor.shape)));
      }
    }
    print(fmt::format("\n{} tensors, {} bytes: ok\n", document["tensors"].size(), bytes));
    return Exit::ok;
  }

  static void check_weights(const engine::Checkpoint& checkpoint) {
    for (const engine::TensorSpec& spec : engine::required_tensors(checkpoint.config())) {
      engine::check_finite(checkpoint.tensor(spec.name));
    }
  }

  static Json config_json(const engine::Config& config) {
    return {{"hidden", config.hidden},
            {"layers", config.layers},
            {"heads", config.heads},
            {"head_dim", config.head_dim},
            {"intermediate", config.intermediate},
            {"vocab", config.vocab},
            {"max_positions", config.max_positions},
            {"rotary_dims", config.rotary_dims},
            {"rotary_base", config.rotary_base},
            {"layer_norm_eps", config.layer_norm_eps},
            {"parallel_residual", config.parallel_residual},
            {"activation", function_name(config.activation)},
            {"attention_bias", config.attention_bias},
            {"tie_word_embeddings", config.tie_word_embeddings},
            {"eos_token_ids", config.eos_token_ids}};
  }
};

}  // namespace

Command add_inspect(CommandLine program) {
  auto state = std::make_shared<InspectCommand>();
  const CommandLine app = program.add_subcommand(
      "inspect", "Show tensors and config, after every check that loading makes",
      "MODEL may also be one .safetensors file.\nExample: neoxref inspect mini");
  state->common.add_to(app);
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
