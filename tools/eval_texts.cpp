// SPDX-License-Identifier: Apache-2.0
#include "tools/eval_texts.hpp"

#include <glob.h>

#include <filesystem>
#include <iterator>

#include "datasets/lambada.hpp"
#include "datasets/reader.hpp"
#include "engine/error.hpp"
#include "engine/model_path.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

namespace fs = std::filesystem;
using datasets::Document;

/// The files of a pattern in byte order; a name that exists is no pattern.
std::vector<std::string> expand(const std::string& pattern) {
  std::error_code ignored;
  const bool plain = pattern.find_first_of("*?[") == std::string::npos;
  if (plain || fs::exists(pattern, ignored)) return {pattern};
  glob_t found{};
  const int status = glob(pattern.c_str(), 0, nullptr, &found);
  std::vector<std::string> files(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  if (status != 0) throw engine::Error(pattern, "no file matches");
  return files;
}

/// Appends a piece of text with the bytes of each token and the words that begin in it.
class Encoder {
public:
  Encoder(const engine::Tokenizer& tokenizer, eval::Text& text)
      : tokenizer_(tokenizer), text_(text) {}

  void add(const std::string& piece) {
    std::vector<std::int32_t> ids;
    try {
      ids = tokenizer_.encode(piece);
    } catch (const engine::Error& error) {
      throw engine::Error(text_.name, error.what());
    }
    for (const std::int32_t id : ids) {
      const std::string_view bytes = tokenizer_.bytes_of(id);
      std::uint32_t words = 0;
      for (const char c : bytes) {
        const bool blank = c == ' ' || (c >= '\t' && c <= '\r');
        if (behind_blank_ && !blank) ++words;
        behind_blank_ = blank;
      }
      text_.tokens.push_back(id);
      text_.bytes.push_back(static_cast<std::uint32_t>(bytes.size()));
      text_.word_starts.push_back(words);
    }
  }

private:
  const engine::Tokenizer& tokenizer_;
  eval::Text& text_;
  bool behind_blank_ = true;
};

std::vector<eval::Text> read_items(const std::vector<std::string>& files,
                                   const engine::Tokenizer& tokenizer) {
  std::vector<eval::Text> texts;
  for (const std::string& file : files) {
    for (const datasets::Item& item : datasets::read_lambada(file)) {
      eval::Text text;
      text.name = item.name;
      Encoder encoder(tokenizer, text);
      encoder.add(item.context);
      text.target = text.tokens.size();
      encoder.add(item.target);
      texts.push_back(std::move(text));
    }
  }
  return texts;
}

std::string bad_dataset(const std::string& name) {
  const bool known =
      name == "wikitext" || name == "pg19" || (name.starts_with("jsonl:") && name.size() > 6);
  return known ? std::string{} : "expected wikitext, pg19 or jsonl:PATH, found " + name;
}

}  // namespace

void TextOptions::add_to(CommandLine app) {
  app.add_option("--text", files,
                 "Text files or patterns such as 'books/*.txt', after\nMODEL (default: the two "
                 "excerpts that come with mini)")
      .type_name("FILE");
  app.add_option("--dataset", dataset,
                 "Read the files of --text as wikitext or pg19 (these may\nbe folders), or the "
                 "texts of jsonl:PATH")
      .type_name("NAME")
      .check(bad_dataset);
  app.add_text("--unit", unit, "NAME",
               "With --dataset wikitext: article or paragraph\n(default: article)")
      .one_of({"article", "paragraph"});
}

void TextOptions::add_task_to(CommandLine app) {
  app.add_option("--task", task,
                 "lambada: predict the last word of each item; --text\nnames files of JSON lines "
                 "with a field \"text\"")
      .type_name("NAME")
      .one_of({"lambada"});
}

std::string TextOptions::text() const {
  if (!task.empty()) return "task " + task;
  if (dataset.empty()) return "plain texts";
  return "dataset " + dataset + (dataset == "wikitext" ? ", unit " + unit.value_or("article") : "");
}

std::vector<eval::Text> TextOptions::read(const engine::Tokenizer& tokenizer) const {
  if (unit && dataset != "wikitext") throw UsageError("--unit: needs --dataset wikitext");
  if (!task.empty() && (!dataset.empty() || files.empty())) {
    throw UsageError("--task lambada: needs --text with its files, and no --dataset");
  }
  const bool lists_itself = dataset.starts_with("jsonl:");
  if (lists_itself && !files.empty()) {
    throw UsageError("--dataset jsonl:PATH: has its own texts (expected no --text)");
  }
  std::vector<std::string> paths;
  for (const std::string& pattern : files) {
    const std::vector<std::string> more = expand(pattern);
    paths.insert(paths.end(), more.begin(), more.end());
  }
  if (files.empty() && !lists_itself) {
    const fs::path excerpts = engine::resolve_model("mini").parent_path() / "texts";
    if (dataset != "pg19") paths.push_back((excerpts / "wikitext2_test_excerpt.txt").string());
    if (dataset != "wikitext") paths.push_back((excerpts / "pg19_10146_excerpt.txt").string());
  }
  if (!task.empty()) return read_items(paths, tokenizer);
  std::vector<Document> documents;
  const auto append = [&](std::vector<Document> more) {
    std::move(more.begin(), more.end(), std::back_inserter(documents));
  };
  if (lists_itself) append(datasets::read_jsonl(dataset.substr(6)));
  for (const std::string& file : paths) {
    if (dataset == "wikitext") {
      append(datasets::read_wikitext(file, unit == "paragraph" ? datasets::WikitextUnit::paragraph
                                                               : datasets::WikitextUnit::article));
    } else if (dataset == "pg19") {
      append(datasets::read_pg19(file));
    } else {
      documents.push_back(datasets::read_plain(file));
    }
  }
  std::vector<eval::Text> texts;
  for (const Document& document : documents) {
    texts.emplace_back();
    texts.back().name = document.name;
    Encoder(tokenizer, texts.back()).add(document.text);
  }
  return texts;
}

}  // namespace neoxref::tools
