// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE tokenizer
#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "engine/error.hpp"
#include "engine/merges.hpp"
#include "engine/pretokenize.hpp"
#include "engine/tokenizer.hpp"
#include "engine/unicode.hpp"

namespace {

namespace fs = std::filesystem;
using neoxref::engine::CharClass;
using neoxref::engine::Error;
using neoxref::engine::MergeTable;
using neoxref::engine::nfc;
using neoxref::engine::StreamDecoder;
using neoxref::engine::Tokenizer;
using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;

fs::path source_dir() {
  const char* folder = std::getenv("NEOXREF_SOURCE_DIR");
  if (folder == nullptr) throw std::runtime_error("NEOXREF_SOURCE_DIR is not set");
  return folder;
}

fs::path fixtures() {
  return source_dir() / "tests/fixtures/tokenizer";
}

std::string read_file(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  BOOST_REQUIRE_MESSAGE(stream, path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

Tokenizer open_named(const std::string& name) {
  const fs::path path =
      name == "mini" ? source_dir() / "datasets/mini/tokenizer.json" : fixtures() / name;
  return Tokenizer::open(path.string());
}

/// A file that is gone when the test ends.
class TemporaryFile {
public:
  explicit TemporaryFile(const std::string& text) {
    static int count = 0;
    std::random_device seed;
    path_ = fs::temp_directory_path() / ("neoxref_tokenizer_" + std::to_string(seed()) + "_" +
                                         std::to_string(count++) + ".json");
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TemporaryFile() { fs::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  [[nodiscard]] std::string path() const { return path_.string(); }

private:
  fs::path path_;
};

Tokenizer open_text(const std::string& text) {
  const TemporaryFile file(text);
  return Tokenizer::open(file.path());
}

/// The error of opening such a file must name it and say `part`.
void check_refused(const std::string& text, const std::string& part) {
  const TemporaryFile file(text);
  try {
    static_cast<void>(Tokenizer::open(file.path()));
    BOOST_ERROR("accepted, though: " << part);
  } catch (const Error& error) {
    const std::string what = error.what();
    BOOST_TEST(what.find(part) != std::string::npos, what << " | lacks: " << part);
    BOOST_TEST(what.find(file.path()) != std::string::npos, what);
  }
}

void check_vector(const Tokenizer& tokenizer, const Json& line) {
  const auto text = line["text"].get<std::string>();
  const auto expected = line["ids"].get<Ids>();
  const Ids ids = tokenizer.encode(text);
  BOOST_TEST(ids == expected, line.dump() << " gives " << Json(ids).dump());
  for (const bool skip : {false, true}) {
    const char* key = skip ? "decoded_skip" : "decoded";
    if (line.contains(key) && line[key].is_null()) continue;
    const std::string decoded = line.value(key, text);
    BOOST_TEST(tokenizer.decode(expected, skip) == decoded, key << " of " << line.dump());
    StreamDecoder stream(tokenizer, skip);
    std::string streamed;
    for (const std::int32_t id : expected) {
      const std::string part = stream.push(id);
      BOOST_TEST(!neoxref::engine::first_invalid_utf8(part), line.dump());
      streamed += part;
    }
    BOOST_TEST(streamed + stream.finish() == decoded, "streamed " << key << " of " << line.dump());
  }
}

BOOST_AUTO_TEST_CASE(library_vectors) {
  std::ifstream lines(fixtures() / "vectors.jsonl");
  std::string text;
  BOOST_REQUIRE(std::getline(lines, text));
  BOOST_TEST(Json::parse(text)["version"] == "0.23.3");
  std::map<std::string, Tokenizer> tokenizers;
  std::map<std::string, int> count;
  while (std::getline(lines, text)) {
    const Json line = Json::parse(text);
    const auto name = line["tokenizer"].get<std::string>();
    auto found = tokenizers.find(name);
    if (found == tokenizers.end()) found = tokenizers.emplace(name, open_named(name)).first;
    check_vector(found->second, line);
    ++count[name];
  }
  BOOST_TEST(count["mini"] > 700);
  BOOST_TEST(count["flags_a.json"] > 200);
  BOOST_TEST(count["flags_b.json"] > 200);
  BOOST_TEST(count["flags_c.json"] > 200);
}

BOOST_AUTO_TEST_CASE(character_classes_everywhere) {
  std::ifstream lines(fixtures() / "classes.txt");
  std::string line;
  std::size_t points = 0;
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::uint32_t first = 0;
    std::uint32_t last = 0;
    std::string kind;
    std::string word;
    fields >> std::hex >> first >> last >> kind >> word;
    const std::map<std::string, CharClass> kinds = {{"L", CharClass::letter},
                                                    {"N", CharClass::number},
                                                    {"S", CharClass::space},
                                                    {"O", CharClass::other}};
    for (std::uint32_t point = first; point <= last; ++point, ++points) {
      if (neoxref::engine::char_class(point) != kinds.at(kind))
        BOOST_ERROR("class of " << std::hex << point << " is not " << kind);
      if (neoxref::engine::is_word(point) != (word == "w"))
        BOOST_ERROR("word character: " << std::hex << point);
    }
  }
  BOOST_TEST(points == 0x110000U - 0x800U);
}

BOOST_AUTO_TEST_CASE(external_strings) {
  const fs::path folder = source_dir() / "../shared/data/tokenizer";
  if (!fs::exists(folder / "strings.jsonl")) {
    std::cout << "SKIP external_strings: the external tokenizer data is not here\n";
    return;
  }
  const Tokenizer tokenizer = Tokenizer::open((folder / "20B_tokenizer.json").string());
  BOOST_TEST(tokenizer.vocab_size() == 50277U);
  BOOST_TEST(tokenizer.id_of("<|endoftext|>").value() == 0);
  std::ifstream lines(folder / "strings.jsonl");
  std::string line;
  int count = 0;
  while (std::getline(lines, line)) {
    const Json vector = Json::parse(line);
    const auto text = vector["text"].get<std::string>();
    const auto expected = vector["ids"].get<Ids>();
    const Ids ids = tokenizer.encode(text);
    BOOST_TEST(ids == expected, line << " gives " << Json(ids).dump());
    BOOST_TEST(tokenizer.decode(ids) == nfc(text).value_or(text), line);
    ++count;
  }
  BOOST_TEST(count == 4367);
}

BOOST_AUTO_TEST_CASE(external_files) {
  const fs::path data = source_dir() / "../shared/data";
  if (!fs::exists(data / "tokenizer/20B_tokenizer.json") || !fs::exists(data / "text")) {
    std::cout << "SKIP external_files: the external tokenizer data is not here\n";
    return;
  }
  const Tokenizer tokenizer = Tokenizer::open((data / "tokenizer/20B_tokenizer.json").string());
  const std::map<std::string, std::string> files = {
      {"wikitext_wikitext-2-raw_wiki.test.raw.u16", "text/wikitext-2-raw/wiki.test.raw"},
      {"books_pg19-test-ids_10146.txt.u16", "text/pg19/10146.txt"},
      {"books_pg19-test-ids_10321.txt.u16", "text/pg19/10321.txt"}};
  for (const auto& [ids_name, text_name] : files) {
    const std::string packed = read_file(data / "tokenizer" / ids_name);
    const std::string text = read_file(data / text_name);
    Ids expected;
    for (std::size_t i = 0; i + 1 < packed.size(); i += 2)
      expected.push_back(static_cast<unsigned char>(packed[i]) |
                         static_cast<unsigned char>(packed[i + 1]) << 8);
    const Ids ids = tokenizer.encode(text);
    BOOST_TEST(ids.size() == expected.size());
    BOOST_TEST((ids == expected), text_name);
    BOOST_TEST((tokenizer.decode(ids) == text), text_name);
  }
}

BOOST_AUTO_TEST_CASE(broken_utf8_is_named_by_its_offset) {
  const Tokenizer tokenizer = open_named("mini");
  const std::vector<std::pair<std::string, std::size_t>> cases = {
      {"\x80", 0},
      {"abc\xff", 3},
      {"\xc3", 0},
      {"ab\xe2\x82", 2},
      {"\xf0\x9f\x98", 0},
      {"x\xc0\xaf", 1},
      {"\xc1\xbf", 0},
      {"x\xe0\x9f\xbf", 1},
      {"\xf0\x8f\xbf\xbf", 0},
      {"12345678\xed\xa0\x80", 8},
      {"\xed\xbf\xbf", 0},
      {"\xf4\x90\x80\x80", 0},
      {"\xf5\x80\x80\x80", 0},
      {"\xc3\xa9\xc3(", 2},
      {std::string(1000, 'a') + "\xfe", 1000}};
  for (const auto& [text, offset] : cases) {
    try {
      static_cast<void>(tokenizer.encode(text));
      BOOST_ERROR("accepted broken UTF-8 at " << offset);
    } catch (const Error& error) {
      const std::string part = "text: byte " + std::to_string(offset) + ": ";
      BOOST_TEST(std::string(error.what()).find(part) == 0U, error.what());
    }
  }
  BOOST_TEST(tokenizer.decode(tokenizer.encode("\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80")) ==
             "\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80");
  const std::string nul("a\0b", 3);
  BOOST_TEST(tokenizer.decode(tokenizer.encode(nul)) == nul);
}

BOOST_AUTO_TEST_CASE(decode_replaces_what_is_not_utf8) {
  const Tokenizer tokenizer = open_named("mini");
  const auto id = [&](int byte) {
    return tokenizer.id_of(neoxref::engine::byte_symbol(static_cast<unsigned char>(byte))).value();
  };
  const std::string mark = "\xef\xbf\xbd";
  const auto decode = [&](const std::vector<int>& bytes) {
    Ids ids;
    for (const int byte : bytes) ids.push_back(id(byte));
    StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const std::int32_t i : ids) streamed += stream.push(i);
    streamed += stream.finish();
    const std::string text = tokenizer.decode(ids);
    BOOST_TEST(streamed == text);
    return text;
  };
  BOOST_TEST(decode({0xe2, 0x82}) == mark);
  BOOST_TEST(decode({0xe2, 0x82, 'a'}) == mark + "a");
  BOOST_TEST(decode({0xf0, 0x9f, 0x98, 0x80}) == "\xf0\x9f\x98\x80");
  BOOST_TEST(decode({0xf0, 0x9f, 0xe2, 0x82, 0xac}) == mark + "\xe2\x82\xac");
  BOOST_TEST(decode({0xed, 0xa0, 0x80}) == mark + mark + mark);
  BOOST_TEST(decode({0x80, 'x', 0xf5}) == mark + "x" + mark);
  for (const std::int32_t bad : {-1, 2048, 1 << 30}) {
    BOOST_CHECK_THROW(static_cast<void>(tokenizer.decode(Ids{bad})), Error);
    BOOST_CHECK_THROW(static_cast<void>(tokenizer.bytes_of(bad)), Error);
  }
}

BOOST_AUTO_TEST_CASE(stream_waits_for_whole_characters) {
  const Tokenizer tokenizer = open_named("mini");
  StreamDecoder stream(tokenizer);
  std::vector<std::string> parts;
  for (const int byte : {0xf0, 0x9f, 0x98, 0x80})
    parts.push_back(stream.push(
        tokenizer.id_of(neoxref::engine::byte_symbol(static_cast<unsigned char>(byte))).value()));
  BOOST_TEST((parts == std::vector<std::string>{"", "", "", "\xf0\x9f\x98\x80"}));
  BOOST_CHECK_THROW(static_cast<void>(stream.push(-1)), Error);
  BOOST_TEST(stream.finish() == "");
}

/// Merging by the book: look through everything for the lowest rank, leftmost.
Ids merge_slowly(const MergeTable& table, Ids ids) {
  while (true) {
    std::size_t best = 0;
    MergeTable::Merge merge;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const MergeTable::Merge here = table.find(ids[i], ids[i + 1]);
      if (here.rank < merge.rank) {
        best = i;
        merge = here;
      }
    }
    if (merge.rank == MergeTable::no_rank) return ids;
    ids[best] = merge.id;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

BOOST_AUTO_TEST_CASE(merges_equal_merging_by_the_book) {
  std::mt19937 random(7);
  for (int round = 0; round < 40; ++round) {
    std::int32_t symbols = 4;
    MergeTable table(60);
    for (std::uint32_t rank = 0; rank < 60; ++rank) {
      const auto pick = [&] {
        return static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(symbols));
      };
      if (table.add(pick(), pick(), {rank, symbols})) ++symbols;
    }
    for (const std::size_t length : {1U, 2U, 3U, 17U, 47U, 48U, 49U, 50U, 200U, 777U}) {
      Ids ids(length);
      for (std::int32_t& id : ids) id = static_cast<std::int32_t>(random() % 4);
      const Ids expected = merge_slowly(table, ids);
      ids.resize(table.apply(ids.data(), ids.size()));
      BOOST_TEST((ids == expected), "round " << round << ", length " << length);
    }
  }
}

// Quadratic work would take hours here, not a second.
BOOST_AUTO_TEST_CASE(long_runs) {
  const Tokenizer tokenizer = open_named("mini");
  const std::size_t million = 1 << 20;
  std::string marks = "a";
  for (std::size_t i = 0; i < million / 4; ++i) marks += "\xcc\x81\xcc\x96";
  for (const std::string& text :
       {std::string(million, 'a'), std::string(million, ' '), std::string(million, '!')}) {
    const Ids ids = tokenizer.encode(text);
    BOOST_TEST((tokenizer.decode(ids) == text));
  }
  const std::string normal = nfc(marks).value();
  BOOST_TEST(normal.size() == marks.size() - 1);  // a with acute is one byte shorter
  BOOST_TEST(normal.substr(0, 4) == "\xc3\xa1\xcc\x96");
  BOOST_TEST((tokenizer.decode(tokenizer.encode(marks)) == normal));
  const Tokenizer flags = open_named("flags_a.json");
  BOOST_TEST(!flags.encode("<m>" + std::string(million, ' ') + "<n>").empty());
}

BOOST_AUTO_TEST_CASE(normal_text_is_not_copied) {
  for (const std::string text :
       {"", "ascii", "caf\xc3\xa9", "\xe4\xb8\xad\xe6\x96\x87", "\xea\xb0\x80\xea\xb0\x81",
        "\xe1\xba\xbf", "\xea\xb0\x80\xe1\x86\xa7"})
    BOOST_TEST(!nfc(text), text);
  BOOST_TEST(nfc("xe\xcc\x81y").value() == "x\xc3\xa9y");
  BOOST_TEST(nfc("\xe2\x84\xab").value() == "\xc3\x85");
  BOOST_TEST(nfc("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8").value() == "\xea\xb0\x81");
}

BOOST_AUTO_TEST_CASE(special_tokens_are_skipped_by_their_flag) {
  const Tokenizer tokenizer = open_named("flags_c.json");
  const std::int32_t special = tokenizer.id_of("cafe\xcc\x81").value();
  BOOST_TEST(tokenizer.is_special(special));
  BOOST_TEST(tokenizer.decode(Ids{special}, true) == "");
}

BOOST_AUTO_TEST_CASE(names_and_bytes) {
  const Tokenizer tokenizer = open_named("mini");
  BOOST_TEST(tokenizer.vocab_size() == 2048U);
  BOOST_TEST(tokenizer.id_of("<|endoftext|>").value() == 0);
  BOOST_TEST(tokenizer.is_special(0));
  BOOST_TEST(!tokenizer.is_special(2));
  BOOST_TEST(!tokenizer.id_of("no such token"));
  BOOST_TEST(tokenizer.bytes_of(tokenizer.id_of("\xc4\xa0the").value()) == " the");
  const Tokenizer flags = open_named("flags_a.json");
  BOOST_TEST(flags.bytes_of(flags.id_of("  ").value()) == "  ");
}

BOOST_AUTO_TEST_CASE(any_thread_may_encode) {
  const Tokenizer tokenizer = open_named("mini");
  const std::string text = "It isn't the same thread, but the same ids. caf\xc3\xa9";
  const Ids expected = tokenizer.encode(text);
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  for (Ids& result : results)
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) result = tokenizer.encode(text);
    });
  for (std::thread& thread : threads) thread.join();
  for (const Ids& result : results) BOOST_TEST(result == expected);
}

BOOST_AUTO_TEST_CASE(harmless_fields_are_accepted) {
  Json file = Json::parse(read_file(fixtures() / "flags_c.json"));
  file["post_processor"] = Json::parse(
      R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}})");
  file["model"]["continuing_subword_prefix"] = "";
  file["model"]["unk_token"] = "<known>";
  file["pre_tokenizer"].erase("use_regex");
  const Tokenizer tokenizer = open_text(file.dump());
  BOOST_TEST(tokenizer.decode(tokenizer.encode(" the end")) == " the end");
}

BOOST_AUTO_TEST_CASE(what_is_not_understood_is_refused) {
  const std::string good = read_file(fixtures() / "flags_a.json");
  const auto with = [&](const std::string& pointer, Json value) {
    Json file = Json::parse(good);
    file[Json::json_pointer(pointer)] = std::move(value);
    return file.dump();
  };
  const auto without = [&](const std::string& parent, const std::string& field) {
    Json file = Json::parse(good);
    file[Json::json_pointer(parent)].erase(field);
    return file.dump();
  };
  static_cast<void>(open_text(good));

  check_refused(with("/normalizer/type", "NFKC"),
                "normalizer.type: is not supported (expected NFC");
  check_refused(with("/normalizer/left", true), "normalizer.left: is not understood");
  check_refused(with("/pre_tokenizer/type", "Whitespace"), "pre_tokenizer.type: is not supported");
  check_refused(with("/pre_tokenizer", nullptr), "pre_tokenizer: is missing");
  check_refused(with("/pre_tokenizer/use_regex", 1), "use_regex: is not true or false");
  check_refused(without("/pre_tokenizer", "add_prefix_space"), "add_prefix_space: is missing");
  check_refused(with("/decoder", nullptr), "decoder: is missing");
  check_refused(with("/decoder/type", "WordPiece"), "decoder.type: is not supported");
  check_refused(with("/post_processor", {{"type", "BertProcessing"}}), "post_processor.type");
  check_refused(with("/post_processor", Json::parse(R"({"type":"TemplateProcessing","single":[
                       {"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}]})")),
                "post_processor.single: adds tokens");
  check_refused(with("/truncation", Json::object()), "truncation: is not supported");
  check_refused(with("/padding", Json::object()), "padding: is not supported");
  check_refused(with("/version", "2.0"), "version: is not supported");
  check_refused(with("/extra", 1), "extra: is not understood");
  check_refused(with("/model/type", "WordPiece"), "model.type: is not supported");
  check_refused(with("/model/dropout", 0.1), "model.dropout: is not supported");
  check_refused(with("/model/byte_fallback", true), "model.byte_fallback: is not supported");
  check_refused(with("/model/ignore_merges", true), "model.ignore_merges: is not supported");
  check_refused(with("/model/continuing_subword_prefix", "##"), "continuing_subword_prefix");
  check_refused(with("/model/end_of_word_suffix", "</w>"), "end_of_word_suffix");
  check_refused(with("/model/other", 1), "model.other: is not understood");
  check_refused(without("", "model"), "model: is missing");
  check_refused(without("/model", "vocab"), "model.vocab: is missing");
  check_refused(without("/model", "merges"), "model.merges: is missing");
  check_refused(with("/added_tokens", 3), "added_tokens: is not an array");
  check_refused(with("/added_tokens/0/lstrip", nullptr), "added_tokens[0].lstrip: is missing");
  check_refused(with("/added_tokens/0/bold", true), "added_tokens[0].bold: is not understood");
  check_refused(with("/added_tokens/0/content", ""), "added_tokens[0].content: is empty");
  check_refused(with("/added_tokens/0/content", std::string(1025, 'x')), "content: is too long");
}

BOOST_AUTO_TEST_CASE(contradictions_are_refused) {
  const std::string good = read_file(fixtures() / "flags_a.json");
  const auto changed = [&](const std::function<void(Json&)>& change) {
    Json file = Json::parse(good);
    change(file);
    return file.dump();
  };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    BOOST_REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
  };
  const auto vocab = [&](const char* token, Json id) {
    return changed([&](Json& file) { file["model"]["vocab"][token] = std::move(id); });
  };
  const auto merge = [&](Json entry) {
    return changed([&](Json& file) { file["model"]["merges"].push_back(std::move(entry)); });
  };
  const auto added_id = [&](std::size_t index, Json id) {
    return changed([&](Json& file) { file["added_tokens"][index]["id"] = std::move(id); });
  };
  check_refused(vocab("a", 5), "id is given twice");
  check_refused(vocab("a", 100000), "id is out of range");
  check_refused(vocab("a", -1), "model.vocab[\"a\"]: id is negative");
  check_refused(vocab("a", std::uint64_t{1} << 40), "id does not fit 31 bits");
  check_refused(vocab("a", "7"), "model.vocab[\"a\"]: is not an id");
  check_refused(vocab("a", Json::array()), "model.vocab[\"a\"]: is not an id");
  check_refused(vocab("a", Json::object()), "model.vocab[\"a\"]: is not an id");
  check_refused(replaced("\"vocab\":{", "\"vocab\":{\"a\":64,"), "twice");
  check_refused(replaced("\"dropout\":null", "\"dropout\":null,\"dropout\":null"),
                "field \"dropout\" stands there twice");
  check_refused(merge(Json::array({"a", "nothing"})),
                "a token is not in the vocabulary (found nothing)");
  check_refused(merge(Json::array({"t", "z"})), "a token is not in the vocabulary (found tz)");
  check_refused(merge(Json::array({"a", "b"})), "stands there twice");
  check_refused(merge(Json::array({"a"})), "is not a pair");
  check_refused(merge(Json::array({"a", "b", "c"})), "is not a pair");
  check_refused(merge("ab"), "is not a pair");
  check_refused(merge("a b c"), "is not a pair");
  check_refused(merge(7), "is not a pair");
  check_refused(merge(Json::object()), "is not a pair");
  check_refused(merge(Json::array({Json::array({"a"}), "b"})), "is not a pair");
  check_refused(added_id(0, 3), "is not the token's id in the vocabulary");
  check_refused(added_id(4, 100000), "is not the next free id");
  check_refused(added_id(1, -4), "added_tokens[1].id: is not an id");
  check_refused(
      changed([](Json& file) { file["added_tokens"].push_back(file["added_tokens"][1]); }),
      "stands there twice");
  check_refused(changed([](Json& file) {
                  Json apart = file["added_tokens"].back();
                  apart["id"] = apart["id"].get<int>() + 1;
                  apart["content"] = "cafe\xcc\x81";
                  apart["normalized"] = true;
                  file["added_tokens"].push_back(apart);
                }),
                "looks for the same text as another added token");
  check_refused(changed([](Json& file) {
                  Json& words = file["model"]["vocab"];
                  words["zebra"] = words["q"];
                  words.erase("q");
                }),
                "has no token for a byte (found 0x71)");
}

BOOST_AUTO_TEST_CASE(malformed_files_are_refused) {
  const std::string good = read_file(fixtures() / "flags_a.json");
  check_refused("", "JSON");
  check_refused("{", "JSON");
  check_refused("[]", "is not a JSON object");
  check_refused("3", "is not a JSON object");
  check_refused(good + "x", "JSON");
  check_refused(good.substr(0, good.size() / 2), "JSON");
  check_refused("{\"version\":\"\xff\"}", "JSON");
  check_refused(R"({"version":"\ud800"})", "JSON");
  check_refused(R"({"extra":)" + std::string(100000, '[') + std::string(100000, ']') + "}",
                "is nested too deep");
  BOOST_CHECK_THROW(static_cast<void>(Tokenizer::open("/no/such/tokenizer.json")), Error);
  BOOST_CHECK_THROW(static_cast<void>(Tokenizer::open(fixtures().string())), Error);
  // No beginning of a good file is good, and none does worse than Error.
  for (std::size_t size = 0; size < good.size() - 2; size += 37)
    BOOST_CHECK_THROW(static_cast<void>(open_text(good.substr(0, size))), Error);
}

}  // namespace
