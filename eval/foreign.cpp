// SPDX-License-Identifier: Apache-2.0
#include "eval/foreign.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "engine/error.hpp"
#include "engine/safetensors.hpp"
#include "eval/foreign_readers.hpp"

namespace neoxref::eval {

using engine::Error;

namespace {

struct TypeFacts {
  ForeignType type;
  std::string_view name;
  std::size_t bytes;
};

constexpr TypeFacts types[] = {
    {ForeignType::f16, "f16", 2},     {ForeignType::bf16, "bf16", 2}, {ForeignType::f32, "f32", 4},
    {ForeignType::f64, "f64", 8},     {ForeignType::i8, "i8", 1},     {ForeignType::i16, "i16", 2},
    {ForeignType::i32, "i32", 4},     {ForeignType::i64, "i64", 8},   {ForeignType::u8, "u8", 1},
    {ForeignType::u16, "u16", 2},     {ForeignType::u32, "u32", 4},   {ForeignType::u64, "u64", 8},
    {ForeignType::boolean, "bool", 1}};

const TypeFacts& facts(ForeignType type) {
  return types[static_cast<std::size_t>(type)];
}

using Reader = void (*)(const foreign::SharedFile&, const std::string&, ForeignFile&);

struct Format {
  const char* name;
  const char* suffix;
  Reader read;
  const char* begins;  ///< how its bytes begin, in words
};

constexpr Format safetensors{"safetensors", ".safetensors", foreign::read_safetensors,
                             "a length and a JSON header"};
constexpr Format npz{"npz", ".npz", foreign::read_npz, "PK"};
constexpr Format npy{"npy", ".npy", foreign::read_npy, "\\x93NUMPY"};
constexpr Format kld{"kld", ".kld", foreign::read_kld, "_logits_"};
constexpr Format polygraphy{"Polygraphy JSON", ".json", foreign::read_polygraphy, "{"};
constexpr Format tensor_proto{"TensorProto", ".pb", foreign::read_tensor_proto, "a message field"};
constexpr const Format* formats[] = {&safetensors, &npz, &npy, &kld, &polygraphy, &tensor_proto};

bool begins_with(std::span<const std::byte> bytes, std::string_view text) {
  return bytes.size() >= text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

/// The format that the first bytes belong to; null where they say nothing.
const Format* format_of(std::span<const std::byte> bytes) {
  if (begins_with(bytes, std::string_view("PK\x03\x04", 4)) ||
      begins_with(bytes, std::string_view("PK\x05\x06", 4))) {
    return &npz;
  }
  if (begins_with(bytes, "\x93NUMPY")) return &npy;
  if (begins_with(bytes, "_logits_")) return &kld;
  if (bytes.size() > 8 && static_cast<char>(bytes[8]) == '{' && static_cast<char>(bytes[7]) == 0) {
    return &safetensors;
  }
  if (begins_with(bytes, "{")) return &polygraphy;
  return nullptr;
}

const Format* format_of_name(const std::filesystem::path& path) {
  const std::string suffix = path.extension().string();
  for (const Format* format : formats) {
    if (suffix == format->suffix) return format;
  }
  return nullptr;
}

/// Errors: Error where name and content say different things, or neither says anything.
const Format& choose_format(const std::filesystem::path& path, std::span<const std::byte> bytes,
                            const std::string& place) {
  const Format* named = format_of_name(path);
  const Format* found = format_of(bytes);
  if (bytes.empty()) throw Error(place, "the file is empty");
  if (named == &tensor_proto && found == nullptr) found = named;
  if (found == nullptr && named == nullptr) {
    throw Error(place,
                "not a format that is read here; numbers alone need a \"raw\" entry in --rules",
                "safetensors, npz, npy, pb, json or kld");
  }
  if (named != nullptr && found != named) {
    throw Error(place, std::string("not what its name says (") + named->name + ")", named->begins,
                found == nullptr ? "other bytes" : found->name);
  }
  return *found;
}

void read_one(const std::filesystem::path& path, std::span<const RawArray> raw,
              const std::string& place, ForeignFile& into) {
  const auto file = std::make_shared<const engine::MappedFile>(path);
  bool described = false;
  for (const RawArray& each : raw) {
    if (each.file != path.filename().string()) continue;
    foreign::read_raw(file, each, place, into);
    described = true;
  }
  if (described) return;
  choose_format(path, file->bytes(), place).read(file, place, into);
}

/// Files of a folder in the order of their names. What is no array is noted.
ForeignFile read_folder(const std::filesystem::path& path, std::span<const RawArray> raw) {
  ForeignFile result;
  std::vector<std::filesystem::path> files;
  for (const auto& each : std::filesystem::directory_iterator(path)) {
    if (each.is_regular_file()) files.push_back(each.path());
  }
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    const std::string name = file.filename().string();
    const bool described = std::any_of(raw.begin(), raw.end(),
                                       [&](const RawArray& each) { return each.file == name; });
    const Format* named = format_of_name(file);
    if (!described && (named == nullptr || named == &polygraphy)) {
      result.notes.push_back(name + ": not read, as its name is not that of an array");
      continue;
    }
    read_one(file, raw, path.filename().string() + "/" + name, result);
  }
  if (result.arrays.empty()) {
    throw Error(path.string(), "no arrays in this folder",
                "files .npy, .npz, .safetensors, .pb or .kld, or \"raw\" entries in --rules");
  }
  result.format = "folder";
  return result;
}

/// Errors: Error for a name that appears twice: nobody could say which one is meant.
void check_names(const ForeignFile& file, const std::string& where) {
  std::vector<std::string_view> names;
  for (const ForeignArray& array : file.arrays) names.push_back(array.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end())
    throw Error(where, "two arrays are named '" + std::string(*twice) + "'");
}

}  // namespace

std::size_t foreign_type_bytes(ForeignType type) {
  return facts(type).bytes;
}

bool is_floating(ForeignType type) {
  return type <= ForeignType::f64;
}

std::string_view foreign_type_name(ForeignType type) {
  return facts(type).name;
}

std::optional<ForeignType> parse_foreign_type(std::string_view name) {
  for (const TypeFacts& each : types) {
    if (each.name == name) return each.type;
  }
  return std::nullopt;
}

std::size_t ForeignArray::elements() const {
  std::size_t count = 1;
  for (const std::uint64_t extent : shape) count *= static_cast<std::size_t>(extent);
  return count;
}

std::string ForeignArray::shape_text() const {
  return engine::shape_text(shape);
}

ForeignFile open_foreign(const std::filesystem::path& path, std::span<const RawArray> raw) {
  ForeignFile result;
  if (std::filesystem::is_directory(path)) {
    result = read_folder(path, raw);
  } else {
    read_one(path, raw, path.filename().string(), result);
  }
  if (result.arrays.empty()) throw Error(path.string(), "no arrays in this file");
  check_names(result, path.filename().string());
  return result;
}

namespace foreign {

std::size_t checked_bytes(std::span<const std::uint64_t> shape, ForeignType type,
                          std::string_view place) {
  constexpr std::uint64_t most = std::uint64_t{1} << 46;
  std::uint64_t bytes = foreign_type_bytes(type);
  for (const std::uint64_t extent : shape) {
    if (extent != 0 && bytes > most / extent) {
      throw Error(place, "larger than any memory", "at most 2^46 bytes", engine::shape_text(shape));
    }
    bytes *= extent;
  }
  return static_cast<std::size_t>(bytes);
}

std::function<ForeignBytes()> mapped(SharedFile file, std::span<const std::byte> view) {
  return [file = std::move(file), view] { return ForeignBytes{view, file}; };
}

std::function<ForeignBytes()> held(std::vector<std::byte> bytes) {
  const auto keeper = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  return [keeper] { return ForeignBytes{*keeper, keeper}; };
}

void read_raw(const SharedFile& file, const RawArray& raw, const std::string& place,
              ForeignFile& into) {
  const std::size_t bytes = checked_bytes(raw.shape, raw.type, place);
  const std::size_t size = file->bytes().size();
  if (raw.offset > size || bytes != size - raw.offset) {
    throw Error(place,
                "not as long as \"raw\" says: " + std::string(foreign_type_name(raw.type)) + " " +
                    engine::shape_text(raw.shape) + " behind " + std::to_string(raw.offset) +
                    " bytes",
                std::to_string(bytes + raw.offset) + " bytes", std::to_string(size));
  }
  into.format = "raw";
  into.arrays.push_back({raw.name, place, raw.type, raw.shape, false,
                         mapped(file, file->bytes().subspan(raw.offset, bytes))});
}

void read_safetensors(const SharedFile& file, const std::string& place, ForeignFile& into) {
  constexpr std::pair<std::string_view, ForeignType> names[] = {
      {"F16", ForeignType::f16},     {"BF16", ForeignType::bf16}, {"F32", ForeignType::f32},
      {"F64", ForeignType::f64},     {"I8", ForeignType::i8},     {"I16", ForeignType::i16},
      {"I32", ForeignType::i32},     {"I64", ForeignType::i64},   {"U8", ForeignType::u8},
      {"U16", ForeignType::u16},     {"U32", ForeignType::u32},   {"U64", ForeignType::u64},
      {"BOOL", ForeignType::boolean}};
  into.format = "safetensors";
  for (const engine::TensorView& tensor : engine::parse_safetensors(file->bytes(), place).tensors) {
    const auto* const found =
        std::find_if(std::begin(names), std::end(names),
                     [&](const auto& each) { return each.first == tensor.dtype; });
    if (found == std::end(names)) {
      into.notes.push_back(tensor.name + ": not read, as its dtype is " + tensor.dtype);
      continue;
    }
    into.arrays.push_back({tensor.name, place + ": " + tensor.name, found->second, tensor.shape,
                           false, mapped(file, tensor.bytes)});
  }
}

}  // namespace foreign
}  // namespace neoxref::eval
