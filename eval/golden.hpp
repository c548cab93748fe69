// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/config.hpp"
#include "engine/press.hpp"
#include "engine/safetensors.hpp"
#include "eval/contract.hpp"
#include "eval/digest.hpp"

namespace neoxref::eval {

/// All that is needed to make a run again.
struct GoldenRecipe {
  std::string model;   ///< as it was called
  std::string sha256;  ///< of its weight files: checkpoint_sha256
  engine::Config config;
  std::vector<std::int32_t> tokens;
  std::optional<engine::Press> press;  ///< no score of somebody's own
  std::size_t prompt_tokens = 0;       ///< of trigger after_prompt; else 0
};

/// What is known of a tensor without its values. A row is the last axis.
struct TensorDigest {
  std::string name;                     ///< docs/tensors.md
  std::string dtype;                    ///< "F32" or "I32"
  std::vector<std::uint64_t> shape;     ///< batch axis first, where there is one
  DigestBytes digest{};                 ///< of the 16 bytes of each row's digest, in order
  std::vector<std::uint64_t> leaves{};  ///< the first 8 bytes of each row's digest; or none
};

/// The digest over rows' digests.
DigestBytes tree_digest(std::span<const DigestBytes> rows) noexcept;
/// The 8 bytes of a row's digest that a leaf keeps, as a big-endian number.
std::uint64_t leaf_of(const DigestBytes& row) noexcept;

/// A golden run: its recipe, and what came out. As a folder (docs/goldens.md): golden.json, and perhaps
/// tensors.safetensors.
struct Golden {
  GoldenRecipe recipe;
  std::string tool;         ///< what made it
  bool all_leaves = false;  ///< of every tensor of the forward pass, not only of layer outputs
  std::vector<TensorDigest>
      tensors;  ///< in the order of execution; then the cache; then what was asked for
  std::filesystem::path folder;                     ///< where it lies; empty: nowhere
  std::shared_ptr<const engine::Safetensors> file;  ///< tensors.safetensors, or null

  /// Errors: Error for a folder that is no golden, was changed or damaged, or follows another contract.
  static Golden read(const std::filesystem::path& folder);

  /// The text of golden.json.
  std::string text() const;

  /// Null pointer when there is none of this name.
  const TensorDigest* find(std::string_view name) const;
  /// The stored values, checked against the digest. Null pointer when they are not stored.
  /// Errors: Error when they do not have their digest.
  const engine::TensorView* stored(std::string_view name) const;
};

/// Errors: Error that shows both, for a model whose weights or config are not those of the golden.
/// sha256  of the model, if it is known already; else it is taken.
void check_same_model(const Golden& golden, const engine::Checkpoint& model,
                      std::string sha256 = {});

/// Rows' digests of a tensor's bytes: float32 canonical in its NaNs, integers as they are.
std::vector<DigestBytes> row_digests(std::span<const std::byte> bytes, std::string_view dtype,
                                     std::size_t row_values);

}  // namespace neoxref::eval
