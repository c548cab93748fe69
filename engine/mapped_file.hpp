// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace neoxref::engine {

/// A file seen as memory, read-only, without being copied. Move-only; a view taken from bytes()
/// stays valid when the object is moved, until it is destroyed. An empty file has an empty view.
/// Whoever shortens the file meanwhile takes the pages away from under the readers (SIGBUS): that
/// is the price of not copying.
class MappedFile {
public:
  /// Errors: Error when the path is missing, unreadable, a folder, or not a regular file (a pipe or
  /// a device is never waited for).
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const;

  /// Says that the bytes will be read once, from front to back.
  void advise_sequential() const noexcept;
  /// Lets go of the whole pages inside `range`, a part of bytes(); reading them again is allowed
  /// and brings them back.
  void dont_need(std::span<const std::byte> range) const noexcept;

private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace neoxref::engine
