// SPDX-License-Identifier: Apache-2.0

/// Digests of a function's results on all 2^32 arguments, without a judge: a table of kernels whose
/// digest is that of a judged one (functions_exhaustive) has passed as well. That makes the proof
/// affordable under emulation and for the scalar definition.
///
///   functions_digest [--function NAME,..|all] [--isa NAME,..] [--blocks FIRST-LAST]
///   functions_digest --join FILE..
///
/// The bits of the argument ascend from 0 in 256 blocks of 2^24. A block's digest is the XXH3-128 of
/// its results as little-endian binary32, every NaN as 7fc00000; the digest of the whole is the
/// XXH3-128 of the 256 block digests, 16 bytes each as they are printed. Lines of output:
///   FUNCTION ISA BLOCK DIGEST
///   FUNCTION ISA all DIGEST        when every block is there
///
/// --blocks         only these blocks (default 0-255), for several processes or in several goes
/// --join           reads such lines and prints what is complete. Exit status 1 when two instruction
///                  sets differ in a block, which is named

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "eval/digest.hpp"
#include "simd/kernels.hpp"

using namespace neoxref;

namespace {

constexpr std::array<std::string_view, 11> names = {"exp",  "log",       "tanh",      "silu",
                                                    "gelu", "gelu_tanh", "gelu_fast", "quick_gelu",
                                                    "relu", "sin",       "cos"};
constexpr std::size_t blocks = 256;
constexpr std::size_t block_size = std::size_t{1} << 24;

/// block -> digest; of one function on one instruction set.
using Blocks = std::map<std::size_t, std::string>;

[[noreturn]] void usage(const std::string& problem) {
  std::fprintf(stderr, "functions_digest: %s (options are listed atop its source)\n",
               problem.c_str());
  std::exit(2);
}

std::size_t number(const std::string& text) {
  char* end = nullptr;
  const unsigned long value = std::strtoul(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value >= blocks) usage("not a block: '" + text + "'");
  return value;
}

std::vector<std::string> parts(std::string text) {
  std::vector<std::string> found;
  text += ',';
  for (std::size_t comma = text.find(','); comma != std::string::npos; comma = text.find(',')) {
    found.push_back(text.substr(0, comma));
    text.erase(0, comma + 1);
  }
  return found;
}

std::string digest_of_block(const simd::Kernels& table, simd::Function function,
                            std::size_t block) {
  constexpr std::size_t chunk = 4096;
  std::array<float, chunk> x;
  std::array<float, chunk> y;
  eval::Digest digest;
  for (std::size_t start = 0; start < block_size; start += chunk) {
    for (std::size_t i = 0; i < chunk; ++i) {
      x[i] = std::bit_cast<float>(static_cast<std::uint32_t>(block * block_size + start + i));
    }
    table.map(function, x.data(), y.data(), chunk);
    digest.add(y);
  }
  return digest.hex();
}

std::string digest_of_all(const Blocks& of) {
  std::vector<unsigned char> bytes;
  for (const auto& [block, hex] : of) {
    for (std::size_t i = 0; i < hex.size(); i += 2) {
      bytes.push_back(static_cast<unsigned char>(std::stoul(hex.substr(i, 2), nullptr, 16)));
    }
  }
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  std::string text;
  for (const unsigned char byte : canonical.digest) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", static_cast<unsigned>(byte));
    text += two;
  }
  return text;
}

void print(const std::string& function, const std::string& isa, const std::string& what,
           const std::string& digest) {
  std::printf("%s %s %s %s\n", function.c_str(), isa.c_str(), what.c_str(), digest.c_str());
  std::fflush(stdout);
}

int join(int count, char** files) {
  std::map<std::string, std::map<std::string, Blocks>> found;
  for (int i = 0; i < count; ++i) {
    std::ifstream file(files[i]);
    if (!file) usage(std::string("cannot read ") + files[i]);
    std::string function, isa, block, digest;
    while (file >> function >> isa >> block >> digest) {
      if (digest.size() != 32) usage(std::string("not a digest in ") + files[i] + ": " + digest);
      if (block == "all") continue;
      const auto [at, added] = found[function][isa].try_emplace(number(block), digest);
      if (!added && at->second != digest) usage("two digests of " + function + " " + block);
    }
  }
  int status = 0;
  for (const auto& [function, isas] : found) {
    std::map<std::size_t, std::pair<std::string, std::string>> first;
    for (const auto& [isa, of] : isas) {
      for (const auto& [block, digest] : of) {
        const auto& [other, expected] = first.try_emplace(block, isa, digest).first->second;
        if (expected == digest) continue;
        std::printf("DIFFERENT %s block %zu: %s %s, %s %s\n", function.c_str(), block,
                    other.c_str(), expected.c_str(), isa.c_str(), digest.c_str());
        status = 1;
      }
      if (of.size() == blocks) {
        print(function, isa, "all", digest_of_all(of));
      } else {
        std::printf("%s %s %zu of %zu blocks\n", function.c_str(), isa.c_str(), of.size(), blocks);
      }
    }
  }
  return status;
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 2 && std::string_view(arguments[1]) == "--join") {
    return join(count - 2, arguments + 2);
  }
  std::vector<std::string> functions(names.begin(), names.end());
  std::vector<std::string> isas;
  for (const simd::Isa isa : simd::usable_isas()) isas.emplace_back(simd::isa_name(isa));
  std::size_t first = 0;
  std::size_t last = blocks - 1;
  if (count % 2 == 0) usage("an option lacks its value");
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string_view name = arguments[i];
    const std::string value = arguments[i + 1];
    if (name == "--function") {
      if (value != "all") functions = parts(value);
    } else if (name == "--isa") {
      isas = parts(value);
    } else if (name == "--blocks") {
      const std::size_t dash = value.find('-');
      if (dash == std::string::npos) usage("--blocks wants FIRST-LAST");
      first = number(value.substr(0, dash));
      last = number(value.substr(dash + 1));
    } else {
      usage("unknown option " + std::string(name));
    }
  }
  for (const std::string& function : functions) {
    const auto at = std::find(names.begin(), names.end(), function);
    if (at == names.end()) usage("unknown function " + function);
    for (const std::string& isa : isas) {
      Blocks of;
      for (std::size_t block = first; block <= last; ++block) {
        of[block] = digest_of_block(simd::kernels(isa),
                                    static_cast<simd::Function>(at - names.begin()), block);
        print(function, isa, std::to_string(block), of[block]);
      }
      if (of.size() == blocks) print(function, isa, "all", digest_of_all(of));
    }
  }
  return 0;
}
