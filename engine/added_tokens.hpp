// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace neoxref::engine {

/// A token that is cut out of the text before it is split; the fields are those of tokenizer.json.
/// single_word   found only where no word character touches it.
/// lstrip, rstrip   takes the white space before, behind it along.
/// normalized    looked for in the normalised text, else in the text as given.
/// special       left out by a decode that skips special tokens.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
  bool special = false;
};

/// A part of a text, [begin, end) in bytes: a token's, or text without one when id is negative.
struct TextSpan {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::int32_t id = -1;
};

/// Finds added tokens as Hugging Face tokenizers do: leftmost, then longest, then on behind the
/// match (also behind one that single_word refuses). Time: text bytes times the longest pattern.
class AddedTokenMatcher {
public:
  /// pattern is what to look for: the content or its normalised form, not empty.
  /// False, and nothing is added, if another token has the same pattern.
  [[nodiscard]] bool add(const AddedToken& token, std::string_view pattern);

  [[nodiscard]] bool empty() const noexcept { return tokens_.empty(); }

  /// Appends the spans of well-formed text in order. White space that an rstrip took and in which
  /// another token was found again appears twice, as in the library.
  void split(std::string_view text, std::vector<TextSpan>& spans) const;

private:
  static constexpr std::int32_t none = -1;

  struct Node {
    unsigned char byte = 0;
    std::int32_t sibling = none;
    std::int32_t child = none;
    std::int32_t token = none;
  };
  struct Flags {
    std::int32_t id = 0;
    bool single_word = false;
    bool lstrip = false;
    bool rstrip = false;
  };
  struct Match {
    std::size_t end = 0;
    std::int32_t token = none;
  };

  [[nodiscard]] std::int32_t child(std::int32_t node, unsigned char byte) const noexcept;
  [[nodiscard]] Match longest(std::string_view text, std::size_t begin) const noexcept;

  std::vector<Node> nodes_{Node{}};  // a trie; the first is its root
  std::vector<bool> starts_ = std::vector<bool>(256, false);
  std::vector<Flags> tokens_;
};

}  // namespace neoxref::engine
