// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/press.hpp"

namespace neoxref::eval {

/// Which tokens of a text enter together, which of them are scored, and from when on the press is
/// set. Exact definitions: docs/protocols.md.
enum class Protocol : std::uint8_t {
  two_phase,        ///< an untouched prefix, then scored tokens; prune_after is made effective
  all,              ///< pressed from the first token on, every token but the first scored
  after_first_cut,  ///< like `all`, scored from the first moment on that the trigger fires
  sliding,          ///< windows of max_tokens, `stride` apart, each token scored once
  fixed             ///< windows of max_tokens side by side
};
std::string_view protocol_name(Protocol protocol);
/// Errors: Error naming the protocols there are.
Protocol parse_protocol(std::string_view name);

/// What the windows of a text depend on.
struct Layout {
  Protocol protocol = Protocol::two_phase;
  std::size_t max_tokens = 1024;  ///< of a window, a token put first included
  std::size_t stride = 0;         ///< of `sliding`: 1 to max_tokens
  bool bos = false;               ///< every window begins with one token that is not of the text
};

/// Texts shorter than this are reported, not scored, by `two-phase`.
inline constexpr std::size_t least_tokens = 34;

/// P = max(32, min(prune_after, max(length - 50, floor(length / 2)))).
std::size_t effective_prune_after(std::size_t prune_after, std::size_t length);

/// Tokens that go through the model as one sequence; the last of them is only ever predicted.
struct Window {
  std::size_t begin;         ///< index in the text of its first token of the text
  std::size_t tokens;        ///< the token put first included
  std::size_t first_scored;  ///< index in the window, before the press has its say; at least 1
};

/// The windows of a text of `tokens` tokens; none when it is too short.
/// target  0, or the index in the text of the first token that a task asks for: then there is one
///         window, of the text's last tokens where it is longer than max_tokens, and what stands
///         before the target is not scored.
std::vector<Window> windows(const Layout& layout, std::size_t tokens, std::size_t target = 0);

/// How a press meets a window.
struct Course {
  std::size_t untouched;     ///< tokens that enter before the press is set: its prompt
  std::size_t first_scored;  ///< index in the window; may be past its end: nothing is scored
  std::size_t prune_after;   ///< effective
};
/// Only trigger, prune_after and interval of the press matter: rows that agree in these score the
/// same tokens.
Course course(const Layout& layout, const Window& window, const engine::Press& press,
              bool has_target = false);

}  // namespace neoxref::eval
