// SPDX-License-Identifier: Apache-2.0
// Hashes of bytes at once, by the widest vectors of the machine where the library chooses at run time. A
// file of its own, since digest.cpp has the library compiled in for the fields of its state.
#ifdef NEOXREF_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include "eval/digest.hpp"

namespace neoxref::eval {

DigestBytes digest_of(std::span<const std::byte> bytes) noexcept {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  return std::to_array(canonical.digest);
}

}  // namespace neoxref::eval
