// SPDX-License-Identifier: Apache-2.0
#include "tools/html.hpp"

#include <fmt/core.h>

#include <cmath>
#include <cstdint>

namespace neoxref::tools {
namespace {

/// Bytes of the character at the beginning of `text`; 0 where there is none that XML allows.
std::size_t character_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(text[i]) & 0xffu; };
  const std::uint32_t first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  std::uint32_t code = first & (0xffu >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3f);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  const bool none = (code & 0xfffe) == 0xfffe || code > 0x10ffff;
  return overlong || surrogate || none ? 0 : length;
}

}  // namespace

std::string html_text(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const std::size_t length = character_length(text);
    const char c = text.front();
    const auto byte = static_cast<unsigned char>(c);
    if (length == 0) {
      result += "\xef\xbf\xbd";
    } else if (length > 1) {
      result += text.substr(0, length);
    } else if (byte < 0x20 || byte == 0x7f) {
      result += fmt::format("\\x{:02x}", byte);
    } else if (c == '&') {
      result += "&amp;";
    } else if (c == '<') {
      result += "&lt;";
    } else if (c == '>') {
      result += "&gt;";
    } else if (c == '"') {
      result += "&quot;";
    } else if (c == '\'') {
      result += "&#39;";
    } else {
      result += c;
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return result;
}

std::string html_name(std::string_view name) {
  return "<bdi>" + html_text(name) + "</bdi>";
}

std::string html_number(double value, std::string_view shown) {
  if (!std::isfinite(value)) return "-";
  return fmt::format("<data value=\"{}\">{}</data>", value, html_text(shown));
}

}  // namespace neoxref::tools
