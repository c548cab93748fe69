// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace neoxref::engine {

/// One step through UTF-8.
/// bytes      how many bytes the step takes: the character, or the longest well-formed beginning of
///            one where the text is broken (at least 1; what is shown as one U+FFFD).
/// valid      a whole, well-formed character (no overlong form, surrogate or value above U+10FFFF).
/// truncated  not valid only because the text ends: more bytes could complete it.
struct Utf8Step {
  char32_t point = 0;
  std::uint8_t bytes = 0;
  bool valid = false;
  bool truncated = false;
};

/// The step that starts at `position` (less than text.size()).
[[nodiscard]] Utf8Step utf8_step(std::string_view text, std::size_t position) noexcept;

/// Offset of the first byte that does not start a well-formed character; nothing if all are.
[[nodiscard]] std::optional<std::size_t> first_invalid_utf8(std::string_view text) noexcept;

/// The character that ends right before `position` (more than 0) of well-formed text.
[[nodiscard]] Utf8Step utf8_step_back(std::string_view text, std::size_t position) noexcept;

/// The classes that the split pattern of GPT-2 tells apart: \p{L}, \p{N}, \s and all others.
/// Unicode 16, which Hugging Face tokenizers 0.23 uses, whichever of the versions 15.0 to 16.0
/// utf8proc knows.
enum class CharClass : std::uint8_t { letter, number, space, other };

[[nodiscard]] CharClass char_class(char32_t point) noexcept;

/// \w: letters, marks, decimal and letter numbers, connecting punctuation, joiners, and the symbols
/// that count as alphabetic. Unicode 16.
[[nodiscard]] bool is_word(char32_t point) noexcept;

/// NFC of well-formed text; nothing when the text is NFC already, so that it need not be copied.
/// Linear but for the sort of one run of combining marks. Marks assigned after Unicode 10 stay
/// where they are: they do to Hugging Face tokenizers, whose composition data ends there.
[[nodiscard]] std::optional<std::string> nfc(std::string_view text);

}  // namespace neoxref::engine
