// SPDX-License-Identifier: Apache-2.0
#include "eval/digest.hpp"

// Compiled in, so that the fields of a state, which Digest::state() saves, are those of this header.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <new>

#include "engine/error.hpp"

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

namespace {

bool any_nan(const float* values, std::size_t count) {
  bool any = false;
  std::size_t i = 0;
  // A fixed number of steps inside, so that the compiler takes them at once.
  constexpr std::size_t steps = 16;
  for (; i + steps <= count; i += steps) {
    unsigned found = 0;
    for (std::size_t l = 0; l < steps; ++l) found |= values[i + l] != values[i + l] ? 1u : 0u;
    any = any || found != 0;
  }
  for (; i < count; ++i) any = any || values[i] != values[i];
  return any;
}

}  // namespace

void Digest::add(std::span<const float> values) {
  std::array<std::uint32_t, 1024> bits;
  for (std::size_t start = 0; start < values.size(); start += bits.size()) {
    const std::size_t count = std::min(bits.size(), values.size() - start);
    if (!any_nan(values.data() + start, count)) {
      XXH3_128bits_update(state_->hash, values.data() + start, count * sizeof(float));
      continue;
    }
    for (std::size_t i = 0; i < count; ++i) {
      const float value = values[start + i];
      bits[i] = value == value ? std::bit_cast<std::uint32_t>(value) : 0x7fc00000u;
    }
    XXH3_128bits_update(state_->hash, bits.data(), count * sizeof(std::uint32_t));
  }
}

void Digest::add_finite(std::span<const float> values) {
  XXH3_128bits_update(state_->hash, values.data(), values.size_bytes());
}

void Digest::add_bytes(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->hash, bytes.data(), bytes.size());
}

namespace {

constexpr std::string_view digits = "0123456789abcdef";

std::string hexadecimal(const void* bytes, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    const unsigned char byte = static_cast<const unsigned char*>(bytes)[i];
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

std::string version() {
  return std::to_string(XXH_versionNumber()) + ":";
}

}  // namespace

std::string Digest::hex() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_->hash));
  return hexadecimal(canonical.digest, sizeof canonical.digest);
}

namespace {

DigestBytes canonical_bytes(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  return std::to_array(canonical.digest);
}

}  // namespace

DigestBytes digest_of(std::span<const float> values) noexcept {
  if (!any_nan(values.data(), values.size())) return digest_of(std::as_bytes(values));
  // Rare, so it may be slow: as Digest::add, on the stack.
  alignas(XXH3_state_t) XXH3_state_t state;
  XXH3_INITSTATE(&state);
  XXH3_128bits_reset(&state);
  for (const float value : values) {
    const std::uint32_t bits = value == value ? std::bit_cast<std::uint32_t>(value) : 0x7fc00000u;
    XXH3_128bits_update(&state, &bits, sizeof bits);
  }
  return canonical_bytes(XXH3_128bits_digest(&state));
}

std::string digest_text(const DigestBytes& digest) {
  return hexadecimal(digest.data(), digest.size());
}

std::string bytes_digest(std::span<const std::byte> bytes) {
  return digest_text(digest_of(bytes));
}

std::string Digest::state() const {
  XXH3_state_t copy = *state_->hash;
  copy.extSecret = nullptr;  // an address of this process
  return version() + hexadecimal(&copy, sizeof copy);
}

Digest Digest::resume(std::string_view state) {
  const auto refuse = [&] {
    throw engine::Error("digest", "its saved state is not one of this xxHash",
                        version() + std::to_string(2 * sizeof(XXH3_state_t)) + " digits",
                        state.substr(0, 16));
  };
  if (!state.starts_with(version())) refuse();
  state.remove_prefix(version().size());
  if (state.size() != 2 * sizeof(XXH3_state_t)) refuse();
  XXH3_state_t saved;
  for (std::size_t i = 0; i < sizeof saved; ++i) {
    const std::size_t high = digits.find(state[2 * i]);
    const std::size_t low = digits.find(state[2 * i + 1]);
    if (high == std::string_view::npos || low == std::string_view::npos) refuse();
    reinterpret_cast<unsigned char*>(&saved)[i] = static_cast<unsigned char>(high * 16 + low);
  }
  Digest digest;
  saved.extSecret = digest.state_->hash->extSecret;
  if (saved.bufferedSize > sizeof saved.buffer || saved.nbStripesSoFar > saved.nbStripesPerBlock ||
      saved.nbStripesPerBlock != digest.state_->hash->nbStripesPerBlock ||
      saved.secretLimit != digest.state_->hash->secretLimit) {
    refuse();
  }
  *digest.state_->hash = saved;
  return digest;
}

}  // namespace neoxref::eval
