// SPDX-License-Identifier: Apache-2.0
#include "engine/tokenizer_file.hpp"

#include <initializer_list>
#include <limits>
#include <optional>
#include <utility>

#include "engine/error.hpp"
#include "engine/json.hpp"
#include "engine/mapped_file.hpp"

namespace neoxref::engine {
namespace {

using Json = nlohmann::json;

constexpr std::size_t largest_file = std::size_t{256} << 20;
constexpr std::size_t deepest = 64;
constexpr std::size_t longest_added_token = 1024;

/// Takes the vocabulary and the merges straight into their lists and everything else into a small
/// document: twice as fast as one document of all, and a repeated key cannot hide.
class Reader final : public JsonEvents {
public:
  Reader(std::string path, TokenizerFile& file) : path_(std::move(path)), file_(file) {}

  [[nodiscard]] const Json& document() const noexcept { return document_; }
  [[nodiscard]] bool has_vocab() const noexcept { return has_vocab_; }
  [[nodiscard]] bool has_merges() const noexcept { return has_merges_; }

  bool null() override { return value(Json()); }
  bool boolean(bool b) override { return value(Json(b)); }
  bool number_float(double number, const std::string&) override { return value(Json(number)); }
  bool binary(Json::binary_t&) override { return false; }

  bool number_integer(std::int64_t number) override {
    if (part_ == Part::vocab)
      throw Error(vocab_entry(), "id is negative", {}, std::to_string(number));
    return value(Json(number));
  }

  bool number_unsigned(std::uint64_t number) override {
    if (part_ != Part::vocab) return value(Json(number));
    if (number > std::numeric_limits<std::int32_t>::max())
      throw Error(vocab_entry(), "id does not fit 31 bits", {}, std::to_string(number));
    file_.ids.push_back(static_cast<std::int64_t>(number));
    return true;
  }

  bool string(std::string& text) override {
    if (part_ == Part::merges) {
      const std::size_t blank = text.find(' ');
      if (blank == std::string::npos || text.find(' ', blank + 1) != std::string::npos)
        throw Error(merge_entry(), "is not a pair", "two tokens with one blank between", text);
      file_.merges.push_back(std::string_view(text).substr(0, blank));
      file_.merges.push_back(std::string_view(text).substr(blank + 1));
      return true;
    }
    if (part_ == Part::pair) {
      file_.merges.push_back(text);
      ++pair_parts_;
      return true;
    }
    return value(Json(text));
  }

  bool key(std::string& text) override {
    if (part_ == Part::vocab) {
      file_.tokens.push_back(text);
      return true;
    }
    Json& object = *open_.back();
    if (object.contains(text)) throw Error(path_, "field \"" + text + "\" stands there twice");
    slot_ = &object[text];
    key_ = text;
    return true;
  }

  bool start_object(std::size_t) override {
    if (in_model("vocab")) {
      part_ = Part::vocab;
      has_vocab_ = true;
      return true;
    }
    return open(Json::object());
  }

  bool end_object() override {
    if (part_ == Part::vocab)
      part_ = Part::rest;
    else
      open_.pop_back();
    return true;
  }

  bool start_array(std::size_t) override {
    if (part_ == Part::merges) {
      part_ = Part::pair;
      pair_parts_ = 0;
      return true;
    }
    if (in_model("merges")) {
      part_ = Part::merges;
      has_merges_ = true;
      return true;
    }
    return open(Json::array());
  }

  bool end_array() override {
    if (part_ == Part::pair) {
      if (pair_parts_ != 2)
        throw Error(merge_entry(), "is not a pair", "2 tokens", std::to_string(pair_parts_));
      part_ = Part::merges;
    } else if (part_ == Part::merges) {
      part_ = Part::rest;
    } else {
      open_.pop_back();
    }
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const Json::exception&) override {
    return false;  // read_json reports it
  }

private:
  enum class Part { rest, vocab, merges, pair };

  [[nodiscard]] std::string vocab_entry() const {
    return path_ + ": model.vocab[\"" + std::string(file_.tokens[file_.tokens.size() - 1]) + "\"]";
  }
  [[nodiscard]] std::string merge_entry() const {
    return path_ + ": model.merges[" + std::to_string(file_.merges.size() / 2) + "]";
  }

  [[nodiscard]] bool in_model(std::string_view field) const {
    return part_ == Part::rest && open_.size() == 2 && key_ == field && slot_ != nullptr &&
           open_.back() == model_;
  }

  bool value(Json&& leaf) {
    if (part_ == Part::vocab) throw Error(vocab_entry(), "is not an id", "a whole number");
    if (part_ != Part::rest) throw Error(merge_entry(), "is not a pair of tokens");
    place(std::move(leaf));
    return true;
  }

  Json* place(Json&& leaf) {
    if (open_.empty()) {
      document_ = std::move(leaf);
      return &document_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(leaf));
      return &open_.back()->back();
    }
    *slot_ = std::move(leaf);
    return std::exchange(slot_, nullptr);
  }

  bool open(Json&& container) {
    if (part_ == Part::vocab) throw Error(vocab_entry(), "is not an id", "a whole number");
    if (part_ != Part::rest) throw Error(merge_entry(), "is not a pair of tokens");
    if (open_.size() == deepest) throw Error(path_, "is nested too deep", std::to_string(deepest));
    const bool is_model = open_.size() == 1 && slot_ != nullptr && key_ == "model";
    open_.push_back(place(std::move(container)));
    if (is_model) model_ = open_.back();
    return true;
  }

  std::string path_;
  TokenizerFile& file_;
  Json document_;
  std::vector<Json*> open_;  // containers not yet closed; siblings are added only to the last
  Json* slot_ = nullptr;     // the value of the key just read
  Json* model_ = nullptr;
  std::string key_;
  Part part_ = Part::rest;
  int pair_parts_ = 0;
  bool has_vocab_ = false;
  bool has_merges_ = false;
};

/// An object of the file, with the place it stands at.
struct Section {
  const Json& json;
  std::string where;

  [[nodiscard]] std::string at(std::string_view field) const {
    return where + (where.ends_with(": ") ? "" : ".") + std::string(field);
  }

  void allow_only(std::initializer_list<std::string_view> fields) const {
    for (const auto& [name, unused] : json.items()) {
      bool known = false;
      for (const std::string_view field : fields) known = known || field == name;
      if (!known) throw Error(at(name), "is not understood");
    }
  }

  [[nodiscard]] const Json* find(std::string_view field) const {
    const auto found = json.find(field);
    return found == json.end() || found->is_null() ? nullptr : &*found;
  }

  [[nodiscard]] Section section(std::string_view field) const {
    const Json* value = find(field);
    if (value == nullptr) throw Error(at(field), "is missing");
    if (!value->is_object()) throw Error(at(field), "is not an object", {}, value->type_name());
    return {*value, at(field)};
  }

  [[nodiscard]] std::string text(std::string_view field) const {
    const Json* value = find(field);
    if (value == nullptr) throw Error(at(field), "is missing");
    if (!value->is_string()) throw Error(at(field), "is not a string", {}, value->dump());
    return value->get<std::string>();
  }

  [[nodiscard]] bool flag(std::string_view field, std::optional<bool> absent = {}) const {
    const Json* value = find(field);
    if (value == nullptr && absent) return *absent;
    if (value == nullptr) throw Error(at(field), "is missing");
    if (!value->is_boolean()) throw Error(at(field), "is not true or false", {}, value->dump());
    return value->get<bool>();
  }

  void require_null(std::string_view field) const {
    const Json* value = find(field);
    if (value != nullptr) throw Error(at(field), "is not supported", "null", value->dump());
  }

  void require_type(std::string_view expected) const {
    const std::string found = text("type");
    if (found != expected) throw Error(at("type"), "is not supported", expected, found);
  }
};

void check_byte_level(const Section& section) {
  section.require_type("ByteLevel");
  section.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
}

void check_post_processor(const Section& section) {
  const std::string type = section.text("type");
  if (type == "ByteLevel") return check_byte_level(section);
  // Newer files hold a template even when it adds nothing: the text alone.
  if (type != "TemplateProcessing")
    throw Error(section.at("type"), "is not supported", "ByteLevel or TemplateProcessing", type);
  const Json* single = section.find("single");
  const bool only_text = single != nullptr && single->is_array() && single->size() == 1 &&
                         single->front().is_object() && single->front().contains("Sequence");
  if (!only_text) throw Error(section.at("single"), "adds tokens, which is not supported");
}

AddedToken read_added_token(const Section& section) {
  section.allow_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  AddedToken token;
  const Json* id = section.find("id");
  if (id == nullptr) throw Error(section.at("id"), "is missing");
  if (!id->is_number_unsigned() ||
      id->get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max())
    throw Error(section.at("id"), "is not an id", "a whole number below 2^31", id->dump());
  token.id = id->get<std::int32_t>();
  token.content = section.text("content");
  if (token.content.empty()) throw Error(section.at("content"), "is empty");
  if (token.content.size() > longest_added_token)
    throw Error(section.at("content"), "is too long",
                std::to_string(longest_added_token) + " bytes",
                std::to_string(token.content.size()));
  token.single_word = section.flag("single_word");
  token.lstrip = section.flag("lstrip");
  token.rstrip = section.flag("rstrip");
  token.normalized = section.flag("normalized");
  token.special = section.flag("special");
  return token;
}

void check_model(const Section& model) {
  model.require_type("BPE");
  model.allow_only({"type", "dropout", "unk_token", "continuing_subword_prefix",
                    "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab",
                    "merges"});
  model.require_null("dropout");
  for (const std::string_view field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json* value = model.find(field);
    if (value != nullptr && (!value->is_string() || !value->get_ref<const std::string&>().empty()))
      throw Error(model.at(field), "is not supported", "null", value->dump());
  }
  // unk_token and fuse_unk say nothing here: no byte of a text is unknown.
  for (const std::string_view field : {"byte_fallback", "ignore_merges"})
    if (model.flag(field, false)) throw Error(model.at(field), "is not supported", "false", "true");
}

void interpret(const Section& root, TokenizerFile& file) {
  root.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer",
                   "pre_tokenizer", "post_processor", "decoder", "model"});
  if (root.find("version") != nullptr && root.text("version") != "1.0")
    throw Error(root.at("version"), "is not supported", "1.0", root.text("version"));
  root.require_null("truncation");
  root.require_null("padding");

  check_model(root.section("model"));
  if (root.find("normalizer") != nullptr) {
    const Section normalizer = root.section("normalizer");
    normalizer.require_type("NFC");
    normalizer.allow_only({"type"});
    file.nfc = true;
  }
  const Section pre_tokenizer = root.section("pre_tokenizer");
  check_byte_level(pre_tokenizer);
  file.add_prefix_space = pre_tokenizer.flag("add_prefix_space");
  file.use_regex = pre_tokenizer.flag("use_regex", true);
  if (root.find("post_processor") != nullptr) check_post_processor(root.section("post_processor"));
  check_byte_level(root.section("decoder"));

  const Json* added = root.find("added_tokens");
  if (added == nullptr) return;
  if (!added->is_array()) throw Error(root.at("added_tokens"), "is not an array");
  for (std::size_t i = 0; i < added->size(); ++i) {
    const std::string where = root.at("added_tokens") + "[" + std::to_string(i) + "]";
    if (!(*added)[i].is_object()) throw Error(where, "is not an object");
    file.added.push_back(read_added_token({(*added)[i], where}));
  }
}

}  // namespace

void StringList::push_back(std::string_view text) {
  bytes_.append(text);
  ends_.push_back(bytes_.size());
}

std::string_view StringList::operator[](std::size_t index) const noexcept {
  const std::size_t begin = index == 0 ? 0 : ends_[index - 1];
  return std::string_view(bytes_).substr(begin, ends_[index] - begin);
}

TokenizerFile read_tokenizer_file(const std::string& path) {
  const MappedFile mapped(path);
  const std::string_view text = mapped.text();
  if (text.size() > largest_file)
    throw Error(path, "is too large for a tokenizer", std::to_string(largest_file) + " bytes",
                std::to_string(text.size()));
  TokenizerFile file;
  Reader reader(path, file);
  read_json(text, path, reader);
  if (!reader.document().is_object()) throw Error(path, "is not a JSON object");
  interpret({reader.document(), path + ": "}, file);
  if (!reader.has_vocab()) throw Error(path + ": model.vocab", "is missing or not an object");
  if (!reader.has_merges()) throw Error(path + ": model.merges", "is missing or not an array");
  return file;
}

}  // namespace neoxref::engine
