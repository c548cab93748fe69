// SPDX-License-Identifier: Apache-2.0
#include "eval/scratch_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <utility>

#include "engine/error.hpp"

namespace neoxref::eval {
namespace {

[[noreturn]] void fail(const std::string& where, const char* problem, int code) {
  throw engine::Error(where, problem, {}, std::generic_category().message(code));
}

}  // namespace

ScratchFile::ScratchFile(const std::filesystem::path& folder, std::size_t size) : size_(size) {
  file_ = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
  if (file_ < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
    temporary_ = (folder / ".neoxref-XXXXXX").string();
    file_ = ::mkostemp(temporary_.data(), O_CLOEXEC);
  }
  if (file_ < 0) fail(folder.string(), "cannot be written", errno);
  if (const int problem = ::posix_fallocate(file_, 0, static_cast<off_t>(size)); problem != 0) {
    release();
    throw engine::Error(folder.string(), "has no room for a file", std::to_string(size) + " bytes",
                        std::generic_category().message(problem));
  }
  void* const data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
  if (data == MAP_FAILED) {
    const int problem = errno;
    release();
    fail(folder.string(), "a file in it cannot be mapped", problem);
  }
  data_ = static_cast<std::byte*>(data);
}

ScratchFile::~ScratchFile() {
  release();
}

void ScratchFile::release() noexcept {
  if (data_ != nullptr) ::munmap(data_, size_);
  if (file_ >= 0) ::close(file_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  data_ = nullptr;
  file_ = -1;
  temporary_.clear();
}

ScratchFile::ScratchFile(ScratchFile&& other) noexcept
    : file_(std::exchange(other.file_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      temporary_(std::exchange(other.temporary_, {})) {}

ScratchFile& ScratchFile::operator=(ScratchFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(temporary_, other.temporary_);
  return *this;
}

void ScratchFile::name(const std::filesystem::path& path, std::size_t size) {
  if (::msync(data_, size, MS_SYNC) != 0 || ::ftruncate(file_, static_cast<off_t>(size)) != 0 ||
      ::fsync(file_) != 0) {
    fail(path.string(), "cannot be written", errno);
  }
  if (!temporary_.empty()) {
    // As if it had been made there, where mkostemp kept it to the user alone.
    const mode_t mask = ::umask(0);
    ::umask(mask);
    if (::fchmod(file_, 0666 & ~mask) != 0) fail(path.string(), "cannot be written", errno);
    if (::rename(temporary_.c_str(), path.c_str()) != 0) {
      fail(path.string(), "cannot be written", errno);
    }
    temporary_.clear();
    return;
  }
  const std::string descriptor = "/proc/self/fd/" + std::to_string(file_);
  if (::linkat(AT_FDCWD, descriptor.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    fail(path.string(), "cannot be written", errno);
  }
}

}  // namespace neoxref::eval
