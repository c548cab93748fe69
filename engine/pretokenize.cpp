// SPDX-License-Identifier: Apache-2.0
#include "engine/pretokenize.hpp"

#include <array>
#include <cstdint>

#include "engine/unicode.hpp"

namespace neoxref::engine {
namespace {

struct Classified {
  CharClass kind;
  std::uint8_t bytes;
};

Classified classify(std::string_view text, std::size_t at) noexcept {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 0x80) return {char_class(byte), 1};
  const Utf8Step step = utf8_step(text, at);
  return {char_class(step.point), step.bytes};
}

std::size_t run_end(std::string_view text, std::size_t at, CharClass kind) noexcept {
  while (at < text.size()) {
    const Classified next = classify(text, at);
    if (next.kind != kind) break;
    at += next.bytes;
  }
  return at;
}

std::size_t contraction_end(std::string_view text, std::size_t begin) noexcept {
  if (text[begin] != '\'' || begin + 1 == text.size()) return begin;
  switch (text[begin + 1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return begin + 2;
    default:
      break;
  }
  const std::string_view two = text.substr(begin + 1, 2);
  return two == "re" || two == "ve" || two == "ll" ? begin + 3 : begin;
}

std::size_t space_end(std::string_view text, std::size_t begin) noexcept {
  std::size_t at = begin;
  std::size_t last = begin;
  while (at < text.size()) {
    const Classified next = classify(text, at);
    // The last blank of a run goes with what follows, unless it is the only one.
    if (next.kind != CharClass::space) return last > begin ? last : at;
    last = at;
    at += next.bytes;
  }
  return at;
}

struct ByteSymbols {
  std::array<char32_t, 256> of_byte{};
  std::array<std::int16_t, 0x144> of_symbol{};

  constexpr ByteSymbols() {
    for (std::int16_t& byte : of_symbol) byte = -1;
    char32_t next = 0x100;
    for (std::uint16_t byte = 0; byte < 256; ++byte) {
      const bool visible = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      of_byte[byte] = visible ? byte : next++;
      of_symbol[of_byte[byte]] = static_cast<std::int16_t>(byte);
    }
  }
};

constexpr ByteSymbols byte_symbols;

}  // namespace

std::size_t piece_end(std::string_view text, std::size_t begin) noexcept {
  const std::size_t contraction = contraction_end(text, begin);
  if (contraction > begin) return contraction;
  const Classified first = classify(text, begin);
  if (first.kind != CharClass::space) return run_end(text, begin + first.bytes, first.kind);
  if (text[begin] == ' ' && begin + 1 < text.size()) {
    const Classified second = classify(text, begin + 1);
    if (second.kind != CharClass::space)
      return run_end(text, begin + 1 + second.bytes, second.kind);
  }
  return space_end(text, begin);
}

std::string byte_symbol(unsigned char byte) {
  const char32_t point = byte_symbols.of_byte[byte];
  if (point < 0x80) return {static_cast<char>(point)};
  return {static_cast<char>(0xc0 | point >> 6), static_cast<char>(0x80 | (point & 0x3f))};
}

std::optional<std::string> symbol_bytes(std::string_view token) {
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const Utf8Step step = utf8_step(token, at);
    if (step.point >= byte_symbols.of_symbol.size()) return std::nullopt;
    const std::int16_t byte = byte_symbols.of_symbol[step.point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    at += step.bytes;
  }
  return bytes;
}

}  // namespace neoxref::engine
