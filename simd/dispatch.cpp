// SPDX-License-Identifier: Apache-2.0
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "simd/kernels.hpp"
#include "simd/scalar/kernels.hpp"
#include "simd/vector/scratch.hpp"

// Which vector tables are linked in is told by the build: NEOXREF_HAVE_AVX2, _AVX512, _NEON.
namespace neoxref::simd {

#ifdef NEOXREF_HAVE_AVX2
namespace avx2 {
extern const Kernels table;
}
#endif
#ifdef NEOXREF_HAVE_AVX512
namespace avx512 {
extern const Kernels table;
extern const Kernels zen4_table;
}  // namespace avx512
#endif
#ifdef NEOXREF_HAVE_NEON
namespace neon {
extern const Kernels table;
}
#endif

namespace {

constexpr Isa known[] = {Isa::scalar, Isa::neon, Isa::avx2, Isa::zen4, Isa::avx512};

/// Null when it was not built.
const Kernels* built_table(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return &scalar::scalar_table;
#ifdef NEOXREF_HAVE_AVX2
    case Isa::avx2:
      return &avx2::table;
#endif
#ifdef NEOXREF_HAVE_AVX512
    case Isa::avx512:
      return &avx512::table;
    case Isa::zen4:
      return &avx512::zen4_table;
#endif
#ifdef NEOXREF_HAVE_NEON
    case Isa::neon:
      return &neon::table;
#endif
    default:
      return nullptr;
  }
}

#if defined(__x86_64__)
/// clang 14's __builtin_cpu_supports does not know the name.
bool has_f16c() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

/// AMD's family 19h: Zen 3, which has no AVX-512, and Zen 4.
bool prefers_zen4() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(0, &a, &b, &c, &d) == 0) return false;
  const bool amd = b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
  if (!amd || __get_cpuid(1, &a, &b, &c, &d) == 0) return false;
  const unsigned family = (a >> 8 & 0xf) + (a >> 20 & 0xff);
  return family == 0x19;
}
#else
bool prefers_zen4() {
  return false;
}
#endif

/// Also asks whether the system saves the wide registers.
bool cpu_runs(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return true;
#if defined(__x86_64__)
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    case Isa::avx512:
    case Isa::zen4:
      return cpu_runs(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
#elif defined(__aarch64__)
    case Isa::neon:
      return true;
#endif
    default:
      return false;
  }
}

struct Available {
  std::vector<Isa> built;
  std::vector<Isa> usable;

  Available() {
    for (const Isa isa : known) {
      if (built_table(isa) == nullptr) continue;
      built.push_back(isa);
      if (cpu_runs(isa)) usable.push_back(isa);
    }
    if (prefers_zen4()) {
      std::stable_partition(usable.begin(), usable.end(), [](Isa isa) { return isa != Isa::zen4; });
    }
  }
};

const Available& available() {
  static const Available instance;
  return instance;
}

std::string names(std::span<const Isa> isas) {
  std::string text;
  for (const Isa isa : isas) {
    if (!text.empty()) text += ", ";
    text += isa_name(isa);
  }
  return text;
}

[[noreturn]] void refuse(std::string_view name, const char* why) {
  throw std::invalid_argument("instruction set \"" + std::string(name) + "\" " + why + " (known: " +
                              names(known) + "; usable here: " + names(usable_isas()) + ")");
}

}  // namespace

std::size_t product_scratch(std::size_t rows, std::size_t depth, bool in_blocks) {
  const std::size_t chunk = most_chunk_rows(rows, depth);
  const std::size_t in_place = totals_size(chunk) + widened_size;
  return in_blocks ? in_place
                   : std::max(in_place + packed_size(chunk, depth),
                              packed_size(most_deep_chunk_rows(rows), depth));
}

std::size_t attention_scratch(std::size_t queries, std::size_t slots, std::size_t head_dim) {
  const std::size_t rows = queries < max_tile_rows ? queries : max_tile_rows;
  return queries_size(rows, head_dim) + scores_size(rows, slots) + context_size(rows, head_dim);
}

std::span<const Isa> built_isas() {
  return available().built;
}

std::span<const Isa> usable_isas() {
  return available().usable;
}

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::zen4:
      return "zen4";
    case Isa::neon:
      return "neon";
  }
  return "unknown";
}

const Kernels& kernels(Isa isa) {
  const Kernels* table = built_table(isa);
  if (table == nullptr) refuse(isa_name(isa), "was not built in");
  if (!cpu_runs(isa)) refuse(isa_name(isa), "is not supported by this CPU");
  return *table;
}

const Kernels& kernels(std::string_view name) {
  if (name.empty()) {
    const char* forced = std::getenv("NEOXREF_ISA");
    if (forced == nullptr || *forced == '\0') return kernels(usable_isas().back());
    name = forced;
  }
  for (const Isa isa : known) {
    if (isa_name(isa) == name) return kernels(isa);
  }
  refuse(name, "is unknown");
}

}  // namespace neoxref::simd
