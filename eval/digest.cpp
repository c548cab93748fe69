// SPDX-License-Identifier: Apache-2.0
#include "eval/digest.hpp"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <new>

namespace neoxref::eval {

static_assert(std::endian::native == std::endian::little,
              "values are hashed as they lie in memory");

struct Digest::State {
  State() : hash(XXH3_createState()) {
    if (hash == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(hash);
  }
  ~State() { XXH3_freeState(hash); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  XXH3_state_t* hash;
};

Digest::Digest() : state_(std::make_unique<State>()) {}
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;
Digest::~Digest() = default;

void Digest::add(std::span<const float> values) {
  std::array<std::uint32_t, 1024> bits;
  for (std::size_t start = 0; start < values.size(); start += bits.size()) {
    const std::size_t count = std::min(bits.size(), values.size() - start);
    for (std::size_t i = 0; i < count; ++i) {
      const float value = values[start + i];
      bits[i] = value == value ? std::bit_cast<std::uint32_t>(value) : 0x7fc00000u;
    }
    XXH3_128bits_update(state_->hash, bits.data(), count * sizeof(std::uint32_t));
  }
}

void Digest::add_bytes(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->hash, bytes.data(), bytes.size());
}

std::string Digest::hex() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_->hash));
  std::string text;
  for (const unsigned char byte : canonical.digest) {
    static constexpr char digits[] = "0123456789abcdef";
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

}  // namespace neoxref::eval
