// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace neoxref::eval {

/// Types of elements that somebody else's file may hold. f8 and the like are not among them.
enum class ForeignType : std::uint8_t {
  f16,
  bf16,
  f32,
  f64,
  i8,
  i16,
  i32,
  i64,
  u8,
  u16,
  u32,
  u64,
  boolean
};

/// Bytes of an element.
std::size_t foreign_type_bytes(ForeignType type);
bool is_floating(ForeignType type);
/// "f32". parse: nothing for another name.
std::string_view foreign_type_name(ForeignType type);
std::optional<ForeignType> parse_foreign_type(std::string_view name);

/// Little-endian bytes that stay where they are while `keeper` lives.
struct ForeignBytes {
  std::span<const std::byte> view;
  std::shared_ptr<const void> keeper;
};

/// One array of somebody else's file.
struct ForeignArray {
  std::string name;
  std::string place;  ///< "dump.npz: x.npy", for errors
  ForeignType type = ForeignType::f32;
  std::vector<std::uint64_t> shape;  ///< outermost first; its product fits std::size_t
  bool column_major = false;         ///< the first axis is the dense one
  /// All bytes: mapped, or read and unpacked when asked. Errors: Error.
  std::function<ForeignBytes()> read;

  std::size_t elements() const;
  std::string shape_text() const;
};

/// Where the values of a file are logarithms of probabilities, and of which tokens.
struct ForeignLogProbabilities {
  std::size_t first_token = 0;
};

/// What a file or folder holds.
struct ForeignFile {
  std::string format;                ///< "safetensors", "npz", ...
  std::vector<ForeignArray> arrays;  ///< in the file's order
  std::vector<std::string> notes;    ///< what was left aside, and why
  /// Of arrays named "log_probabilities": tokens [first, first + rows).
  std::optional<ForeignLogProbabilities> log_probabilities;
};

/// A file that is nothing but numbers, as a rules file describes it.
struct RawArray {
  std::string file;  ///< its name, without folders
  std::string name;  ///< of the array in it
  ForeignType type = ForeignType::f32;
  std::vector<std::uint64_t> shape;
  std::uint64_t offset = 0;  ///< bytes before the first element
};

/// Reads OTHER: safetensors, npz, npy, raw numbers, ONNX TensorProto (.pb), Polygraphy JSON, llama.cpp's
/// logit base (.kld), or a folder of such files. What a file is, its content says; a name that says
/// otherwise is an error. Values are not looked at. Memory: the headers; contents are mapped, or
/// unpacked one array at a time.
/// Errors  Error for what is missing, truncated, of another format, or has a shape that its bytes do
///         not fill.
ForeignFile open_foreign(const std::filesystem::path& path, std::span<const RawArray> raw = {});

}  // namespace neoxref::eval
