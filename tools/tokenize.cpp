// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/error.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;

struct TokenizeCommand {
  Common common;
  std::optional<std::string> text;
  std::optional<std::string> file;
  std::optional<std::string> jsonl;
  bool decode = false;

  Exit operator()() const {
    if ((text ? 1 : 0) + (file ? 1 : 0) + (jsonl ? 1 : 0) != 1) {
      throw UsageError("expected exactly one of --text, --file and --jsonl");
    }
    if (jsonl && common.json) {
      throw UsageError("--jsonl prints one document per line (expected no --json)");
    }
    std::error_code ignored;
    const std::string& source = common.model;
    const engine::Tokenizer tokenizer =
        source != "mini" && std::filesystem::is_regular_file(source, ignored)
            ? engine::Tokenizer::open(source)
            : load_tokenizer(source);
    if (jsonl) return lines(tokenizer);
    const std::string where = text ? "--text" : *file;
    const std::string input = text ? *text : read_file(*file);
    try {
      if (decode) {
        const bool blank = input.find_first_not_of(" \r\n") == input.npos;
        const std::string decoded =
            blank ? std::string{} : tokenizer.decode(parse_ids(input, "ids"));
        common.json ? print_json({{"text", decoded}}) : print(decoded);
      } else {
        const std::vector<std::int32_t> ids = tokenizer.encode(input);
        common.json ? print_json({{"ids", ids}}) : print(fmt::format("{}\n", fmt::join(ids, ",")));
      }
    } catch (const engine::Error& error) {
      throw engine::Error(where, error.what());
    }
    return Exit::ok;
  }

  /// One {"ids": [...]} for each {"text": ...}, or the other way round.
  Exit lines(const engine::Tokenizer& tokenizer) const {
    std::istringstream input(read_file(*jsonl));
    std::string line;
    for (std::size_t number = 1; std::getline(input, line); ++number) {
      const std::string where = *jsonl + ": line " + std::to_string(number);
      const Json record = Json::parse(line, nullptr, false);
      if (!record.is_object()) throw engine::Error(where, "is not a JSON object", "", line);
      Json answer;
      try {
        if (decode) {
          answer["text"] = tokenizer.decode(ids_of(record, where));
        } else {
          answer["ids"] = tokenizer.encode(text_of(record, where));
        }
      } catch (const engine::Error& error) {
        const std::string_view problem = error.what();
        if (problem.starts_with(where)) throw;
        throw engine::Error(where, problem);
      }
      print(answer.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
    }
    return Exit::ok;
  }

  static std::string text_of(const Json& record, const std::string& where) {
    const auto field = record.find("text");
    if (field == record.end() || !field->is_string()) {
      throw engine::Error(where, "field \"text\" is not usable", "a string", found(record, field));
    }
    return field->get<std::string>();
  }

  static std::vector<std::int32_t> ids_of(const Json& record, const std::string& where) {
    const auto field = record.find("ids");
    if (field == record.end() || !field->is_array()) {
      throw engine::Error(where, "field \"ids\" is not usable", "an array of token ids",
                          found(record, field));
    }
    std::vector<std::int32_t> ids;
    for (const Json& id : *field) {
      // A number above the largest std::int64_t is unsigned here, and is_number_integer() too.
      if (!id.is_number_integer() || id > std::numeric_limits<std::int32_t>::max() || id < 0) {
        throw engine::Error(where, "field \"ids\" is not usable", "an array of token ids",
                            id.dump(-1, ' ', false, Json::error_handler_t::replace));
      }
      ids.push_back(id.get<std::int32_t>());
    }
    return ids;
  }

  static std::string found(const Json& record, Json::const_iterator field) {
    if (field == record.end()) return "no such field";
    return field->dump(-1, ' ', false, Json::error_handler_t::replace);
  }
};

}  // namespace

Command add_tokenize(CommandLine program) {
  auto state = std::make_shared<TokenizeCommand>();
  const CommandLine app =
      program.add_subcommand("tokenize", "Text to token ids, or back",
                             "MODEL may also be one tokenizer.json.\n"
                             "Example: neoxref tokenize mini --text \"Hello world\"");
  state->common.add_to(app);
  app.add_text("--text", state->text, "TEXT", "A text; with --decode: ids with commas between");
  app.add_text("--file", state->file, "FILE", "A file with the same (-: standard input)");
  app.add_text("--jsonl", state->jsonl, "FILE",
               "For each line {\"text\": ...} one line {\"ids\": [...]}");
  app.add_flag("--decode", state->decode, "From ids to text");
  return [state] { return (*state)(); };
}

}  // namespace neoxref::tools
