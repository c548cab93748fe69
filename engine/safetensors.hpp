// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/mapped_file.hpp"

namespace neoxref::engine {

/// One tensor of a file, not copied: bytes point into the mapping and may start at any address (the
/// format promises no alignment).
struct TensorView {
  std::string name;
  std::string dtype;                 ///< as stored: "F32", "F16", "BF16", "I64", ...
  std::vector<std::uint64_t> shape;  ///< outermost first; empty for a scalar
  std::span<const std::byte> bytes;  ///< row-major, little-endian
  const MappedFile* file = nullptr;  ///< null when parsed from memory

  std::uint64_t elements() const;
  /// "model.safetensors: tensor 'x'", for errors.
  std::string place() const;
};

/// What a header says. tensors are in the order of their bytes and tile the data without gaps.
struct SafetensorsContents {
  std::vector<TensorView> tensors;
  std::map<std::string, std::string> metadata;
};

/// Reads the bytes of a whole file: 8 bytes of header length, the JSON header, the data.
/// The views point into `bytes`. The header is at most 100 MB; memory used is at most about ten
/// times its length.
/// where   names the bytes in errors.
/// Errors  Error for all that the safetensors library refuses, and where it is lax also for:
///         a key that appears twice at any level, a field that the format does not have, metadata
///         that is null, a tensor that is not written as an object, more than 64 dimensions.
SafetensorsContents parse_safetensors(std::span<const std::byte> bytes, std::string_view where);

/// "[2, 3]".
std::string shape_text(std::span<const std::uint64_t> shape);

/// One open file. Move-only; views stay valid when it is moved.
class Safetensors {
public:
  /// Errors: as MappedFile and parse_safetensors.
  static Safetensors open(const std::filesystem::path& path);

  const MappedFile& file() const { return *file_; }
  /// In the order of their bytes.
  std::span<const TensorView> tensors() const { return contents_.tensors; }
  /// Null pointer when there is no such tensor.
  const TensorView* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return contents_.metadata; }

private:
  Safetensors(std::unique_ptr<const MappedFile> file, SafetensorsContents contents);

  std::unique_ptr<const MappedFile> file_;
  SafetensorsContents contents_;
  std::vector<const TensorView*> by_name_;
};

}  // namespace neoxref::engine
