// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace neoxref::engine {

/// End of the piece that starts at `begin` (less than text.size()) under the split pattern of GPT-2
///   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
/// The first alternative that matches wins, each takes as much as it can. Pieces cover the text.
/// text must be well-formed UTF-8 and begin the end of the piece before.
[[nodiscard]] std::size_t piece_end(std::string_view text, std::size_t begin) noexcept;

/// The character that stands for a byte in the vocabulary of a byte-level tokenizer: itself where
/// it is visible Latin-1, else one of U+0100 to U+0143 (a blank is U+0120). UTF-8.
[[nodiscard]] std::string byte_symbol(unsigned char byte);

/// The bytes that a token stands for; nothing if some character of it stands for no byte.
/// token is well-formed UTF-8.
[[nodiscard]] std::optional<std::string> symbol_bytes(std::string_view token);

}  // namespace neoxref::engine
