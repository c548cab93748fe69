// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace neoxref::eval {

/// Memory in a file that has no name until one is given to it: more than fits in memory, and nothing
/// stays behind when the process ends. Move-only.
class ScratchFile {
public:
  /// Zeros, `size` >= 1 bytes in the file system of `folder`. Room is taken at once.
  /// Errors: Error when there is not enough, or the folder cannot be written.
  ScratchFile(const std::filesystem::path& folder, std::size_t size);
  ~ScratchFile();
  ScratchFile(ScratchFile&& other) noexcept;
  ScratchFile& operator=(ScratchFile&& other) noexcept;
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  std::span<std::byte> bytes() const { return {data_, size_}; }

  /// Puts its first `size` bytes on the disk under a name that is free, in the file system of its
  /// folder. bytes() may be used up to there. Errors: Error.
  void name(const std::filesystem::path& path, std::size_t size);

private:
  void release() noexcept;
  int file_ = -1;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string temporary_;  ///< where the file system knows no file without a name
};

}  // namespace neoxref::eval
