// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/parallel.hpp"
#include "eval/bound_rules.hpp"
#include "simd/measuring.hpp"

namespace neoxref::eval {

/// The operations of a layer over all tokens at once, each with its rule, shared out over a team.
class UnitSteps {
public:
  UnitSteps(const engine::Checkpoint& checkpoint, engine::Team& team, const BoundRules& rules,
            const simd::Measuring& measuring);

  /// Rows of the embedding.
  Carried embed(std::span<const std::int32_t> tokens) const;
  Carried layer_norm(engine::Weight gain, engine::Weight shift, std::size_t layer, const Carried& x,
                     engine::Tensor result);

  /// The weight of a linear layer and what its input brings: made once, used by blocks of rows.
  struct Linear {
    const engine::TensorView* weight = nullptr;
    simd::Dtype dtype = simd::Dtype::f32;
    std::size_t inputs = 0, outputs = 0;
    std::vector<double> bias;   ///< [outputs] or empty
    std::vector<double> shown;  ///< what holding the bias in the output's format may change
    SumRule rule;
    Format format = Format::f32;
    const Carried* input = nullptr;
    std::vector<double> spread;  ///< [rows, inputs]: terms * magnitude + errors * bound
  };
  /// The input must outlive it.
  Linear prepare(engine::Weight weight, engine::Weight bias, bool has_bias, std::size_t layer,
                 const Carried& x, engine::Tensor result, bool bounds = true);
  /// Rows [first, first + rows): value and bound, [rows, outputs].
  void linear(const Linear& linear, std::size_t first, std::size_t rows, double* value,
              double* bound);
  /// Of those only `all_columns` columns from first_column on: [rows, all_columns]. bound may be null.
  void linear_columns(const Linear& linear, std::size_t first, std::size_t rows,
                      std::size_t first_column, std::size_t all_columns, double* value,
                      double* bound);

  Carried activation(const Carried& x);
  /// which: 0 query, 1 key.
  Carried rotate(const Carried& qkv, std::size_t which, engine::Tensor result);
  Carried context(const Carried& qkv, const Carried& q, const Carried& k);
  /// Terms of one shape; any order.
  Carried residual(std::span<const Carried* const> terms, Format format);
  /// kld16: logits [rows, vocab] become the log-probabilities that such a file holds.
  void to_log_base(std::size_t rows, double* value, double* bound);

private:
  struct Head;
  void attend(const Carried& qkv, const Carried& q, const Carried& k, std::size_t head,
              std::size_t first, std::size_t rows, std::size_t participant, Carried& out);
  void softmax(const double* score, const double* error, std::size_t slots, double* p,
               double* p_error) const;
  std::vector<float> parameters(engine::Weight weight, std::size_t layer) const;
  bool weights_round(engine::Weight weight, std::size_t layer);
  double* scratch(std::size_t participant, std::size_t values);

  const engine::Checkpoint& checkpoint_;
  engine::Team& team_;
  const BoundRules& rules_;
  const engine::Config& config_;
  const simd::Measuring& measuring_;
  std::vector<BoundRules::Turn> turns_;  ///< [positions so far][rotary_dims / 2]
  std::map<std::string, bool> rounded_weights_;
  std::vector<std::vector<double>> scratch_;  ///< of each participant
};

/// Errors: Error for ids outside the vocabulary or past the context.
void check_tokens(const engine::Config& config, std::span<const std::int32_t> tokens);
/// Values [first, first + n) of a weight, widened.
void widen_weights(const engine::TensorView& tensor, simd::Dtype dtype, std::size_t first,
                   std::size_t n, float* out);

}  // namespace neoxref::eval
