// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>
#include <algorithm>
#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

#include "simd/kernels.hpp"
#include "simd/limits.hpp"

/// How a kernel is timed beside a limit of its core.
namespace neoxref::tests {
namespace {

using benchmark::Counter;
using simd::Limits;
using simd::round_up;

/// Floats that begin on a 64-byte boundary, small values.
class Buffer {
public:
  explicit Buffer(std::size_t n) : memory_(n + 16) {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      memory_[i] = static_cast<float>(i * 2654435761u % 4096) * 0x1p-12f - 0.5f;
    }
  }
  float* data() {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (round_up(address, 64) - address) / sizeof(float);
  }

private:
  std::vector<float> memory_;
};

/// Processor time of this thread: what other programs take of the core is not counted.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/// Seconds that one call of `work` takes, of `calls`.
template <class Work>
double seconds_of(std::size_t calls, Work&& work) {
  const double start = thread_seconds();
  for (std::size_t i = 0; i < calls; ++i) {
    work();
    benchmark::ClobberMemory();
  }
  return (thread_seconds() - start) / static_cast<double>(calls);
}

/// Calls that last long enough for the clock.
template <class Work>
std::size_t calls_for(Work&& work) {
  constexpr double enough = 50e-6;
  const double once = std::min(seconds_of(1, work), seconds_of(1, work));
  return once >= enough ? 1 : static_cast<std::size_t>(enough / std::max(once, 1e-8)) + 1;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Times `work` and `limit` in turn. `amount` and `limit_amount` are what each gets done in its
/// run; counters: amount per second, the limit's, and the quotient.
template <class Work, class Limit>
void against(benchmark::State& state, const char* unit, double amount, Work&& work,
             double limit_amount, Limit&& limit) {
  const std::size_t work_calls = calls_for(work);
  const std::size_t limit_calls = calls_for(limit);
  std::vector<double> work_seconds;
  std::vector<double> limit_seconds;
  for (auto step : state) {
    limit_seconds.push_back(seconds_of(limit_calls, limit));
    work_seconds.push_back(seconds_of(work_calls, work));
    state.SetIterationTime(work_seconds.back());
  }
  const double speed = amount / median(work_seconds);
  const double most = limit_amount / median(limit_seconds);
  state.counters[unit] = Counter(speed);
  state.counters[std::string(unit) + "_limit"] = Counter(most);
  state.counters["share"] = Counter(speed / most);
}

template <class Work>
void against_fma(benchmark::State& state, const Limits& limits, double operations, Work&& work) {
  constexpr std::size_t rounds = 20000;
  const double most = limits.multiply_add(rounds);
  against(state, "FLOP/s", operations, work, most, [&] { limits.multiply_add(rounds); });
}

/// `bytes` is what `work` must read; another buffer of the same size is what the limit reads.
template <class Work>
void against_read(benchmark::State& state, const Limits& limits, std::size_t bytes, Work&& work) {
  const std::size_t floats = round_up(bytes / sizeof(float), 128);
  Buffer other(floats);
  against(state, "B/s", static_cast<double>(bytes), work,
          static_cast<double>(floats * sizeof(float)),
          [&] { benchmark::DoNotOptimize(limits.read(other.data(), floats)); });
}

}  // namespace
}  // namespace neoxref::tests
