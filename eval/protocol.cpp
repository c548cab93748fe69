// SPDX-License-Identifier: Apache-2.0
#include "eval/protocol.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <string>

#include "engine/error.hpp"

namespace neoxref::eval {
namespace {

constexpr std::array<std::string_view, 5> names = {"two-phase", "all", "after-first-cut", "sliding",
                                                   "fixed"};

/// Side by side or overlapping: each token of the text is scored in the first window that holds it
/// behind another token.
std::vector<Window> rolling(const Layout& layout, std::size_t tokens) {
  const std::size_t first = layout.bos ? 1 : 0;
  const std::size_t room = layout.max_tokens - first;
  const std::size_t stride = layout.protocol == Protocol::fixed ? room : layout.stride;
  if (stride == 0 || stride > room) {
    throw engine::Error("stride", "tokens would be left out",
                        "1 to " + std::to_string(room) + ", the tokens of the text in a window",
                        std::to_string(stride));
  }
  std::vector<Window> all;
  std::size_t scored = 0;  // up to here
  for (std::size_t begin = 0; scored < tokens; begin += stride) {
    const std::size_t end = begin + std::min(room, tokens - begin);
    const std::size_t from = std::max(scored, begin + 1 - first);
    if (from < end) all.push_back({begin, end - begin + first, from - begin + first});
    scored = end;
  }
  return all;
}

}  // namespace

std::string_view protocol_name(Protocol protocol) {
  return names[static_cast<std::size_t>(protocol)];
}

Protocol parse_protocol(std::string_view name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<Protocol>(found - names.begin());
  std::string expected;
  for (const std::string_view known : names) {
    expected += (expected.empty() ? "" : ", ") + std::string(known);
  }
  throw engine::Error("protocol", "unknown name", expected, name);
}

std::size_t effective_prune_after(std::size_t prune_after, std::size_t length) {
  const std::size_t tail = length > 50 ? length - 50 : 0;
  return std::max<std::size_t>(32, std::min(prune_after, std::max(tail, length / 2)));
}

std::vector<Window> windows(const Layout& layout, std::size_t tokens, std::size_t target) {
  const std::size_t first = layout.bos ? 1 : 0;
  if (layout.max_tokens < 2 + first) {
    throw engine::Error("max_tokens", "no token would be scored",
                        "at least " + std::to_string(2 + first), std::to_string(layout.max_tokens));
  }
  const bool whole = layout.protocol != Protocol::sliding && layout.protocol != Protocol::fixed;
  if (target > 0 && (!whole || layout.protocol == Protocol::after_first_cut)) {
    throw engine::Error("protocol", "a task scores the tokens that it asks for", "two-phase or all",
                        protocol_name(layout.protocol));
  }
  if (!whole) return rolling(layout, tokens);
  const std::size_t length = std::min(tokens + first, layout.max_tokens);
  if (target > 0) {
    const std::size_t begin = tokens + first - length;
    if (target >= tokens || target < begin + 1 - first) {
      throw engine::Error("target", "lies outside the window",
                          std::to_string(begin + 1 - first) + " to " + std::to_string(tokens - 1),
                          std::to_string(target));
    }
    return {{begin, length, target - begin + first}};
  }
  if (length < (layout.protocol == Protocol::two_phase ? least_tokens : 2)) return {};
  return {{0, length, 1}};
}

Course course(const Layout& layout, const Window& window, const engine::Press& press,
              bool has_target) {
  using engine::Trigger;
  if (layout.protocol == Protocol::two_phase) {
    const std::size_t prefix = effective_prune_after(press.prune_after, window.tokens);
    if (has_target) return {std::min(prefix, window.first_scored), window.first_scored, prefix};
    // With `reaches` the first cut comes before ids[P] enters, so ids[P] was predicted untouched.
    return {prefix, prefix + (press.trigger == Trigger::reaches ? 1 : 0), prefix};
  }
  if (press.trigger == Trigger::after_prompt) {
    throw engine::Error("trigger", "after-prompt needs a protocol with a prompt", "two-phase",
                        protocol_name(layout.protocol));
  }
  Course all{0, window.first_scored, press.prune_after};
  if (layout.protocol != Protocol::after_first_cut) return all;
  // The last token that has entered when the trigger first fires on a slot or more.
  std::size_t last = press.prune_after;
  if (press.trigger == Trigger::reaches) last = std::max<std::size_t>(last, 1) - 1;
  if (press.trigger == Trigger::every) last = std::max<std::size_t>(press.interval, 1) - 1;
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max() - 2;
  all.first_scored = std::max(all.first_scored, std::min(last, most) + 2);
  return all;
}

}  // namespace neoxref::eval
