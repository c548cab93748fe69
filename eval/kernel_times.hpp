// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "simd/kernels.hpp"

namespace neoxref::eval {

/// What the calls of one kernel took, on all threads together.
struct KernelTime {
  std::string_view kernel;
  std::uint64_t calls = 0;
  double seconds = 0.0;  ///< of the threads that made them, without what looking at the clock takes
  double flops = 0.0;    ///< products and attention: a multiplication with its addition is two
  double bytes = 0.0;    ///< weights of products, keys and values of attention, each call's own

  KernelTime& operator+=(const KernelTime& other);  ///< of the same kernel
};

/// A table of kernels that calls another and looks at the clock before and after: the same bits, a
/// little later. For RunOptions::kernels.
class TimedKernels {
public:
  /// table  must outlive this. Errors: Error when another one lives: a kernel has no argument to say
  ///        whose it is.
  explicit TimedKernels(const simd::Kernels& table);
  ~TimedKernels();
  TimedKernels(const TimedKernels&) = delete;
  TimedKernels& operator=(const TimedKernels&) = delete;

  const simd::Kernels& table() const { return timed_; }
  /// What was called since the last time, kernels without a call left out. No kernel may run meanwhile.
  std::vector<KernelTime> take();

private:
  simd::Kernels timed_;
  double clock_seconds_;  ///< that a call's two looks add to its time
};

}  // namespace neoxref::eval
