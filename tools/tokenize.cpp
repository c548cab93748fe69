// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <sstream>

#include "engine/error.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;

struct TokenizeCommand {
  std::string source;
  std::string text;
  std::string file;
  std::string jsonl;
  bool decode = false;
  bool json = false;

  Exit operator()() const {
    if ((text.empty() ? 0 : 1) + (file.empty() ? 0 : 1) + (jsonl.empty() ? 0 : 1) != 1) {
      throw std::invalid_argument("tokenize: give --text, --file or --jsonl, one of them");
    }
    const engine::Tokenizer tokenizer = std::filesystem::is_regular_file(source)
                                            ? engine::Tokenizer::open(source)
                                            : load_tokenizer(source);
    if (!jsonl.empty()) return lines(tokenizer);
    const std::string input = file.empty() ? text : read_file(file);
    if (decode) {
      std::string list = input;
      while (!list.empty() && (list.back() == '\n' || list.back() == '\r')) list.pop_back();
      const std::string decoded = tokenizer.decode(parse_ids(list, file.empty() ? "--text" : file));
      if (json) {
        print_json({{"text", decoded}});
      } else {
        fmt::print("{}", decoded);
      }
      return Exit::ok;
    }
    const std::vector<std::int32_t> ids = tokenizer.encode(input);
    if (json) {
      print_json({{"ids", ids}});
    } else {
      fmt::print("{}\n", fmt::join(ids, ","));
    }
    return Exit::ok;
  }

  /// One {"ids": [...]} for each {"text": ...}, or the other way round.
  Exit lines(const engine::Tokenizer& tokenizer) const {
    std::istringstream input(read_file(jsonl));
    std::string line;
    const char* const field = decode ? "ids" : "text";
    for (std::size_t number = 1; std::getline(input, line); ++number) {
      const std::string where = jsonl + ": line " + std::to_string(number);
      const Json record = Json::parse(line, nullptr, false);
      if (!record.is_object() || !record.contains(field)) {
        throw engine::Error(where, "not a JSON object with the field", field, line);
      }
      try {
        if (decode) {
          fmt::print(
              "{}\n",
              Json{{"text", tokenizer.decode(record["ids"].get<std::vector<std::int32_t>>())}}
                  .dump());
        } else {
          fmt::print("{}\n",
                     Json{{"ids", tokenizer.encode(record["text"].get<std::string>())}}.dump());
        }
      } catch (const nlohmann::json::exception&) {
        throw engine::Error(where, "field of another type", field, record[field].dump());
      }
    }
    return Exit::ok;
  }
};

}  // namespace

Command add_tokenize(CLI::App& program) {
  auto state = std::make_shared<TokenizeCommand>();
  CLI::App* app = program.add_subcommand("tokenize", "Text to token ids, or back");
  app->add_option("MODEL", state->source, "As for run, or a tokenizer.json")->required();
  app->add_option("--text", state->text, "A text (with --decode: ids with commas between)");
  app->add_option("--file", state->file, "A file with the same");
  app->add_option("--jsonl", state->jsonl, "One {\"ids\": [...]} for each line {\"text\": ...}");
  app->add_flag("--decode", state->decode, "From ids to text");
  app->add_flag("--json", state->json, "Print one JSON document");
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
