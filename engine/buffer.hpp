// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

namespace neoxref::engine {

/// 64-byte aligned array of trivial elements that never grows; zeroed unless said otherwise.
template <class T>
class Buffer {
  static_assert(std::is_trivial_v<T>);

public:
  Buffer() = default;
  explicit Buffer(std::size_t size) : Buffer(size, Uninitialized{}) {
    std::memset(static_cast<void*>(data_.get()), 0, size * sizeof(T));
  }

  struct Uninitialized {};
  Buffer(std::size_t size, Uninitialized)
      : data_(static_cast<T*>(::operator new(size * sizeof(T), alignment))), size_(size) {}

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return data_.get()[i]; }
  const T& operator[](std::size_t i) const { return data_.get()[i]; }

private:
  static constexpr std::align_val_t alignment{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, alignment); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace neoxref::engine
