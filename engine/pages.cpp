// SPDX-License-Identifier: Apache-2.0
#include "engine/pages.hpp"

#include <sys/mman.h>

#include <algorithm>
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

void Pages::offer() const {
#ifdef MADV_FREE
  if (data_ != nullptr) ::madvise(data_, size_, MADV_FREE);
#endif
}

Pages PagePool::take(std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    const auto fits = std::lower_bound(
        kept_.begin(), kept_.end(), bytes,
        [](const Pages& pages, std::size_t wanted) { return pages.size() < wanted; });
    if (fits != kept_.end()) {
      Pages pages = std::move(*fits);
      kept_.erase(fits);
      return pages;
    }
    if (!kept_.empty()) kept_.pop_back();
  }
  try {
    return Pages(bytes, Pages::Use::sparse);
  } catch (const std::bad_alloc&) {
    // What is kept counts where a process may address only so much.
    const std::lock_guard lock(mutex_);
    kept_.clear();
  }
  return Pages(bytes, Pages::Use::sparse);
}

void PagePool::give(Pages&& pages) noexcept {
  pages.offer();
  try {
    const std::lock_guard lock(mutex_);
    const auto place =
        std::upper_bound(kept_.begin(), kept_.end(), pages.size(),
                         [](std::size_t size, const Pages& other) { return size < other.size(); });
    kept_.insert(place, std::move(pages));
  } catch (const std::bad_alloc&) {
    // Then they go to the system.
  }
}

PooledPages::PooledPages(std::size_t bytes, std::shared_ptr<PagePool> pool)
    : pages_(pool ? pool->take(bytes) : Pages(bytes, Pages::Use::sparse)), pool_(std::move(pool)) {}

PooledPages::~PooledPages() {
  if (pool_ && pages_.data() != nullptr) pool_->give(std::move(pages_));
}

PooledPages& PooledPages::operator=(PooledPages&& other) noexcept {
  std::swap(pages_, other.pages_);
  std::swap(pool_, other.pool_);
  return *this;
}

}  // namespace neoxref::engine
