// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/added_tokens.hpp"

namespace neoxref::engine {

/// Many strings in one block of memory.
class StringList {
public:
  void push_back(std::string_view text);
  [[nodiscard]] std::size_t size() const noexcept { return ends_.size(); }
  [[nodiscard]] std::string_view operator[](std::size_t index) const noexcept;

private:
  std::string bytes_;
  std::vector<std::size_t> ends_;
};

/// What a tokenizer.json of the GPT-NeoX kind says, not yet checked for consistency of its ids.
/// tokens, ids   the model's vocabulary in the order of the file.
/// merges        left and right part of each merge in turn, best first.
struct TokenizerFile {
  StringList tokens;
  std::vector<std::int64_t> ids;
  StringList merges;
  std::vector<AddedToken> added;
  bool nfc = false;
  bool add_prefix_space = false;
  bool use_regex = true;
};

/// Reads a file of the Hugging Face tokenizers library, at most 256 MiB.
/// Accepted: NFC or no normaliser; the ByteLevel pre-tokenizer and decoder; post-processors that
/// add no tokens; a BPE model without dropout, prefixes, suffixes and byte fallback. Errors  Error
/// for a file that cannot be read, is not JSON, has a field twice, lacks one, or holds
///         anything that would change ids or text and is not in the list above.
[[nodiscard]] TokenizerFile read_tokenizer_file(const std::string& path);

}  // namespace neoxref::engine
