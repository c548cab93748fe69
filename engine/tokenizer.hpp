// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace neoxref::engine {

/// The tokenizer of GPT-NeoX and Pythia: NFC, byte-level split, byte-pair merges, added tokens,
/// with the ids that Hugging Face tokenizers 0.23 gives. Cheap to copy; const use from any thread.
class Tokenizer {
public:
  /// Reads a tokenizer.json (what is accepted: engine/tokenizer_file.hpp).
  /// Errors  also a merge whose parts or result are not in the vocabulary or that stands there
  /// twice,
  ///         an id given twice, vocabulary ids that are not 0 to size - 1, an added token with
  ///         another id than the vocabulary's or, if new, than the next free one; two added tokens
  ///         that look for the same text; a byte of UTF-8 that no token stands for.
  [[nodiscard]] static Tokenizer open(const std::string& path);

  /// Ids of a text (UTF-8, below 2^31 bytes); no token is put before or behind it.
  /// Errors  Error naming the offset of the first byte that is not well-formed UTF-8.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text) const;

  /// Text of some ids: their bytes in a row, with U+FFFD for each part that is not well-formed
  /// UTF-8 (each longest beginning of a character, or single byte). skip_special leaves special
  /// tokens out. Errors  Error for an id outside the vocabulary.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids,
                                   bool skip_special = false) const;

  /// The bytes that an id stands for; they may be part of a character.
  /// An added token stands for its content, except where every character of it is also the symbol
  /// of a byte ("é" is then one byte): the library decodes it so. Errors  Error for an id outside
  /// the vocabulary.
  [[nodiscard]] std::string_view bytes_of(std::int32_t id) const;

  /// Whether a special token (for instance the end of a text). Errors as bytes_of.
  [[nodiscard]] bool is_special(std::int32_t id) const;

  /// Id of a token as tokenizer.json spells it ("Ġthe", "<|endoftext|>").
  [[nodiscard]] std::optional<std::int32_t> id_of(std::string_view token) const;

  /// Ids are 0 to vocab_size() - 1, added tokens included.
  [[nodiscard]] std::size_t vocab_size() const noexcept;

private:
  struct Data;
  class Encoder;

  explicit Tokenizer(std::shared_ptr<const Data> data);

  std::shared_ptr<const Data> data_;
};

/// Decodes ids one by one as they arrive; never gives out part of a character.
/// All push() and the finish() joined are decode() of the same ids.
class StreamDecoder {
public:
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = false);

  /// Text that is certain with this id. Errors  as Tokenizer::decode; nothing has changed then.
  [[nodiscard]] std::string push(std::int32_t id);

  /// What is left at the end: nothing, or one U+FFFD for a character that was never completed.
  [[nodiscard]] std::string finish();

private:
  Tokenizer tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace neoxref::engine
