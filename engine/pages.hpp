// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace neoxref::engine {

/// Zeroed memory from the system. Pages that nobody touched cost nothing.
class Pages {
public:
  enum class Use : unsigned char {
    whole,  ///< refused where the system has not that much memory
    sparse  ///< of any size: only some of it will be touched
  };

  Pages() = default;
  /// Errors: std::bad_alloc.
  Pages(std::size_t bytes, Use use);
  ~Pages();
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

  /// From now on, where the system can: pages of 2 MB, which are faster to read, but are in memory
  /// as a whole once a byte of them was touched.
  void prefer_large() const;

  /// The system may take pages back, until they are written again; what they hold is then lost.
  void offer() const;

private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Keeps memory that was given back: its pages need not be asked for and cleared again. The system may
/// have them whenever it is short of memory. May be used by several threads at once.
class PagePool {
public:
  /// At least that many bytes, sparse; a new page is zeroed, a kept one as its last owner left it. Never
  /// more mappings than were in use together at some time. Errors: std::bad_alloc.
  Pages take(std::size_t bytes);
  void give(Pages&& pages) noexcept;

private:
  std::mutex mutex_;
  std::vector<Pages> kept_;  ///< by size
};

/// Pages that go back to where they came from. Without a pool they are new, and go to the system.
class PooledPages {
public:
  PooledPages() = default;
  /// Errors: std::bad_alloc.
  PooledPages(std::size_t bytes, std::shared_ptr<PagePool> pool);
  ~PooledPages();
  PooledPages(PooledPages&& other) noexcept = default;
  PooledPages& operator=(PooledPages&& other) noexcept;

  const Pages& pages() const { return pages_; }
  const std::shared_ptr<PagePool>& pool() const { return pool_; }

private:
  Pages pages_;
  std::shared_ptr<PagePool> pool_;
};

}  // namespace neoxref::engine
