// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <cstring>

#include "engine/error.hpp"
#include "engine/safetensors.hpp"
#include "eval/foreign_readers.hpp"

namespace neoxref::eval::foreign {
namespace {

using engine::Error;

/// The Python dictionary that a .npy file begins with: three known keys in any order.
/// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
class Dictionary {
public:
  Dictionary(std::string_view text, std::string_view place) : text_(text), place_(place) {}

  NpyHeader parse() {
    expect('{');
    while (!accept('}')) {
      const std::string key = quoted();
      expect(':');
      if (key == "descr" && !has_type_) {
        header_.type = type();
        has_type_ = true;
      } else if (key == "fortran_order" && !has_order_) {
        header_.column_major = boolean();
        has_order_ = true;
      } else if (key == "shape" && !has_shape_) {
        shape();
        has_shape_ = true;
      } else {
        refuse("unknown or repeated key '" + key + "'");
      }
      accept(',');
    }
    blanks();
    if (at_ != text_.size()) refuse("something follows the dictionary");
    if (!has_type_ || !has_order_ || !has_shape_)
      refuse("descr, fortran_order or shape is missing");
    return header_;
  }

private:
  [[noreturn]] void refuse(const std::string& problem) const {
    throw Error(place_, "header of .npy: " + problem);
  }
  void blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(char c) {
    blanks();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) refuse(std::string("expected '") + c + "' at byte " + std::to_string(at_));
  }
  std::string quoted() {
    blanks();
    const char quote = at_ < text_.size() ? text_[at_] : ' ';
    if (quote != '\'' && quote != '"') refuse("expected a text at byte " + std::to_string(at_));
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) refuse("a text does not end");
    std::string result(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return result;
  }
  bool boolean() {
    blanks();
    for (const bool value : {true, false}) {
      const std::string_view name = value ? "True" : "False";
      if (!text_.substr(at_).starts_with(name)) continue;
      at_ += name.size();
      return value;
    }
    refuse("fortran_order is neither True nor False");
  }
  void shape() {
    expect('(');
    while (!accept(')')) {
      blanks();
      std::uint64_t extent = 0;
      const char* const first = text_.data() + at_;
      const auto [end, problem] = std::from_chars(first, text_.data() + text_.size(), extent);
      if (problem != std::errc{}) refuse("an extent is not a whole number");
      at_ += static_cast<std::size_t>(end - first);
      header_.shape.push_back(extent);
      if (header_.shape.size() > 64) refuse("more than 64 axes");
      accept(',');
    }
  }
  ForeignType type() {
    blanks();
    if (at_ < text_.size() && text_[at_] == '[') refuse("records of fields are not read");
    const std::string name = quoted();
    if (name.size() < 2) refuse("unknown descr '" + name + "'");
    if (name.front() == '>') refuse("big-endian numbers are not read (descr '" + name + "')");
    const std::string kind = name.substr(1);
    if (kind.front() == 'O') refuse("pickled Python objects are not read");
    constexpr std::pair<std::string_view, ForeignType> names[] = {
        {"f2", ForeignType::f16}, {"f4", ForeignType::f32}, {"f8", ForeignType::f64},
        {"i1", ForeignType::i8},  {"i2", ForeignType::i16}, {"i4", ForeignType::i32},
        {"i8", ForeignType::i64}, {"u1", ForeignType::u8},  {"u2", ForeignType::u16},
        {"u4", ForeignType::u32}, {"u8", ForeignType::u64}, {"b1", ForeignType::boolean},
        {"V2", ForeignType::bf16}};  // how numpy writes the bfloat16 of ml_dtypes
    for (const auto& [text, type] : names) {
      if (kind == text) return type;
    }
    refuse("unknown descr '" + name + "'");
  }

  std::string_view text_;
  std::string_view place_;
  std::size_t at_ = 0;
  NpyHeader header_;
  bool has_type_ = false, has_order_ = false, has_shape_ = false;
};

std::string without_suffix(const std::string& name) {
  return name.ends_with(".npy") ? name.substr(0, name.size() - 4) : name;
}

}  // namespace

NpyHeader parse_npy(std::span<const std::byte> start, std::string_view place) {
  const auto byte = [&](std::size_t i) { return std::to_integer<std::size_t>(start[i]); };
  if (start.size() < 12 || std::memcmp(start.data(), "\x93NUMPY", 6) != 0) {
    throw Error(place, "not a .npy file", "\\x93NUMPY at its beginning");
  }
  const std::size_t version = byte(6);
  if (version < 1 || version > 3) {
    throw Error(place, "unknown version of .npy", "1 to 3", std::to_string(version));
  }
  const std::size_t begin = version == 1 ? 10 : 12;
  std::size_t length = byte(8) | byte(9) << 8;
  if (version > 1) length |= byte(10) << 16 | byte(11) << 24;
  constexpr std::size_t most = 65536 - 12;
  if (length > most) {
    throw Error(place, "the header of .npy is too long",
                "at most " + std::to_string(most) + " bytes", std::to_string(length));
  }
  if (begin + length > start.size()) {
    throw Error(place, "truncated in the header of .npy", std::to_string(begin + length) + " bytes",
                std::to_string(start.size()));
  }
  const std::string_view text(reinterpret_cast<const char*>(start.data()) + begin, length);
  NpyHeader header = Dictionary(text, place).parse();
  header.data = begin + length;
  header.bytes = checked_bytes(header.shape, header.type, place);
  return header;
}

ForeignArray npy_array(std::span<const std::byte> bytes, std::shared_ptr<const void> keeper,
                       std::string name, std::string place) {
  const NpyHeader header = parse_npy(bytes, place);
  if (bytes.size() - header.data != header.bytes) {
    throw Error(
        place,
        bytes.size() - header.data < header.bytes ? "truncated" : "longer than its shape says",
        engine::shape_text(header.shape) + " = " + std::to_string(header.bytes) + " bytes",
        std::to_string(bytes.size() - header.data));
  }
  const auto view = bytes.subspan(header.data, header.bytes);
  return {std::move(name),
          std::move(place),
          header.type,
          header.shape,
          header.column_major,
          [view, keeper = std::move(keeper)] { return ForeignBytes{view, keeper}; }};
}

void read_npy(const SharedFile& file, const std::string& place, ForeignFile& into) {
  into.format = "npy";
  into.arrays.push_back(
      npy_array(file->bytes(), file, without_suffix(file->path().filename().string()), place));
}

}  // namespace neoxref::eval::foreign
