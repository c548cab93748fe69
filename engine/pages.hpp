// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

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

private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace neoxref::engine
