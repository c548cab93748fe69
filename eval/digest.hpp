// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace neoxref::eval {

/// XXH3-128 over little-endian binary32 values in the order they are added; every NaN counts as
/// 0x7fc00000. Two runs with the same digest gave the same bits.
class Digest {
public:
  Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;
  ~Digest();

  void add(std::span<const float> values);
  /// The same for values that are known to be finite.
  void add_finite(std::span<const float> values);
  /// Bytes of a file, as they are.
  void add_bytes(std::span<const std::byte> bytes);
  /// 32 hexadecimal digits, canonical byte order.
  std::string hex() const;

  /// Where it is, to go on from in another process with the same xxHash.
  std::string state() const;
  /// Errors: Error for a text that state() of this xxHash has not made.
  static Digest resume(std::string_view state);

private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The 16 bytes of an XXH3-128 in canonical (big-endian) order: what hex() shows.
using DigestBytes = std::array<std::uint8_t, 16>;
/// The Digest of these values alone, without allocating.
DigestBytes digest_of(std::span<const float> values) noexcept;
/// Of bytes as they are.
DigestBytes digest_of(std::span<const std::byte> bytes) noexcept;
/// 32 hexadecimal digits.
std::string digest_text(const DigestBytes& digest);

/// XXH3-128 of a file's bytes, 32 hexadecimal digits: what the program xxh128sum prints.
std::string bytes_digest(std::span<const std::byte> bytes);

}  // namespace neoxref::eval
