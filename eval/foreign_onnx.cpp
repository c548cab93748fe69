// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cstring>
#include <optional>

#include "engine/error.hpp"
#include "eval/foreign_readers.hpp"

namespace neoxref::eval::foreign {
namespace {

using engine::Error;

/// Fields of one Protocol Buffers message, front to back.
/// https://protobuf.dev/programming-guides/encoding/
class Message {
public:
  Message(std::span<const std::byte> bytes, std::string_view place)
      : bytes_(bytes), place_(place) {}

  struct Field {
    std::uint64_t number = 0;
    std::uint64_t kind = 0;  ///< 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes
    std::uint64_t value = 0;
    std::span<const std::byte> bytes;
  };

  std::optional<Field> next() {
    if (at_ == bytes_.size()) return std::nullopt;
    Field field;
    const std::uint64_t key = varint();
    field.number = key >> 3;
    field.kind = key & 7;
    if (field.number == 0) refuse("field number 0");
    if (field.kind == 0) {
      field.value = varint();
    } else if (field.kind == 1) {
      field.bytes = take(8);
    } else if (field.kind == 2) {
      field.bytes = take(varint());
    } else if (field.kind == 5) {
      field.bytes = take(4);
    } else {
      refuse("field of kind " + std::to_string(field.kind));
    }
    return field;
  }
  bool at_end() const { return at_ == bytes_.size(); }

  std::uint64_t varint() {
    std::uint64_t result = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) refuse("truncated");
      const auto byte = std::to_integer<std::uint64_t>(bytes_[at_++]);
      result |= (byte & 0x7f) << shift;
      if (byte < 0x80) return result;
    }
    refuse("a number of more than 64 bits");
  }

private:
  [[noreturn]] void refuse(const std::string& problem) const {
    throw Error(place_, "not an ONNX TensorProto: " + problem + " at byte " + std::to_string(at_));
  }
  std::span<const std::byte> take(std::uint64_t count) {
    if (count > bytes_.size() - at_) refuse("truncated");
    const auto result = bytes_.subspan(at_, static_cast<std::size_t>(count));
    at_ += static_cast<std::size_t>(count);
    return result;
  }

  std::span<const std::byte> bytes_;
  std::string_view place_;
  std::size_t at_ = 0;
};

/// TensorProto.DataType that is read here.
std::optional<ForeignType> type_of(std::uint64_t number) {
  switch (number) {
    case 1:
      return ForeignType::f32;
    case 2:
      return ForeignType::u8;
    case 3:
      return ForeignType::i8;
    case 4:
      return ForeignType::u16;
    case 5:
      return ForeignType::i16;
    case 6:
      return ForeignType::i32;
    case 7:
      return ForeignType::i64;
    case 9:
      return ForeignType::boolean;
    case 10:
      return ForeignType::f16;
    case 11:
      return ForeignType::f64;
    case 12:
      return ForeignType::u32;
    case 13:
      return ForeignType::u64;
    case 16:
      return ForeignType::bf16;
    default:
      return std::nullopt;
  }
}

/// Numbers of a packed or single field, each cut to `size` bytes, little-endian.
void append_numbers(const Message::Field& field, std::size_t size, std::string_view place,
                    std::vector<std::byte>& out) {
  const auto add = [&](std::uint64_t value) {
    for (std::size_t i = 0; i < size; ++i) out.push_back(static_cast<std::byte>(value >> (8 * i)));
  };
  if (field.kind == 0) return add(field.value);
  Message packed(field.bytes, place);
  while (!packed.at_end()) add(packed.varint());
}

}  // namespace

void read_tensor_proto(const SharedFile& file, const std::string& place, ForeignFile& into) {
  Message message(file->bytes(), place);
  std::vector<std::uint64_t> shape;
  std::optional<std::span<const std::byte>> raw;
  std::uint64_t type_number = 0;
  std::vector<std::byte> floats;        // float_data, double_data
  std::vector<Message::Field> numbers;  // int32_data, int64_data, uint64_data
  std::string name;
  while (const auto field = message.next()) {
    const std::string_view text(reinterpret_cast<const char*>(field->bytes.data()),
                                field->bytes.size());
    switch (field->number) {
      case 1: {  // dims
        Message packed(field->bytes, place);
        if (field->kind == 0) shape.push_back(field->value);
        while (field->kind == 2 && !packed.at_end()) shape.push_back(packed.varint());
        break;
      }
      case 2:
        type_number = field->value;
        break;
      case 4:
      case 10:
        floats.insert(floats.end(), field->bytes.begin(), field->bytes.end());
        break;
      case 5:
      case 7:
      case 11:
        numbers.push_back(*field);
        break;
      case 8:
        name = text;
        break;
      case 9:
        raw = field->bytes;
        break;
      case 13:
      case 14:
        if (field->number == 14 && field->value == 0) break;
        throw Error(place, "the values lie in another file (external_data), which is not read");
      default:
        break;
    }
  }
  const auto type = type_of(type_number);
  if (!type) {
    throw Error(place, "an element type that is not read",
                "float, double, float16, bfloat16, (u)int",
                "TensorProto.DataType " + std::to_string(type_number));
  }
  const std::size_t size = foreign_type_bytes(*type);
  for (const Message::Field& field : numbers) append_numbers(field, size, place, floats);
  const std::size_t expected = checked_bytes(shape, *type, place);
  const std::size_t found = raw ? raw->size() : floats.size();
  if (found != expected) {
    throw Error(place, "not as many values as the shape says", std::to_string(expected) + " bytes",
                std::to_string(found));
  }
  if (name.empty()) name = file->path().stem().string();
  into.format = "TensorProto";
  into.arrays.push_back({std::move(name), place, *type, std::move(shape), false,
                         raw ? mapped(file, *raw) : held(std::move(floats))});
}

}  // namespace neoxref::eval::foreign
