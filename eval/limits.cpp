// SPDX-License-Identifier: Apache-2.0
#include "eval/limits.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

namespace neoxref::eval {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double wanted_seconds = 10e-3;
/// Floats that the read loop takes at a time.
constexpr std::size_t read_unit = 128;
/// Pieces for each thread: enough that a late one does not matter.
constexpr std::size_t items_per_thread = 8;
constexpr std::size_t fma_rounds = 50'000;

template <class Work>
void do_item(void* context, std::uint32_t, std::uint32_t item, std::size_t) noexcept {
  (*static_cast<Work*>(context))(item);
}

/// The piece of [0, units) that an item gets.
struct Piece {
  std::size_t first;
  std::size_t count;
};
Piece piece_of(std::size_t units, std::size_t items, std::size_t item) {
  const std::size_t first = units * item / items;
  return {first, units * (item + 1) / items - first};
}

}  // namespace

LimitMeter::LimitMeter(engine::Team& team, std::size_t most_bytes)
    : team_(team),
      pages_(simd::round_up(most_bytes + 1, 2 * read_unit * sizeof(float)),
             engine::Pages::Use::whole) {
  pages_.prefer_large();
  // Pages that were only read would all be one.
  std::fill_n(floats(), size(), 0.0f);
}

template <class Work>
double LimitMeter::timed(std::size_t passes, Work& work) {
  const engine::Phase phase{static_cast<std::uint32_t>(team_.threads() * items_per_thread),
                            do_item<Work>};
  const auto start = Clock::now();
  for (std::size_t pass = 0; pass < passes; ++pass) team_.run({&phase, 1}, &work);
  return std::chrono::duration<double>(Clock::now() - start).count();
}

template <class Work>
double LimitMeter::rate(double amount, Work& work) {
  timed(1, work);
  const double once = timed(1, work);
  const auto passes =
      static_cast<std::size_t>(std::max(1.0, wanted_seconds / std::max(once, 1e-6)));
  return static_cast<double>(passes) * amount / timed(passes, work);
}

double LimitMeter::multiply_add(simd::Isa isa) {
  const simd::Limits& limits = simd::limits(isa);
  const double one = limits.multiply_add(1) * static_cast<double>(fma_rounds);
  auto work = [&](std::uint32_t) { limits.multiply_add(fma_rounds); };
  return rate(one * static_cast<double>(team_.threads() * items_per_thread), work);
}

double LimitMeter::read(simd::Isa isa, std::size_t bytes) {
  const simd::Limits& limits = simd::limits(isa);
  const std::size_t units = std::min(bytes / sizeof(float), size()) / read_unit;
  const std::size_t items = team_.threads() * items_per_thread;
  std::atomic<std::uint32_t> kept{0};
  auto work = [&](std::uint32_t item) {
    const Piece piece = piece_of(units, items, item);
    const float sum = limits.read(floats() + piece.first * read_unit, piece.count * read_unit);
    // All are zero; what could be something else cannot be left out by a compiler.
    if (sum != 0.0f) kept.fetch_add(1, std::memory_order_relaxed);
  };
  return rate(static_cast<double>(units * read_unit * sizeof(float)), work);
}

double LimitMeter::copy(std::size_t bytes) {
  const std::size_t count = std::min(bytes / sizeof(float), size() / 2);
  const std::size_t items = team_.threads() * items_per_thread;
  float* const from = floats();
  float* const to = floats() + size() / 2;
  auto work = [&](std::uint32_t item) {
    const Piece piece = piece_of(count, items, item);
    std::memcpy(to + piece.first, from + piece.first, piece.count * sizeof(float));
  };
  return rate(static_cast<double>(count * sizeof(float)), work);
}

}  // namespace neoxref::eval
