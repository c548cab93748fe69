// SPDX-License-Identifier: Apache-2.0
#include "engine/error.hpp"

#include <cstddef>

namespace neoxref::engine {
namespace {

constexpr std::size_t longest_piece = 400;

std::string printable(std::string_view text) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string result;
  for (const char c : text.substr(0, longest_piece)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      result += "\\x";
      result += digits[byte >> 4];
      result += digits[byte & 15];
    } else {
      result += c;
    }
  }
  if (text.size() > longest_piece) result += "...";
  return result;
}

std::string compose(std::string_view where, std::string_view problem, std::string_view expected,
                    std::string_view found) {
  std::string text = printable(where);
  if (!text.empty()) text += ": ";
  text += printable(problem);
  if (!expected.empty() || !found.empty()) {
    text += " (";
    if (!expected.empty()) text += "expected " + printable(expected);
    if (!expected.empty() && !found.empty()) text += ", ";
    if (!found.empty()) text += "found " + printable(found);
    text += ")";
  }
  return text;
}

}  // namespace

Error::Error(std::string_view where, std::string_view problem, std::string_view expected,
             std::string_view found)
    : std::runtime_error(compose(where, problem, expected, found)) {}

}  // namespace neoxref::engine
