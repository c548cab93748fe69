// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "engine/mapped_file.hpp"
#include "eval/foreign.hpp"

/// The formats that open_foreign() knows, one function each.
namespace neoxref::eval::foreign {

using SharedFile = std::shared_ptr<const engine::MappedFile>;

/// Elements of a shape times bytes of one. Errors: Error when that is more than memory could ever hold.
std::size_t checked_bytes(std::span<const std::uint64_t> shape, ForeignType type,
                          std::string_view place);

/// Bytes of a mapped file.
std::function<ForeignBytes()> mapped(SharedFile file, std::span<const std::byte> view);
/// Bytes in memory.
std::function<ForeignBytes()> held(std::vector<std::byte> bytes);

/// What a .npy file begins with.
struct NpyHeader {
  ForeignType type = ForeignType::f32;
  std::vector<std::uint64_t> shape;
  bool column_major = false;
  std::size_t data = 0;   ///< offset of the first element
  std::size_t bytes = 0;  ///< of all elements
};
/// start   the file, or its first bytes: at least 64 KiB of it where it has them.
/// Errors  Error.
NpyHeader parse_npy(std::span<const std::byte> start, std::string_view place);
/// One array of a whole .npy file in memory. bytes: lives as long as `keeper`.
ForeignArray npy_array(std::span<const std::byte> bytes, std::shared_ptr<const void> keeper,
                       std::string name, std::string place);

void read_npy(const SharedFile& file, const std::string& place, ForeignFile& into);
void read_npz(const SharedFile& file, const std::string& place, ForeignFile& into);
void read_safetensors(const SharedFile& file, const std::string& place, ForeignFile& into);
void read_tensor_proto(const SharedFile& file, const std::string& place, ForeignFile& into);
void read_polygraphy(const SharedFile& file, const std::string& place, ForeignFile& into);
void read_kld(const SharedFile& file, const std::string& place, ForeignFile& into);
void read_raw(const SharedFile& file, const RawArray& raw, const std::string& place,
              ForeignFile& into);

}  // namespace neoxref::eval::foreign
