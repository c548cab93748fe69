// SPDX-License-Identifier: Apache-2.0
#include "engine/press.hpp"

#include <algorithm>
#include <bit>
#include <limits>

#include "engine/error.hpp"

namespace neoxref::engine {

KeepRatio KeepRatio::parse(std::string_view text) {
  const auto refuse = [&]() -> KeepRatio {
    throw Error("keep_ratio", "not usable", "a decimal number above 0 and at most 1, such as 0.9",
                text);
  };
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const std::size_t point = std::min(text.find('.'), text.size());
  const std::string_view whole = text.substr(0, point);
  const std::string_view rest = point < text.size() ? text.substr(point + 1) : std::string_view{};
  if (whole.size() + rest.size() == 0 || whole.size() > 1 || rest.size() > 9) return refuse();
  KeepRatio ratio;
  ratio.text_ = text;
  ratio.numerator_ = 0;
  for (const std::string_view digits : {whole, rest}) {
    for (const char c : digits) {
      if (!digit(c)) return refuse();
      ratio.numerator_ = ratio.numerator_ * 10 + static_cast<std::uint64_t>(c - '0');
    }
  }
  for (std::size_t i = 0; i < rest.size(); ++i) ratio.denominator_ *= 10;
  if (ratio.numerator_ == 0 || ratio.numerator_ > ratio.denominator_) return refuse();
  return ratio;
}

std::size_t KeepRatio::of(std::size_t length) const {
  return (length * numerator_ + denominator_ - 1) / denominator_;
}

bool Press::skips(std::size_t layer) const {
  return std::find(skip_layers.begin(), skip_layers.end(), layer) != skip_layers.end();
}

std::size_t Press::tokens_until_cut(std::size_t layer, std::size_t length) const {
  if (skips(layer) || keep_ratio.keeps_all()) return std::numeric_limits<std::size_t>::max();
  if (length > prune_after) return 1;
  return std::max(prune_after - length, prune_after - length + 1);  // never wraps to 0
}

bool Press::due(std::size_t layer, std::size_t length) const {
  return !skips(layer) && !keep_ratio.keeps_all() && length > prune_after;
}

void select_lowest(const float* norms, std::size_t slots, std::size_t keep, std::uint64_t* work,
                   std::uint32_t* kept) {
  // Norms are not negative, so their bit patterns order as they do; the slot below breaks ties.
  for (std::size_t slot = 0; slot < slots; ++slot) {
    work[slot] = (static_cast<std::uint64_t>(std::bit_cast<std::uint32_t>(norms[slot])) << 32) |
                 static_cast<std::uint64_t>(slot);
  }
  if (keep < slots) std::nth_element(work, work + keep, work + slots);
  for (std::size_t i = 0; i < keep; ++i) kept[i] = static_cast<std::uint32_t>(work[i]);
  std::sort(kept, kept + keep);
}

}  // namespace neoxref::engine
