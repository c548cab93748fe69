// SPDX-License-Identifier: Apache-2.0
#include "eval/sha256.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <new>
#include <span>

#include "engine/error.hpp"

namespace neoxref::eval {

std::string checkpoint_sha256(const engine::Checkpoint& checkpoint) {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  const std::unique_ptr<EVP_MD_CTX, Free> context(EVP_MD_CTX_new());
  if (context == nullptr) throw std::bad_alloc();
  const auto must = [](int result) {
    if (result != 1) throw engine::Error("SHA-256", "the system's libcrypto does not offer it");
  };
  must(EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr));
  constexpr std::size_t piece = std::size_t{1} << 24;
  for (const engine::Safetensors& file : checkpoint.files()) {
    const std::span<const std::byte> bytes = file.file().bytes();
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      const auto part = bytes.subspan(at, std::min(piece, bytes.size() - at));
      must(EVP_DigestUpdate(context.get(), part.data(), part.size()));
    }
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int size = 0;
  must(EVP_DigestFinal_ex(context.get(), digest.data(), &size));
  constexpr const char* digits = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    text += digits[digest[i] >> 4];
    text += digits[digest[i] & 15];
  }
  return text;
}

}  // namespace neoxref::eval
