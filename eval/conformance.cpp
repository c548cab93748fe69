// SPDX-License-Identifier: Apache-2.0
#include "eval/conformance.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <map>
#include <utility>

#include "engine/error.hpp"
#include "engine/sampler.hpp"
#include "eval/conformance_cases.hpp"
#include "simd/float_environment.hpp"

namespace neoxref::eval {
namespace {

using engine::Error;
using Json = nlohmann::ordered_json;

constexpr std::string_view kit_format = "neoxref-conformance/1";
constexpr std::string_view answers_format = "neoxref-answers/1";
constexpr std::size_t longest_line = std::size_t{1} << 26;
constexpr std::size_t deepest = 16;

template <class Unsigned>
std::string hexadecimal(Unsigned bits) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text(2 * sizeof bits, '0');
  for (std::size_t i = text.size(); i-- > 0; bits = static_cast<Unsigned>(bits >> 4)) {
    text[i] = digits[bits & 15];
  }
  return text;
}

/// Every line of a file of JSON lines, read: (where, value). Empty lines are passed over.
template <class Read>
void each_line(std::string_view text, std::string_view where, Read read) {
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const std::string place = std::string(where) + ": line " + std::to_string(number);
    read(place, Json(engine::parse_json(line, place, longest_line, deepest)));
  }
}

const Json& field(const Json& object, const char* name, const std::string& place) {
  if (!object.is_object() || !object.contains(name)) {
    throw Error(place, "a field is missing", std::string("\"") + name + "\"",
                object.is_object() ? "an object without it" : "no object");
  }
  return object[name];
}

std::string text_field(const Json& object, const char* name, const std::string& place) {
  const Json& value = field(object, name, place);
  if (!value.is_string()) throw Error(place, name, "a text", value.type_name());
  return value;
}

void check_head(const Json& head, std::string_view format, const std::string& place) {
  const std::string found = text_field(head, "format", place);
  if (found != format) throw Error(place, "is in another format", std::string(format), found);
  const std::string contract = text_field(head, "contract", place);
  if (contract != contract_name) {
    throw Error(place, "is about another contract", std::string(contract_name), contract);
  }
}

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> pieces;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    if (end > at) pieces.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return pieces;
}

/// The bits of 8 or 16 hexadecimal digits.
std::optional<std::uint64_t> bits_of(std::string_view word) {
  if (word.size() != 8 && word.size() != 16) return std::nullopt;
  std::uint64_t bits = 0;
  for (const char digit : word) {
    const auto lower = static_cast<char>(digit >= 'A' && digit <= 'F' ? digit - 'A' + 'a' : digit);
    const std::size_t value = std::string_view("0123456789abcdef").find(lower);
    if (value == std::string_view::npos) return std::nullopt;
    bits = bits << 4 | value;
  }
  return bits;
}

bool is_nan(std::uint64_t bits, std::size_t digits) {
  const std::uint64_t infinity = digits == 8 ? 0x7f800000u : 0x7ff0000000000000u;
  const std::uint64_t magnitude = digits == 8 ? 0x7fffffffu : 0x7fffffffffffffffu;
  return (bits & magnitude) > infinity;
}

/// NaN equals any NaN.
bool same_word(std::string_view a, std::string_view b) {
  if (a == b) return true;
  const auto x = bits_of(a);
  const auto y = bits_of(b);
  if (!x || !y || a.size() != b.size()) return false;
  return *x == *y || (is_nan(*x, a.size()) && is_nan(*y, b.size()));
}

struct Difference {
  std::string place, expected, found;
};

std::string shown(const Json& value) {
  constexpr std::size_t most = 60;
  std::string text = value.is_string() ? value.get<std::string>()
                                       : value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > most) text = text.substr(0, most) + "...";
  return text;
}

std::optional<Difference> difference_of_words(const std::string& expected, const Json& found,
                                              const std::string& place) {
  if (!found.is_string()) return Difference{place, shown(expected), shown(found)};
  const std::string text = found;
  const auto a = split(expected);
  const auto b = split(text);
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (same_word(a[i], b[i])) continue;
    return Difference{a.size() == 1 ? place : place + ", number " + std::to_string(i),
                      std::string(a[i]), shown(std::string(b[i]))};
  }
  if (a.size() == b.size()) return std::nullopt;
  return Difference{place, std::to_string(a.size()) + " numbers",
                    std::to_string(b.size()) + " numbers"};
}

std::optional<Difference> difference(const Json& expected, const Json& found,
                                     const std::string& place) {
  if (expected.is_string()) return difference_of_words(expected, found, place);
  if (expected.is_array()) {
    if (!found.is_array()) return Difference{place, "a list", shown(found)};
    for (std::size_t i = 0; i < std::min(expected.size(), found.size()); ++i) {
      if (auto inside = difference(expected[i], found[i], place + "[" + std::to_string(i) + "]")) {
        return inside;
      }
    }
    if (expected.size() == found.size()) return std::nullopt;
    return Difference{place, std::to_string(expected.size()) + " elements",
                      std::to_string(found.size()) + " elements"};
  }
  if (expected.is_object()) {
    if (!found.is_object()) return Difference{place, "an object", shown(found)};
    const std::string prefix = place.empty() ? "" : place + ".";
    for (const auto& [name, value] : expected.items()) {
      if (!found.contains(name)) return Difference{prefix + name, shown(value), "nothing"};
      if (auto inside = difference(value, found[name], prefix + name)) return inside;
    }
    for (const auto& [name, value] : found.items()) {
      if (!expected.contains(name)) return Difference{prefix + name, "nothing", shown(value)};
    }
    return std::nullopt;
  }
  if (expected == found) return std::nullopt;
  return Difference{place, shown(expected), shown(found)};
}

}  // namespace

namespace conformance {

std::string word(float value) {
  return hexadecimal(value == value ? std::bit_cast<std::uint32_t>(value) : 0x7fc00000u);
}

std::string word(double value) {
  return hexadecimal(value == value ? std::bit_cast<std::uint64_t>(value) : 0x7ff8000000000000u);
}

std::string word(std::uint64_t value) {
  return hexadecimal(value);
}

std::string words(std::span<const float> values) {
  std::string text;
  for (const float value : values) text += (text.empty() ? "" : " ") + word(value);
  return text;
}

std::string words(std::initializer_list<float> values) {
  return words(std::span<const float>(values.begin(), values.size()));
}

Json rows(std::span<const float> values, std::size_t width) {
  Json list = Json::array();
  for (std::size_t i = 0; i < values.size(); i += width) {
    list.push_back(words(values.subspan(i, width)));
  }
  return list;
}

std::uint32_t Draws::next() {
  return engine::philox({drawn_++, stream_, 0, 0}, {0, 0})[0];
}

float Draws::symmetric() {
  return static_cast<float>(static_cast<std::int32_t>(next() >> 8) - (1 << 23)) * 0x1p-23f;
}

float Draws::wide(std::uint32_t least, std::uint32_t most) {
  const std::uint32_t bits = next();
  const auto exponent = static_cast<std::uint32_t>(least + below(most - least + 1));
  return std::bit_cast<float>((bits & 0x807fffffu) | exponent << 23);
}

std::vector<float> Draws::symmetric(std::size_t n, float scale) {
  std::vector<float> values(n);
  for (float& value : values) value = symmetric() * scale;
  return values;
}

std::vector<float> Draws::wide(std::size_t n, std::uint32_t least, std::uint32_t most) {
  std::vector<float> values(n);
  for (float& value : values) value = wide(least, most);
  return values;
}

}  // namespace conformance

ConformanceKit make_conformance_kit(const std::filesystem::path& folder) {
  const simd::FloatEnvironment environment;
  ConformanceKit kit;
  conformance::add_arithmetic(kit);
  conformance::add_functions(kit);
  conformance::add_layers_parts(kit);
  conformance::add_presses(kit);
  conformance::add_sampling(kit);
  conformance::add_models(kit, folder);
  return kit;
}

std::string conformance_text(const ConformanceKit& kit) {
  Json levels = Json::object();
  for (const std::string_view level : conformance_levels) {
    levels[std::string(level)] = std::count_if(
        kit.begin(), kit.end(), [&](const auto& each) { return each.level == level; });
  }
  std::string text =
      Json{{"format", kit_format}, {"contract", contract_name}, {"cases", levels}}.dump() + "\n";
  for (const ConformanceCase& each : kit) {
    text += Json{{"id", each.id},
                 {"level", each.level},
                 {"operation", each.operation},
                 {"input", each.input},
                 {"expected", each.expected}}
                .dump() +
            "\n";
  }
  return text;
}

ConformanceKit parse_conformance_kit(std::string_view text, std::string_view where) {
  ConformanceKit kit;
  bool begun = false;
  each_line(text, where, [&](const std::string& place, const Json& line) {
    if (!std::exchange(begun, true)) return check_head(line, kit_format, place);
    ConformanceCase each{text_field(line, "id", place), text_field(line, "level", place),
                         text_field(line, "operation", place), field(line, "input", place),
                         field(line, "expected", place)};
    if (std::find(std::begin(conformance_levels), std::end(conformance_levels), each.level) ==
        std::end(conformance_levels)) {
      throw Error(place, "names no level", "operation, layer, model or generation", each.level);
    }
    kit.push_back(std::move(each));
  });
  if (kit.empty()) throw Error(where, "holds no cases", std::string(kit_format), "nothing");
  return kit;
}

std::vector<ConformanceGrade> grade_conformance(const ConformanceKit& kit, std::string_view answers,
                                                std::string_view where,
                                                std::span<const std::string> levels) {
  std::map<std::string, const ConformanceCase*, std::less<>> questions;
  for (const ConformanceCase& each : kit) questions.emplace(each.id, &each);
  std::map<std::string, Json, std::less<>> given;
  bool begun = false;
  each_line(answers, where, [&](const std::string& place, const Json& line) {
    if (!std::exchange(begun, true)) return check_head(line, answers_format, place);
    const std::string id = text_field(line, "id", place);
    if (!questions.contains(id)) throw Error(place, "the kit has no such case", "an id of it", id);
    if (!given.emplace(id, field(line, "output", place)).second) {
      throw Error(place, "this case has an answer already", "one for each", id);
    }
  });
  if (!begun) throw Error(where, "holds no answers", std::string(answers_format), "nothing");
  std::vector<ConformanceGrade> grades;
  for (const std::string& level : levels) {
    ConformanceGrade grade{level, 0, 0, 0, std::nullopt};
    for (const ConformanceCase& question : kit) {
      if (question.level != level) continue;
      const auto answer = given.find(question.id);
      std::optional<Difference> wrong;
      if (answer == given.end()) {
        ++grade.missing;
        wrong = Difference{"", shown(question.expected), "no answer"};
      } else if ((wrong = difference(question.expected, answer->second, ""))) {
        ++grade.failed;
      } else {
        ++grade.passed;
      }
      if (wrong && !grade.first) {
        grade.first = {&question, wrong->place, wrong->expected, wrong->found};
      }
    }
    grades.push_back(std::move(grade));
  }
  return grades;
}

}  // namespace neoxref::eval
