// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#error "the floating-point environment of this machine is not known"
#endif

namespace neoxref::simd {

/// Round to nearest even, subnormals kept, exceptions masked: the arithmetic of the contract, for
/// as long as the object lives on this thread; then the caller's setting is back. A host program, a
/// library built with -ffast-math or a pool worker may have left another one.
class FloatEnvironment {
public:
  FloatEnvironment() noexcept : saved_(read()) { write(standard); }
  ~FloatEnvironment() { write(saved_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

#if defined(__x86_64__)
  using Register = unsigned int;
  static constexpr Register standard = 0x1f80;
  static Register read() noexcept {
    return _mm_getcsr();
  }
  static void write(Register value) noexcept {
    _mm_setcsr(value);
  }
#else
  using Register = std::uint64_t;
  static constexpr Register standard = 0;
  static Register read() noexcept {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(Register value) noexcept {
    asm volatile("msr fpcr, %0" : : "r"(value));
  }
#endif

private:
  Register saved_;
};

}  // namespace neoxref::simd
