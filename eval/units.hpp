// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/parallel.hpp"
#include "engine/tensors.hpp"
#include "eval/matrices.hpp"
#include "eval/profiles.hpp"
#include "simd/kernels.hpp"

namespace neoxref::eval {

/// Rows are tokens, row-major.
struct Matrix64 {
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::vector<double> values;  ///< [rows, columns]

  const double* row(std::size_t i) const { return values.data() + i * columns; }
  double* row(std::size_t i) { return values.data() + i * columns; }
};

/// Of a source only the tensors named: makes units as coarse as wanted.
class OnlyThese : public TensorSource {
public:
  OnlyThese(const TensorSource& source, std::vector<engine::TensorId> ids)
      : source_(source), ids_(std::move(ids)) {}
  bool has(const engine::TensorId& id) const override;
  std::optional<Matrix> get(const engine::TensorId& id) const override;
  std::span<const std::int32_t> tokens() const override { return source_.tokens(); }

private:
  const TensorSource& source_;
  std::vector<engine::TensorId> ids_;
};

/// The sub-graph from the nearest tensors that a source has to one target.
struct Unit {
  engine::TensorId target;
  std::vector<engine::TensorId> inputs;  ///< in the order of execution; without the target
  bool from_ids = false;                 ///< the token ids are an input
  std::vector<engine::TensorId>
      computed;  ///< on the way; the target is the last. One: a single operation
};

/// "layers.3.attention.dense from layers.3.attention.query_key_value": short, for tables.
std::string describe(const Unit& unit);

/// A unit in binary64 on given inputs, and how far a backend of the profile may be from that.
struct UnitResult {
  Unit unit;
  Matrix64 value;  ///< docs/contract.md, section 6, of the inputs' own values
  Matrix64 bound;  ///< for any order of any sum; infinite: no bound here
};

/// One tensor of somebody else's against its unit. Sums run over all elements.
struct UnitSummary {
  Unit unit;
  std::size_t elements = 0;
  std::size_t without_bound = 0;
  std::size_t over_bound =
      0;  ///< own error above its bound, or not a number where the truth is one
  double largest_ratio = 0.0;                      ///< own error / bound, where there is a bound
  std::size_t worst_token = 0, worst_channel = 0;  ///< of largest_ratio
  /// The first token with an element over its bound, and that element.
  std::optional<std::pair<std::size_t, std::size_t>> first_over{};
  double largest_own = 0.0;
  double median_bound = 0.0;  ///< of all elements or an even sample; infinite counts
  double rms_value = 0.0;
  double rms_own = 0.0;
  double rms_inherited = 0.0;           ///< (other - reference) - own; 0 without a reference
  double rms_difference = 0.0;          ///< other - reference; 0 without a reference
  std::vector<double> ratio_of_tokens;  ///< largest own error / bound of each token
  std::vector<double> own_of_tokens;    ///< RMS
  std::vector<double> inherited_of_tokens;
};

/// Evaluates units: the same truth as Oracle<double>, on a team, with running error bounds by
/// docs/bounds.md. For sequences without cuts: with a press the slots that exist are not known here, so
/// whoever has one must not ask. Holds no weights beside the open checkpoint, and of tensors those of
/// the unit at hand, logits by blocks of rows.
class UnitOracle {
public:
  /// The checkpoint and the team must outlive it. Errors: std::invalid_argument for an isa name.
  UnitOracle(const engine::Checkpoint& checkpoint, engine::Team& team, Profile profile,
             const std::string& isa = {});
  ~UnitOracle();
  UnitOracle(const UnitOracle&) = delete;
  UnitOracle& operator=(const UnitOracle&) = delete;

  const Profile& profile() const;
  const engine::Config& config() const;

  /// The smallest unit of a target: its inputs are the nearest tensors that the source has, the ids
  /// where there is none.
  Unit unit(const TensorSource& inputs, const engine::TensorId& target) const;

  /// Rows [first, first + rows) of value and bound, [rows, width] each, in ascending order.
  using Visitor = std::function<void(std::size_t first, std::size_t rows, const double* value,
                                     const double* bound)>;
  /// Errors: Error for ids outside the vocabulary or past the context, and as TensorSource::get.
  Unit visit(const TensorSource& inputs, const engine::TensorId& target, const Visitor& visitor);
  UnitResult evaluate(const TensorSource& inputs, const engine::TensorId& target);

  /// Own error of `output` on `inputs`, summed up. Where the backend's tensors feed each other, inputs
  /// is that backend's source and output its tensor. To inject: inputs is the reference (or OnlyThese of
  /// it), output what the backend's own function made of exactly those.
  /// reference   may be null: then nothing is inherited.
  UnitSummary measure(const TensorSource& inputs, const engine::TensorId& target,
                      const Matrix& output, const Matrix* reference = nullptr);

  /// The rotary table as a tensor of its own: cos or sin of position x real frequency in binary64, and
  /// |angle| times 3 u (u of binary32; for functions.power 0.5) plus what the function and its storage add.
  /// value, bound [positions, rotary_dims / 2].
  UnitResult rotary_table(bool sin, std::size_t positions) const;

private:
  struct State;
  engine::Team& team_;
  std::unique_ptr<State> state_;
};

}  // namespace neoxref::eval
