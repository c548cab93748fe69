// SPDX-License-Identifier: Apache-2.0
#include "engine/added_tokens.hpp"

#include <algorithm>

#include "engine/unicode.hpp"

namespace neoxref::engine {
namespace {

bool is_single_word(std::string_view text, std::size_t begin, std::size_t end) noexcept {
  const bool word_before = begin > 0 && is_word(utf8_step_back(text, begin).point);
  const bool word_behind = end < text.size() && is_word(utf8_step(text, end).point);
  return !word_before && !word_behind;
}

/// Start of the white space that ends at `end`, not looking before `limit`.
std::size_t space_begin(std::string_view text, std::size_t limit, std::size_t end) noexcept {
  while (end > limit) {
    const Utf8Step step = utf8_step_back(text, end);
    if (char_class(step.point) != CharClass::space) break;
    end -= step.bytes;
  }
  return end;
}

std::size_t space_end(std::string_view text, std::size_t begin) noexcept {
  while (begin < text.size()) {
    const Utf8Step step = utf8_step(text, begin);
    if (char_class(step.point) != CharClass::space) break;
    begin += step.bytes;
  }
  return begin;
}

}  // namespace

bool AddedTokenMatcher::add(const AddedToken& token, std::string_view pattern) {
  std::int32_t node = 0;
  for (const char c : pattern) {
    const auto byte = static_cast<unsigned char>(c);
    std::int32_t next = child(node, byte);
    if (next == none) {
      next = static_cast<std::int32_t>(nodes_.size());
      Node& parent = nodes_[static_cast<std::size_t>(node)];
      const Node added{byte, parent.child, none, none};
      parent.child = next;
      nodes_.push_back(added);
    }
    node = next;
  }
  starts_[static_cast<unsigned char>(pattern.front())] = true;
  Node& last = nodes_[static_cast<std::size_t>(node)];
  if (last.token != none) return false;
  last.token = static_cast<std::int32_t>(tokens_.size());
  tokens_.push_back({token.id, token.single_word, token.lstrip, token.rstrip});
  return true;
}

std::int32_t AddedTokenMatcher::child(std::int32_t node, unsigned char byte) const noexcept {
  std::int32_t next = nodes_[static_cast<std::size_t>(node)].child;
  while (next != none && nodes_[static_cast<std::size_t>(next)].byte != byte)
    next = nodes_[static_cast<std::size_t>(next)].sibling;
  return next;
}

AddedTokenMatcher::Match AddedTokenMatcher::longest(std::string_view text,
                                                    std::size_t begin) const noexcept {
  Match match;
  std::int32_t node = 0;
  for (std::size_t at = begin; at < text.size(); ++at) {
    node = child(node, static_cast<unsigned char>(text[at]));
    if (node == none) break;
    const std::int32_t token = nodes_[static_cast<std::size_t>(node)].token;
    if (token != none) match = {at + 1, token};
  }
  return match;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<TextSpan>& spans) const {
  std::size_t done = 0;      // where the text not yet given out starts
  std::size_t space_to = 0;  // the last run of white space that an rstrip walked ends here
  for (std::size_t at = 0; at < text.size();) {
    const bool possible = starts_[static_cast<unsigned char>(text[at])];
    const Match match = possible ? longest(text, at) : Match{};
    if (match.token == none) {
      ++at;
      continue;
    }
    const Flags& token = tokens_[static_cast<std::size_t>(match.token)];
    std::size_t begin = at;
    std::size_t end = match.end;
    at = match.end;
    if (token.single_word && !is_single_word(text, begin, end)) continue;
    // The library fails where an lstrip match lies inside white space that an rstrip took before.
    if (token.lstrip) begin = std::min(std::max(space_begin(text, done, begin), done), end);
    if (token.rstrip) {
      if (end > space_to) space_to = space_end(text, end);
      end = std::max(end, space_to);
    }
    if (done < begin) spans.push_back({done, begin, none});
    spans.push_back({begin, end, token.id});
    done = end;
  }
  if (done < text.size()) spans.push_back({done, text.size(), none});
}

}  // namespace neoxref::engine
