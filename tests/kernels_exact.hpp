// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <boost/test/unit_test.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "simd/kernels.hpp"

/// Seeded inputs and a comparison bit by bit, for the tests of vector kernels against the scalar
/// table.
namespace neoxref::tests {

/// splitmix64: the same numbers everywhere.
class Random {
public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// From 0 to n - 1.
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() % n); }
  /// From low to high, both included.
  std::size_t between(std::size_t low, std::size_t high) { return low + below(high - low + 1); }

private:
  std::uint64_t state_;
};

/// exponents  signs and exponents far apart: every change of order shows.
/// near       values of ordinary size, as in a model.
/// integers   small: any order gives the same sum, so a difference is a wrong element.
/// signs      zeros of both signs, cancellation and underflow to zero.
/// specials   the above with infinities, NaN, subnormals and the largest numbers among them.
enum class Fill { exponents, near, integers, signs, specials };
inline constexpr std::array fills{Fill::exponents, Fill::near, Fill::integers, Fill::signs,
                                  Fill::specials};

inline float draw(Random& random, Fill fill) {
  const auto word = static_cast<std::uint32_t>(random.next());
  const float unit = static_cast<float>(word >> 8) * 0x1p-24f;
  switch (fill) {
    case Fill::near:
      return 4.0f * unit - 2.0f;
    case Fill::integers:
      return static_cast<float>(static_cast<int>(word % 17) - 8);
    case Fill::signs: {
      constexpr float choices[] = {0.0f, -0.0f, 1.0f,     -1.0f,     0x1p-149f,
                                   0.0f, -0.0f, 0x1p-75f, -0x1p-75f, -0x1p-149f};
      return choices[word % 10];
    }
    case Fill::specials:
      if (word % 64 == 0) {
        constexpr std::uint32_t choices[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x7f7fffff,
                                             0xff7fffff, 0x00000001, 0x807fffff, 0x80000000};
        return std::bit_cast<float>(choices[random.below(8)]);
      }
      [[fallthrough]];
    case Fill::exponents:
      break;
  }
  return std::bit_cast<float>((word & 0x807fffffu) |
                              static_cast<std::uint32_t>(random.between(107, 147)) << 23);
}

/// Floats that begin `offset` floats past a 64-byte boundary. Outputs have guards before and after;
/// inputs end where their memory ends, so that a sanitizer sees a read past them.
class Floats {
public:
  static constexpr std::size_t guard = 16;
  static constexpr std::uint32_t untouched = 0x4b1d600du;

  Floats(std::size_t n, std::size_t offset, bool guarded)
      : front_((guarded ? guard : 0) + offset),
        size_(front_ + n + (guarded ? guard : 0)),
        memory_(new (std::align_val_t{64}) float[size_ + 1]) {
    for (std::size_t i = 0; i < size_; ++i) memory_[i] = std::bit_cast<float>(untouched);
  }
  Floats(const Floats& other)
      : front_(other.front_),
        size_(other.size_),
        memory_(new (std::align_val_t{64}) float[size_ + 1]) {
    std::memcpy(memory_.get(), other.memory_.get(), size_ * sizeof(float));
  }
  Floats& operator=(const Floats&) = delete;

  float* data() { return memory_.get() + front_; }
  const float* data() const { return memory_.get() + front_; }

  bool guards_are_intact() const {
    const auto intact = [&](std::size_t i) {
      return std::bit_cast<std::uint32_t>(memory_[i]) == untouched;
    };
    for (std::size_t i = 0; i < guard; ++i) {
      if (!intact(i) || !intact(size_ - guard + i)) return false;
    }
    return true;
  }

  /// The first difference, guards included, as text; empty when there is none.
  std::string difference(const Floats& expected) const {
    for (std::size_t i = 0; i < size_; ++i) {
      const float want = expected.memory_[i];
      const float got = memory_[i];
      const auto want_bits = std::bit_cast<std::uint32_t>(want);
      const auto got_bits = std::bit_cast<std::uint32_t>(got);
      if (want_bits == got_bits || (want != want && got != got)) continue;
      char text[160];
      std::snprintf(text, sizeof text, "index %ld: expected %08x (%a), found %08x (%a)",
                    static_cast<long>(i) - static_cast<long>(front_), want_bits,
                    static_cast<double>(want), got_bits, static_cast<double>(got));
      return text;
    }
    return {};
  }

private:
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::size_t front_;
  std::size_t size_;
  std::unique_ptr<float[], Free> memory_;
};

inline Floats input(Random& random, Fill fill, std::size_t n) {
  Floats values(n, random.below(4), false);
  for (std::size_t i = 0; i < n; ++i) values.data()[i] = draw(random, fill);
  return values;
}

inline Floats output(Random& random, std::size_t n) {
  return Floats(n, random.below(4), true);
}

/// Scratch that fails the test where a kernel wrote beside what was asked for.
class Scratch : public Floats {
public:
  explicit Scratch(std::size_t n) : Floats(n, 0, true), n_(n) {}
  /// All NaN: nothing of an earlier call is left to be found there.
  float* fresh() {
    std::fill_n(data(), n_, std::numeric_limits<float>::quiet_NaN());
    return data();
  }
  ~Scratch() { BOOST_TEST(guards_are_intact(), "a kernel wrote beside its scratch"); }

private:
  std::size_t n_;
};

/// The usable instruction sets but scalar.
inline std::vector<const simd::Kernels*> vector_tables() {
  std::vector<const simd::Kernels*> tables;
  for (const simd::Isa isa : simd::usable_isas()) {
    if (isa != simd::Isa::scalar) tables.push_back(&simd::kernels(isa));
  }
  return tables;
}

/// Runs `run(table, outputs)` on the scalar table and on every vector table, each with its own copy
/// of `outputs`, and compares all of their bits; NaN equals NaN.
template <class Run>
void expect_same(const char* kernel, const std::string& shape, std::uint64_t seed,
                 const Floats& outputs, Run run) {
  Floats expected = outputs;
  run(simd::kernels(simd::Isa::scalar), expected);
  for (const simd::Kernels* table : vector_tables()) {
    Floats found = outputs;
    run(*table, found);
    const std::string difference = found.difference(expected);
    BOOST_TEST(difference.empty(),
               kernel << " on " << table->name << ", " << shape << ", seed " << seed << ", "
                      << difference << "; repeat: kernels_test --run_test="
                      << boost::unit_test::framework::current_test_case().p_name);
  }
}

struct Layout {
  std::size_t stride, block, size;
};

/// Rows, blocks of 64 columns of these rows and of some more, or blocks that lie apart in every row.
inline Layout layout(Random& random, std::size_t rows, std::size_t columns) {
  const std::size_t last = (columns - std::min<std::size_t>(columns, 1)) / simd::dot_block;
  Layout l{columns + random.below(6), simd::dot_block, 0};
  switch (random.below(3)) {
    case 1:
      l = {simd::dot_block, (rows + random.below(3)) * simd::dot_block, 0};
      break;
    case 2:
      l.block += random.below(6);
      l.stride += last * (l.block - simd::dot_block);
  }
  l.size = rows * l.stride + (last + 1) * l.block;
  return l;
}

}  // namespace neoxref::tests
