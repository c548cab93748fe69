// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE safetensors
#include "engine/safetensors.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/error.hpp"
#include "engine/json.hpp"
#include "tests/folder.hpp"

namespace {

using namespace neoxref::engine;
namespace fs = std::filesystem;
using neoxref::tests::source_dir;
using neoxref::tests::TemporaryFolder;
using Bytes = std::vector<std::byte>;

fs::path fixtures() {
  return source_dir() / "tests" / "fixtures" / "malformed";
}

Bytes file_of(std::string_view header, std::size_t data_bytes = 0) {
  Bytes bytes(8 + header.size() + data_bytes);
  const std::uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

/// The message of the refusal; "" when the file is accepted.
std::string refusal(const Bytes& bytes) {
  try {
    parse_safetensors(bytes, "file");
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

std::string refusal(std::string_view header, std::size_t data_bytes = 0) {
  return refusal(file_of(header, data_bytes));
}

void check_refused(std::string_view header, std::size_t data_bytes, std::string_view part) {
  const std::string message = refusal(header, data_bytes);
  BOOST_CHECK_MESSAGE(message.find(part) != message.npos,
                      header.substr(0, 200) << " -> '" << message << "', wanted '" << part << "'");
  BOOST_CHECK(message.starts_with("file"));
  BOOST_CHECK(message.find('\n') == message.npos);
}

Bytes read_bytes(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  Bytes bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

nlohmann::json manifest() {
  const Bytes text = read_bytes(fixtures() / "MANIFEST.json");
  return parse_json({reinterpret_cast<const char*>(text.data()), text.size()}, "MANIFEST.json",
                    1 << 20, 8);
}

/// What an accepted file promises: the tensors tile the data, each as long as its shape says.
void check_promises(const SafetensorsContents& contents, const Bytes& bytes) {
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  const std::byte* next = bytes.data() + 8 + header;
  for (const TensorView& tensor : contents.tensors) {
    BOOST_REQUIRE(tensor.bytes.data() == next);
    next += tensor.bytes.size();
    if (tensor.dtype == "F32") BOOST_REQUIRE_EQUAL(tensor.bytes.size(), 4 * tensor.elements());
    if (tensor.dtype == "U8") BOOST_REQUIRE_EQUAL(tensor.bytes.size(), tensor.elements());
  }
  BOOST_REQUIRE(next == bytes.data() + bytes.size());
}

const std::string one_float = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";

}  // namespace

// Files of the manifest that are refused although the library takes them, each with the reason.
// Empty: on these files being stricter was nowhere needed.
static const std::map<std::string, std::string> stricter_than_manifest = {};

BOOST_AUTO_TEST_CASE(every_file_of_the_manifest_gets_its_verdict) {
  const auto entries = manifest();
  BOOST_REQUIRE_GE(entries.size(), 40U);
  std::size_t accepted = 0;
  for (const auto& entry : entries) {
    const std::string name = entry.at("file");
    const fs::path path = fixtures() / name;
    BOOST_TEST_CONTEXT(name) {
      BOOST_REQUIRE_EQUAL(fs::file_size(path), entry.at("bytes").get<std::size_t>());
      const bool wanted =
          entry.at("safetensors_0_8_0") == "accept" && !stricter_than_manifest.contains(name);
      if (!wanted) {
        BOOST_CHECK_EXCEPTION(Safetensors::open(path), Error, [&](const Error& error) {
          const std::string message = error.what();
          return message.starts_with(path.native() + ": ") && message.size() < 1500 &&
                 std::none_of(message.begin(), message.end(),
                              [](char c) { return static_cast<unsigned char>(c) < 0x20; });
        });
        continue;
      }
      ++accepted;
      const Safetensors file = Safetensors::open(path);
      std::vector<std::string> names;
      for (const TensorView& tensor : file.tensors()) {
        names.push_back(tensor.name);
        BOOST_CHECK_EQUAL(file.find(tensor.name), &tensor);
        BOOST_CHECK_EQUAL(tensor.file, &file.file());
      }
      std::sort(names.begin(), names.end());
      auto keys = entry.at("keys").get<std::vector<std::string>>();
      std::sort(keys.begin(), keys.end());
      BOOST_CHECK_EQUAL_COLLECTIONS(names.begin(), names.end(), keys.begin(), keys.end());
      const auto& metadata = entry.at("metadata");
      BOOST_CHECK(nlohmann::json(file.metadata()) ==
                  (metadata.is_null() ? nlohmann::json::object() : metadata));
    }
  }
  BOOST_CHECK_GE(accepted, 15U);
}

BOOST_AUTO_TEST_CASE(a_file_on_disk_is_seen_without_copies_and_survives_moves) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "two.safetensors";
  Bytes bytes = file_of(
      R"({"b":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]},)"
      R"("__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
      8);
  bytes.back() = std::byte{0x3c};
  {
    std::ofstream stream(path, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
  }
  Safetensors first = Safetensors::open(path);
  const std::byte* data = first.file().bytes().data();
  const Safetensors file = std::move(first);
  BOOST_REQUIRE_EQUAL(file.tensors().size(), 2U);
  BOOST_CHECK_EQUAL(file.tensors()[0].name, "a");
  BOOST_CHECK_EQUAL(file.tensors()[0].elements(), 1U);
  const TensorView* b = file.find("b");
  BOOST_REQUIRE(b != nullptr);
  BOOST_CHECK(b->shape == (std::vector<std::uint64_t>{2, 1}));
  BOOST_CHECK(b->bytes.data() == data + bytes.size() - 4);
  BOOST_CHECK(b->bytes.back() == std::byte{0x3c});
  BOOST_CHECK_EQUAL(b->place(), path.native() + ": tensor 'b'");
  BOOST_CHECK(file.find("c") == nullptr);
  BOOST_CHECK_EQUAL(file.metadata().at("format"), "pt");
}

BOOST_AUTO_TEST_CASE(mapped_files) {
  const TemporaryFolder folder;
  const auto check_error = [](const fs::path& path, std::string_view part) {
    BOOST_CHECK_EXCEPTION(MappedFile{path}, Error, [&](const Error& error) {
      const std::string message = error.what();
      return message.starts_with(path.native()) && message.find(part) != message.npos;
    });
  };
  check_error(folder.path() / "missing", "No such file");
  check_error(folder.path(), "a folder");
  const fs::path pipe = folder.path() / "pipe";
  BOOST_REQUIRE_EQUAL(::mkfifo(pipe.c_str(), 0600), 0);
  check_error(pipe, "a special file");
  check_error("/dev/zero", "a special file");

  const fs::path empty = folder.path() / "empty";
  std::ofstream(empty).close();
  const MappedFile nothing(empty);
  BOOST_CHECK(nothing.bytes().empty());
  BOOST_CHECK(nothing.text().empty());
  nothing.advise_sequential();
  nothing.dont_need(nothing.bytes());

  const fs::path large = folder.path() / "large";
  const std::string text = std::string(50'000, 'x') + std::string(50'001, 'y');
  std::ofstream(large, std::ios::binary) << text;
  MappedFile mapped(large);
  mapped.advise_sequential();
  BOOST_CHECK(mapped.text() == text);
  mapped.dont_need(mapped.bytes().subspan(1, 70'000));
  mapped.dont_need(mapped.bytes().subspan(99'000));
  BOOST_CHECK(mapped.text() == text);
  MappedFile other(empty);
  other = std::move(mapped);
  BOOST_CHECK(other.text() == text);
  BOOST_CHECK_EQUAL(other.path(), large);
}

BOOST_AUTO_TEST_CASE(what_the_library_lets_through_is_refused_too) {
  check_refused(R"({"__metadata__":{"a":"b","a":"c"}})", 0, "appears twice");
  check_refused(R"({"__metadata__":{},"__metadata__":{}})", 0, "appears twice");
  check_refused(R"({"__metadata__":null})", 0, "an object of strings");
  check_refused(R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                R"("w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                0, "appears twice");
  check_refused(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4,
                "that the format does not have");
  check_refused(R"({"w":["F32",[1],[0,4]]})", 4, "an object with dtype");
  std::string deep_shape = "1";
  for (int i = 0; i < 63; ++i) deep_shape += ",1";
  const auto shaped = [](const std::string& shape) {
    return R"({"w":{"dtype":"F32","shape":[)" + shape + R"(],"data_offsets":[0,4]}})";
  };
  BOOST_CHECK_EQUAL(refusal(shaped(deep_shape), 4), "");
  check_refused(shaped(deep_shape + ",1"), 4, "too many dimensions");
}

BOOST_AUTO_TEST_CASE(fields_and_numbers) {
  BOOST_CHECK_EQUAL(refusal(one_float, 4), "");
  const auto tensor = [](const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
    return R"({"w":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}}";
  };
  for (const char* number : {"1.0", "1e0", "-0", "-1", "01", "+1", "0x1", "true", "null", "\"1\"",
                             "[1]", "{}", "NaN", "1.", "18446744073709551616", "1e400"}) {
    const std::string text(number);
    check_refused(tensor("\"F32\"", "[" + text + "]", "[0,4]"), 4, "file: ");
    check_refused(tensor("\"F32\"", "[1]", "[" + text + ",4]"), 4, "file: ");
    check_refused(tensor("\"F32\"", "[1]", "[0," + text + "]"), 4, "file: ");
  }
  check_refused(tensor("\"F32\"", "1", "[0,4]"), 4, "an array of whole numbers");
  check_refused(tensor("\"F32\"", "[1]", "[0]"), 4, "two whole numbers");
  check_refused(tensor("\"F32\"", "[1]", "[0,4,4]"), 4, "two whole numbers");
  check_refused(tensor("\"F32\"", "[1]", "{}"), 4, "two whole numbers");
  check_refused(tensor("\"F33\"", "[1]", "[0,4]"), 4, "unknown dtype");
  check_refused(tensor("\"\"", "[1]", "[0,4]"), 4, "unknown dtype");
  check_refused(tensor("32", "[1]", "[0,4]"), 4, "the name of a dtype");
  check_refused(tensor("\"F4\"", "[3]", "[0,1]"), 1, "whole bytes");
  BOOST_CHECK_EQUAL(refusal(tensor("\"F4\"", "[4]", "[0,2]"), 2), "");
  BOOST_CHECK_EQUAL(refusal(tensor("\"F6_E2M3\"", "[4]", "[0,3]"), 3), "");
  BOOST_CHECK_EQUAL(refusal(tensor("\"C64\"", "[2,1]", "[0,16]"), 16), "");
  check_refused(R"({"w":{"shape":[1],"data_offsets":[0,4]}})", 4, "has no dtype");
  check_refused(R"({"w":{"dtype":"F32","data_offsets":[0,4]}})", 4, "has no shape");
  check_refused(R"({"w":{"dtype":"F32","shape":[1]}})", 4, "has no data_offsets");
  check_refused(R"({"w":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", 4,
                "appears twice");
  // 2^32 * 2^32 elements, and 2^61 elements of 8 bytes.
  check_refused(tensor("\"U8\"", "[4294967296,4294967296]", "[0,0]"), 0, "overflows");
  check_refused(tensor("\"F64\"", "[2305843009213693952]", "[0,0]"), 0, "overflows");
  check_refused(tensor("\"F32\"", "[18446744073709551615,18446744073709551615,0]", "[0,0]"), 0,
                "overflows");
}

BOOST_AUTO_TEST_CASE(errors_name_tensor_expected_and_found) {
  BOOST_CHECK_EQUAL(refusal(R"({"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,4]}})", 4),
                    "file: tensor 'w': has data_offsets that contradict its dtype and shape "
                    "(expected 24 bytes for F32 [2, 3], found 4)");
  BOOST_CHECK_EQUAL(refusal(one_float, 5),
                    "file: has bytes after the last tensor (expected 4 bytes of data, found 5)");
  check_refused(one_float, 3, "file: tensor 'w': reaches past the end of the file");
  check_refused(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}})", 4,
                "reaches past the end");
}

BOOST_AUTO_TEST_CASE(text_of_the_header) {
  check_refused("", 0, "not valid JSON");
  check_refused("{} {}", 0, "not valid JSON");
  check_refused("{}\n/* */", 0, "not valid JSON");
  check_refused("{},", 0, "not valid JSON");
  check_refused("\xef\xbb\xbf{}", 0, "byte-order mark");
  check_refused(std::string_view("{}\0", 3), 0, "a NUL at byte 2");
  check_refused(std::string_view("{\"\0\":1}", 7), 0, "a NUL at byte 2");
  check_refused("{\"\xff\":1}", 0, "not valid JSON");
  check_refused("{\"\xc0\x80\":1}", 0, "not valid JSON");
  check_refused("{\"\xed\xa0\x80\":1}", 0, "not valid JSON");
  check_refused(R"({"\udc00":1})", 0, "not valid JSON");
  check_refused(R"({"\ud83dx":1})", 0, "not valid JSON");
  check_refused("null", 0, "an object");
  check_refused("3", 0, "an object");
  check_refused("[{}]", 0, "an object");
  BOOST_CHECK_EQUAL(refusal(" \t\r\n{ } \n"), "");
  Bytes bytes = file_of(one_float, 4);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    const Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length));
    BOOST_CHECK_MESSAGE(!refusal(cut).empty(), "cut to " << length);
  }
  const std::uint64_t all_ones = ~std::uint64_t{0};
  std::memcpy(bytes.data(), &all_ones, 8);
  BOOST_CHECK(refusal(bytes).find("too large") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(deep_nesting_is_refused_at_its_first_level) {
  constexpr std::size_t levels = 2'000'000;
  check_refused(std::string(levels, '['), 0, "found an array");
  check_refused(R"({"w":)" + std::string(levels, '['), 0, "found an array");
  check_refused(R"({"w":{"dtype":)" + std::string(levels, '['), 0, "found an array");
  check_refused(R"({"__metadata__":{"a":)" + std::string(levels, '['), 0, "found an array");
  std::string objects = "{\"w\":{\"dtype\":";
  for (std::size_t i = 0; i < levels / 8; ++i) objects += "{\"a\":";
  check_refused(objects, 0, "found an object");
}

BOOST_AUTO_TEST_CASE(documents_in_memory) {
  BOOST_CHECK(parse_json(R"({"a":[1,{"b":null}],"c":-2.5})", "x", 100, 3).dump() ==
              R"({"a":[1,{"b":null}],"c":-2.5})");
  const auto refused = [](std::string_view text, std::size_t bytes, std::size_t depth) {
    try {
      parse_json(text, "x", bytes, depth);
      return std::string();
    } catch (const Error& error) {
      return std::string(error.what());
    }
  };
  BOOST_CHECK_EQUAL(refused("[[[]]]", 100, 3), "");
  BOOST_CHECK_EQUAL(refused("[[[]]]", 100, 2), "x: is nested too deeply (expected at most 2)");
  BOOST_CHECK(refused(std::string(3'000'000, '['), 4'000'000, 64).find("nested") !=
              std::string::npos);
  BOOST_CHECK(refused("[1, 2]", 5, 2).find("too large") != std::string::npos);
  BOOST_CHECK(refused(R"({"a":{"k":1,"k":1}})", 100, 3).find("appears twice") != std::string::npos);
  BOOST_CHECK_EQUAL(refused(R"([{"k":1},{"k":1}])", 100, 3), "");
  for (const char* text : {"", "[1,]", "{\"a\":1,}", "[1", "nul", "[1e999]", "['a']", "[NaN]"}) {
    BOOST_CHECK_MESSAGE(refused(text, 100, 3).find("not valid JSON") != std::string::npos, text);
  }
}

BOOST_AUTO_TEST_CASE(mutated_files_are_read_or_refused) {
  constexpr std::uint32_t seed = 20240711;
  constexpr int rounds = 50'000;
  std::vector<Bytes> seeds;
  for (const auto& entry : manifest()) {
    seeds.push_back(read_bytes(fixtures() / entry.at("file").get<std::string>()));
  }
  const std::vector<std::string> pieces = {
      "{",    "}",       "[",    "]",   "\"",         ",",   ":",
      "0",    "-",       "1e9",  "\\u", "w",          "F16", "18446744073709551615",
      "\xff", "\\ud800", "null", " ",   "\"dtype\":", "[]",  "{}",
      "9"};
  std::mt19937 random(seed);
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
  int accepted = 0;
  for (int round = 0; round < rounds; ++round) {
    Bytes bytes = seeds[below(seeds.size())];
    for (std::size_t edits = 1 + below(3); edits > 0 && bytes.size() > 8; --edits) {
      const std::size_t at = 8 + below(bytes.size() - 8);
      const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
      switch (below(5)) {
        case 0:
          *place = static_cast<std::byte>(below(256));
          break;
        case 1:
          *place ^= static_cast<std::byte>(1U << below(8));
          break;
        case 2:
          bytes.erase(place);
          break;
        case 3:
          bytes.resize(at);
          break;
        default: {
          const std::string& piece = pieces[below(pieces.size())];
          const auto* first = reinterpret_cast<const std::byte*>(piece.data());
          bytes.insert(place, first, first + piece.size());
        }
      }
    }
    // Half of the time the length is made to fit, so that more than the length is tested.
    if (bytes.size() >= 8 && below(2) == 0) {
      const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      const auto end = text.rfind('}');
      if (end != text.npos && end >= 8) {
        const std::uint64_t length = end - 7;
        std::memcpy(bytes.data(), &length, 8);
      }
    }
    bytes.shrink_to_fit();
    try {
      check_promises(parse_safetensors(bytes, "mutated"), bytes);
      ++accepted;
    } catch (const Error& error) {
      BOOST_REQUIRE(std::string_view(error.what()).starts_with("mutated"));
    }
  }
  BOOST_TEST_MESSAGE("seed " << seed << ": " << accepted << " of " << rounds << " accepted");
  BOOST_CHECK_GT(accepted, 100);
  BOOST_CHECK_LT(accepted, rounds / 2);
}
