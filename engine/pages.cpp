// SPDX-License-Identifier: Apache-2.0
#include "engine/pages.hpp"

#include <sys/mman.h>

#include <new>
#include <utility>

namespace neoxref::engine {

Pages::Pages(std::size_t bytes, Use use) : size_(bytes) {
  if (bytes == 0) return;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (use == Use::sparse ? MAP_NORESERVE : 0);
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(memory);
}

Pages::~Pages() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Pages::Pages(Pages&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void Pages::prefer_large() const {
#ifdef MADV_HUGEPAGE
  // A system without such pages refuses; what it gives instead has the same contents.
  if (data_ != nullptr) ::madvise(data_, size_, MADV_HUGEPAGE);
#endif
}

}  // namespace neoxref::engine
