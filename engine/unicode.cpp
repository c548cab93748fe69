// SPDX-License-Identifier: Apache-2.0
#include "engine/unicode.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <vector>

namespace neoxref::engine {
namespace {

struct Range {
  char32_t first;
  char32_t last;
};

enum class Later : std::uint8_t { letter, number, mark };

struct LaterRange {
  char32_t first;
  char32_t last;
  Later kind;
};

// Letters, decimal digits and word marks of Unicode 15.1 and 16.0: an installed utf8proc may be of
// version 15.0, and the ids of a text must not depend on that.
constexpr LaterRange later_ranges[] = {
    {0x897, 0x897, Later::mark},       {0x1c89, 0x1c8a, Later::letter},
    {0xa7cb, 0xa7cd, Later::letter},   {0xa7da, 0xa7dc, Later::letter},
    {0x105c0, 0x105f3, Later::letter}, {0x10d40, 0x10d49, Later::number},
    {0x10d4a, 0x10d65, Later::letter}, {0x10d69, 0x10d6d, Later::mark},
    {0x10d6f, 0x10d85, Later::letter}, {0x10ec2, 0x10ec4, Later::letter},
    {0x10efc, 0x10efc, Later::mark},   {0x11380, 0x11389, Later::letter},
    {0x1138b, 0x1138b, Later::letter}, {0x1138e, 0x1138e, Later::letter},
    {0x11390, 0x113b5, Later::letter}, {0x113b7, 0x113b7, Later::letter},
    {0x113b8, 0x113c0, Later::mark},   {0x113c2, 0x113c2, Later::mark},
    {0x113c5, 0x113c5, Later::mark},   {0x113c7, 0x113ca, Later::mark},
    {0x113cc, 0x113d0, Later::mark},   {0x113d1, 0x113d1, Later::letter},
    {0x113d2, 0x113d2, Later::mark},   {0x113d3, 0x113d3, Later::letter},
    {0x113e1, 0x113e2, Later::mark},   {0x116d0, 0x116e3, Later::number},
    {0x11bc0, 0x11be0, Later::letter}, {0x11bf0, 0x11bf9, Later::number},
    {0x11f5a, 0x11f5a, Later::mark},   {0x13460, 0x143fa, Later::letter},
    {0x16100, 0x1611d, Later::letter}, {0x1611e, 0x1612f, Later::mark},
    {0x16130, 0x16139, Later::number}, {0x16d40, 0x16d6c, Later::letter},
    {0x16d70, 0x16d79, Later::number}, {0x18cff, 0x18cff, Later::letter},
    {0x1ccf0, 0x1ccf9, Later::number}, {0x1e5d0, 0x1e5ed, Later::letter},
    {0x1e5ee, 0x1e5ef, Later::mark},   {0x1e5f0, 0x1e5f0, Later::letter},
    {0x1e5f1, 0x1e5fa, Later::number}, {0x2ebf0, 0x2ee5d, Later::letter},
};

// Characters that utf8proc would reorder or compose and Hugging Face tokenizers 0.23 does not:
// those assigned after Unicode 10, the two halves of U+11938, and the blocks of Unicode 16.
constexpr Range uncomposed_ranges[] = {
    {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
    {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x105c0, 0x105ff},
    {0x10d24, 0x10d27}, {0x10d69, 0x10d6d}, {0x10eab, 0x10eac}, {0x10efc, 0x10eff},
    {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b},
    {0x11380, 0x113e2}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930},
    {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0},
    {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42},
    {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16100, 0x1612f},
    {0x16d40, 0x16d7f}, {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136},
    {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef},
};

template <class Table>
auto find_range(const Table& table, char32_t point) noexcept {
  const auto found = std::lower_bound(std::begin(table), std::end(table), point,
                                      [](const auto& range, char32_t p) { return range.last < p; });
  return found != std::end(table) && found->first <= point ? found : std::end(table);
}

utf8proc_category_t category(char32_t point) noexcept {
  return utf8proc_category(static_cast<utf8proc_int32_t>(point));
}

CharClass wide_class(char32_t point) noexcept {
  switch (category(point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::number;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharClass::space;
    case UTF8PROC_CATEGORY_CN: {
      const auto later = find_range(later_ranges, point);
      if (later == std::end(later_ranges) || later->kind == Later::mark) return CharClass::other;
      return later->kind == Later::letter ? CharClass::letter : CharClass::number;
    }
    default:
      return point == 0x85 ? CharClass::space : CharClass::other;
  }
}

constexpr std::array<CharClass, 128> make_ascii_classes() {
  std::array<CharClass, 128> classes{};
  for (unsigned c = 0; c < 128; ++c) {
    const unsigned lower = c | 0x20U;
    if (lower >= 'a' && lower <= 'z')
      classes[c] = CharClass::letter;
    else if (c >= '0' && c <= '9')
      classes[c] = CharClass::number;
    else if (c == ' ' || (c >= 9 && c <= 13))
      classes[c] = CharClass::space;
    else
      classes[c] = CharClass::other;
  }
  return classes;
}

constexpr std::array<CharClass, 128> ascii_classes = make_ascii_classes();

constexpr auto compose_options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
constexpr auto decompose_options =
    static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);

bool is_uncomposed(char32_t point) noexcept {
  return find_range(uncomposed_ranges, point) != std::end(uncomposed_ranges);
}

int combining_class(utf8proc_int32_t point) noexcept {
  return utf8proc_get_property(point)->combining_class;
}

void append_decomposed(std::vector<utf8proc_int32_t>& points, char32_t point) {
  std::array<utf8proc_int32_t, 32> parts{};
  int boundary = 0;
  const utf8proc_ssize_t count = utf8proc_decompose_char(
      static_cast<utf8proc_int32_t>(point), parts.data(),
      static_cast<utf8proc_ssize_t>(parts.size()), decompose_options, &boundary);
  points.insert(points.end(), parts.begin(), parts.begin() + std::max<utf8proc_ssize_t>(count, 0));
}

void compose(std::vector<utf8proc_int32_t>& points) {
  const utf8proc_ssize_t count = utf8proc_normalize_utf32(
      points.data(), static_cast<utf8proc_ssize_t>(points.size()), compose_options);
  points.resize(static_cast<std::size_t>(std::max<utf8proc_ssize_t>(count, 0)));
}

/// Whether nothing that stands before `point` can change it and it does not change alone: text may
/// be cut before it and each part normalised for itself.
bool is_inert(char32_t point) {
  // U+11A7 is just below the trailing Hangul consonants; utf8proc drops it behind a syllable.
  if (point < 0x300 || point == 0x11a7 || is_uncomposed(point)) return true;
  if (point >= 0x1160 && point <= 0x11ff) return false;
  if (point >= 0xac00 && point <= 0xd7a3) return true;
  const utf8proc_category_t kind = category(point);
  if (kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_MC) return false;
  if (combining_class(static_cast<utf8proc_int32_t>(point)) != 0) return false;
  const auto alone = [point](const std::vector<utf8proc_int32_t>& points) {
    return points.size() == 1 && points[0] == static_cast<utf8proc_int32_t>(point);
  };
  std::vector<utf8proc_int32_t> points;
  append_decomposed(points, point);
  if (alone(points)) return true;
  compose(points);
  return alone(points);
}

void sort_marks(std::vector<utf8proc_int32_t>& points) {
  const auto lower = [](utf8proc_int32_t a, utf8proc_int32_t b) {
    return combining_class(a) < combining_class(b);
  };
  // A first character that stays uncomposed takes no part: to it the run starts behind.
  auto run = points.begin();
  if (is_uncomposed(static_cast<char32_t>(*run))) ++run;
  while (run != points.end()) {
    const auto end =
        std::find_if(run, points.end(), [](auto p) { return combining_class(p) == 0; });
    if (!std::is_sorted(run, end, lower)) std::stable_sort(run, end, lower);
    run = end == points.end() ? end : end + 1;
  }
}

std::string normalized_segment(std::string_view segment) {
  std::vector<utf8proc_int32_t> points;
  for (std::size_t at = 0; at < segment.size();) {
    const Utf8Step step = utf8_step(segment, at);
    if (at == 0 && is_uncomposed(step.point))
      points.push_back(static_cast<utf8proc_int32_t>(step.point));
    else
      append_decomposed(points, step.point);
    at += step.bytes;
  }
  sort_marks(points);
  compose(points);
  std::string text;
  for (const utf8proc_int32_t point : points) {
    std::array<utf8proc_uint8_t, 4> bytes{};
    const auto count = static_cast<std::size_t>(utf8proc_encode_char(point, bytes.data()));
    for (std::size_t i = 0; i < count; ++i) text.push_back(static_cast<char>(bytes[i]));
  }
  return text;
}

}  // namespace

Utf8Step utf8_step(std::string_view text, std::size_t position) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[position + i]); };
  const std::size_t left = text.size() - position;
  const unsigned lead = byte(0);
  if (lead < 0x80) return {lead, 1, true, false};
  if (lead < 0xc2 || lead > 0xf4) return {0, 1, false, false};
  const std::uint8_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // Only the second byte's range depends on the first; it excludes overlong forms, surrogates and
  // values above U+10FFFF.
  const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  char32_t point = lead & (0x7fU >> length);
  for (std::uint8_t i = 1; i < length; ++i) {
    if (i >= left) return {0, i, false, true};
    const unsigned next = byte(i);
    if (next < (i == 1 ? low : 0x80) || next > (i == 1 ? high : 0xbf)) return {0, i, false, false};
    point = point << 6 | (next & 0x3f);
  }
  return {point, length, true, false};
}

std::optional<std::size_t> first_invalid_utf8(std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t word = 0;
    while (text.size() - at >= sizeof word) {
      std::memcpy(&word, text.data() + at, sizeof word);
      if ((word & 0x8080808080808080U) != 0) break;
      at += sizeof word;
    }
    if (at == text.size()) break;
    const Utf8Step step = utf8_step(text, at);
    if (!step.valid) return at;
    at += step.bytes;
  }
  return std::nullopt;
}

Utf8Step utf8_step_back(std::string_view text, std::size_t position) noexcept {
  std::size_t begin = position - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
  return utf8_step(text, begin);
}

CharClass char_class(char32_t point) noexcept {
  return point < 128 ? ascii_classes[point] : wide_class(point);
}

bool is_word(char32_t point) noexcept {
  static constexpr Range alphabetic_symbols[] = {
      {0x24b6, 0x24e9}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}};
  switch (category(point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    case UTF8PROC_CATEGORY_CN:
      return find_range(later_ranges, point) != std::end(later_ranges);
    case UTF8PROC_CATEGORY_CF:
      return point == 0x200c || point == 0x200d;
    case UTF8PROC_CATEGORY_SO:
      return find_range(alphabetic_symbols, point) != std::end(alphabetic_symbols);
    default:
      return false;
  }
}

std::optional<std::string> nfc(std::string_view text) {
  std::optional<std::string> result;
  std::size_t copied = 0;  // text[0, copied) is in result, once there is one
  std::size_t at = 0;
  const auto below_0x300 = [&](std::size_t i) {
    return static_cast<unsigned char>(text[i]) < 0xcc;
  };
  while (true) {
    while (at < text.size() && below_0x300(at)) ++at;
    if (at == text.size()) break;
    const Utf8Step step = utf8_step(text, at);
    if (is_inert(step.point)) {
      at += step.bytes;
      continue;
    }
    const std::size_t begin = at == 0 ? 0 : at - utf8_step_back(text, at).bytes;
    std::size_t end = at + step.bytes;
    while (end < text.size()) {
      const Utf8Step next = utf8_step(text, end);
      if (is_inert(next.point)) break;
      end += next.bytes;
    }
    const std::string_view segment = text.substr(begin, end - begin);
    const std::string normal = normalized_segment(segment);
    if (normal != segment) {
      if (!result) result.emplace().reserve(text.size());
      result->append(text.substr(copied, begin - copied)).append(normal);
      copied = end;
    }
    at = end;
  }
  if (result) result->append(text.substr(copied));
  return result;
}

}  // namespace neoxref::engine
