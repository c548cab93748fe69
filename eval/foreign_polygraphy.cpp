// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <set>

#include "engine/error.hpp"
#include "engine/json.hpp"
#include "eval/foreign_readers.hpp"

namespace neoxref::eval::foreign {
namespace {

using engine::Error;
using nlohmann::json;

/// Bytes of base64 with padding (RFC 4648). Errors: Error.
std::vector<std::byte> from_base64(std::string_view text, const std::string& place) {
  constexpr std::string_view digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::array<int, 256> value{};
  value.fill(-1);
  for (std::size_t i = 0; i < digits.size(); ++i) {
    value[static_cast<unsigned char>(digits[i])] = static_cast<int>(i);
  }
  std::vector<std::byte> result;
  result.reserve(text.size() / 4 * 3);
  if (text.size() % 4 != 0) throw Error(place, "base64 text is truncated");
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  unsigned bits = 0, held_bits = 0;
  for (const char c : text) {
    const int digit = value[static_cast<unsigned char>(c)];
    if (digit < 0) throw Error(place, "not base64");
    bits = (bits << 6 | static_cast<unsigned>(digit)) & 0xffffu;
    held_bits += 6;
    if (held_bits < 8) continue;
    held_bits -= 8;
    result.push_back(static_cast<std::byte>(bits >> held_bits));
  }
  return result;
}

/// Keys that Polygraphy's own structures have; any other key names a tensor.
const std::set<std::string, std::less<>>& structure() {
  static const std::set<std::string, std::less<>> keys = {
      "array", "values", "outputs", "lst", "dct", "arr", "polygraphy_class", "_values", "result"};
  return keys;
}

class Walk {
public:
  Walk(const std::string& place, ForeignFile& into) : place_(place), into_(into) {}

  void visit(const json& value, const std::string& name) {
    if (value.is_array()) {
      for (const json& each : value) visit(each, name);
      return;
    }
    if (!value.is_object()) return;
    const auto array = value.find("array");
    if (array != value.end() && array->is_string()) {
      add(name, array->get_ref<const std::string&>());
      return;
    }
    for (const auto& [key, inside] : value.items()) {
      visit(inside, structure().contains(key) ? name : key);
    }
  }

private:
  void add(const std::string& name, const std::string& text) {
    if (name.empty()) throw Error(place_, "an array has no name");
    const std::string where = place_ + ": " + name;
    if (!names_.insert(name).second) {
      into_.notes.push_back(where + ": another run or iteration of it is not read");
      return;
    }
    const auto bytes = std::make_shared<const std::vector<std::byte>>(from_base64(text, where));
    into_.arrays.push_back(npy_array(*bytes, bytes, name, where));
  }

  const std::string& place_;
  ForeignFile& into_;
  std::set<std::string> names_;
};

}  // namespace

void read_polygraphy(const SharedFile& file, const std::string& place, ForeignFile& into) {
  constexpr std::size_t most_bytes = std::size_t{1} << 33;
  const json document = engine::parse_json(file->text(), place, most_bytes, 64);
  into.format = "Polygraphy JSON";
  Walk(place, into).visit(document, "");
  if (into.arrays.empty()) {
    throw Error(place, "no arrays in it",
                "what polygraphy run --save-outputs or --save-inputs writes");
  }
}

}  // namespace neoxref::eval::foreign
