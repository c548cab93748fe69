// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/parallel.hpp"
#include "engine/tensors.hpp"
#include "eval/matrices.hpp"
#include "eval/profiles.hpp"
#include "eval/units.hpp"
#include "simd/kernels.hpp"

namespace neoxref::eval {

/// How the rows of query_key_value are read. The contract's: [heads][q, k, v][head_dim].
enum class QkvOrder : std::uint8_t {
  heads_first,       ///< [heads][3][head_dim]
  kinds_first,       ///< [3][heads][head_dim]
  dims_before_kinds  ///< [heads][head_dim][3]
};
/// Which slots a token sees. The contract's: itself and those before.
enum class Sees : std::uint8_t { itself_and_before, one_ahead, only_before };

/// Those rules of docs/contract.md, section 2, that people get wrong, each exchangeable.
struct Rules {
  simd::Function activation = simd::Function::gelu;
  double layer_norm_eps = 1e-5;
  std::size_t rotary_dims = 0;
  bool interleaved = false;  ///< rotary pairs are (2i, 2i + 1)
  int query_shift = 0;       ///< added to a query's position
  int key_shift = 0;         ///< added to a key's position
  QkvOrder qkv_order = QkvOrder::heads_first;
  Sees sees = Sees::itself_and_before;
  bool first_token = true;  ///< false: slot 0 is not seen
  bool scaled = true;       ///< scores take 1 / sqrt(head_dim)
  bool parallel_residual = true;
  bool final_norm = true;                   ///< false: a copy
  std::set<engine::Tensor> without_bias{};  ///< linear layers
  /// Results below the storage's least normal number are 0. Not those of the activation, whose usual
  /// forms (1 + erf) are 0 there anyway.
  bool flushed = false;
  std::optional<Format> logits{};  ///< rounded to it

  /// The contract's for this model.
  explicit Rules(const engine::Config& config);
  Rules() = default;
  /// The result of `tensor`'s own operation may be another one under the other rules.
  bool differs_at(engine::Tensor tensor, const Rules& other) const;
  bool operator==(const Rules&) const = default;
};

/// Units (eval/units.hpp) in binary64 under exchangeable rules, on the first tokens of a source.
/// With the contract's rules the values are those of UnitOracle.
class RuledUnits {
public:
  struct Options {
    std::size_t tokens = 0;         ///< rows: the first of the sequence
    std::size_t logit_columns = 0;  ///< an even sample of the vocabulary; at most vocab
    Profile profile{};              ///< its storage says what Rules::flushed means
    /// Where a row of the source's query_key_value or rotary_k is not a number (a token that it does
    /// not have), the key and value of this one. May be null.
    const TensorSource* stand_in = nullptr;
  };
  /// All must outlive it.
  RuledUnits(const engine::Checkpoint& checkpoint, engine::Team& team, const TensorSource& source,
             Options options);

  /// From now on targets are of this layer or later ones: drops what is held of those before. Values
  /// under these rules are kept, all others are made anew each time.
  void begin(std::size_t layer, const Rules& rules);

  /// What the source has, [tokens, width], or of embed_out [tokens, logit_columns].
  const Matrix64& of_source(const engine::TensorId& id);
  /// The target from the nearest tensors that the source has. Rows that have no meaning under the rules
  /// (a token that sees nothing) are NaN.
  std::shared_ptr<const Matrix64> evaluate(const engine::TensorId& target, const Rules& rules);
  /// False when the unit's value is the same under both rules for certain.
  bool differs(const engine::TensorId& target, const Rules& a, const Rules& b) const;

private:
  using Held = std::shared_ptr<const Matrix64>;
  std::vector<engine::TensorId> parents(const engine::TensorId& id) const;
  bool differs(const engine::TensorId& target, const Rules& a, const Rules& b,
               std::map<engine::TensorId, bool>& known) const;
  Held value(const engine::TensorId& id, const Rules& rules);
  Held compute(const engine::TensorId& id, const Rules& rules);
  Held operate(const engine::TensorId& id, const Rules& rules);
  Matrix64 rotary(const engine::TensorId& id, const Rules& rules);
  Matrix64 context(const engine::TensorId& id, const Rules& rules);
  std::vector<std::size_t> logit_columns() const;
  /// Columns of q, k or v (0, 1, 2) of query_key_value, as [tokens, heads * head_dim].
  Matrix64 part(const Matrix64& qkv, std::size_t which, QkvOrder order) const;
  void stand_in_rows(Matrix64& k, Matrix64& v, std::size_t layer, const Rules& rules) const;
  void finish(Matrix64& matrix, const engine::TensorId& id, const Rules& rules) const;

  const engine::Checkpoint& checkpoint_;
  const engine::Config& config_;
  engine::Team& team_;
  const TensorSource& source_;
  Options options_;
  Rules kept_rules_;
  std::map<engine::TensorId, Held> from_source_;
  std::map<engine::TensorId, Held> kept_;  ///< computed under kept_rules_
  std::map<engine::TensorId, Held> call_;  ///< computed for the evaluation of now, under its rules
};

}  // namespace neoxref::eval
