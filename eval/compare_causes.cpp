// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <set>

#include "eval/compare_parts.hpp"
#include "eval/golden_tensors.hpp"

namespace neoxref::eval {

using engine::Tensor;
using engine::TensorId;

namespace {

constexpr std::size_t honest_count = 3;
/// Fewer show too little: a deviation needs six that have it.
constexpr std::size_t least_tokens = 16;
/// Multiplications in binary64 that nobody waits long for.
constexpr double least_work = 1e11;

/// The first tokens of OTHER, whole tensors only. Rows that it lacks at the beginning (a first token that
/// was left out) are NaN.
class LookedAt : public TensorSource {
public:
  LookedAt(const ForeignSource& other, const engine::Config& config, std::size_t count)
      : other_(other), count_(count) {
    for (const TensorId& id : forward_tensors(config)) {
      if (other.has(id)) {
        ids_.insert(id);
      } else if (other.parts(id) == std::vector{QkvPart::whole}) {
        take_cut(id);
      }
    }
  }

  bool has(const TensorId& id) const override { return ids_.contains(id); }
  std::optional<Matrix> get(const TensorId& id) const override {
    if (const auto found = cut_.find(id); found != cut_.end()) return found->second;
    return has(id) ? FirstTokens(other_, count_).get(id) : std::nullopt;
  }
  std::span<const std::int32_t> tokens() const override { return other_.tokens().first(count_); }

private:
  void take_cut(const TensorId& id) {
    const Mapped mapped = other_.find(id, QkvPart::whole);
    const std::size_t first = mapped.first_token;
    if (mapped.log_probabilities || first > count_ / 4) return;
    if (first + mapped.matrix.rows < count_) return;
    const std::size_t columns = mapped.matrix.columns;
    Matrix matrix{count_, columns,
                  std::vector<float>(count_ * columns, std::numeric_limits<float>::quiet_NaN())};
    std::copy_n(mapped.matrix.values.begin(), (count_ - first) * columns,
                matrix.values.begin() + static_cast<std::ptrdiff_t>(first * columns));
    cut_.emplace(id, std::move(matrix));
    ids_.insert(id);
  }

  const ForeignSource& other_;
  std::size_t count_;
  std::set<TensorId> ids_;
  std::map<TensorId, Matrix> cut_;
};

/// Multiplications per token.
double work_of(Tensor tensor, const engine::Config& config, std::size_t logit_columns) {
  const auto hidden = static_cast<double>(config.hidden);
  switch (tensor) {
    case Tensor::query_key_value:
      return 3.0 * hidden * hidden;
    case Tensor::dense:
      return hidden * hidden;
    case Tensor::dense_h_to_4h:
    case Tensor::dense_4h_to_h:
      return hidden * static_cast<double>(config.intermediate);
    case Tensor::embed_out:
      return hidden * static_cast<double>(std::min(logit_columns, config.vocab));
    default:
      return 0.0;
  }
}

/// Multiplications per token of the whole search: every unit under every deviation that may change it.
double search_work(const TensorSource& other, const UnitOracle& oracle, double forward,
                   std::size_t logit_columns) {
  const engine::Config& config = oracle.config();
  std::vector<Rules> deviated;
  for (const Deviation& deviation : known_deviations(config)) {
    deviated.emplace_back(config);
    deviation.apply(deviated.back());
  }
  const Rules own(config);
  double work = static_cast<double>(honest_count + 1) * forward;
  for (const TensorId& target : forward_tensors(config)) {
    if (!other.has(target)) continue;
    const std::vector<TensorId> computed = oracle.unit(other, target).computed;
    double once = 0.0;
    for (const TensorId& id : computed) once += work_of(id.tensor, config, logit_columns);
    const auto acting = std::count_if(deviated.begin(), deviated.end(), [&](const Rules& rules) {
      return std::any_of(computed.begin(), computed.end(),
                         [&](const TensorId& id) { return own.differs_at(id.tensor, rules); });
    });
    // Of OTHER once before and once after what is there was taken.
    work += static_cast<double>(honest_count + 2) * static_cast<double>(acting + 1) * once;
  }
  return work;
}

}  // namespace

CauseSearch find_causes(const ForeignSource& other, const TensorSource& reference,
                        const engine::Checkpoint& checkpoint, engine::Team& team,
                        const UnitOracle& oracle, const CompareOptions& options) {
  const engine::Config& config = checkpoint.config();
  DeviationOptions limits;
  const std::size_t all = other.tokens().size();
  std::size_t count = std::min(all, limits.most_tokens);
  const std::vector<TensorId> ids = forward_tensors(config);
  const auto is_target = [](const TensorSource& source) {
    return
        [&source](const TensorId& id) { return id.tensor != Tensor::embed_in && source.has(id); };
  };
  auto looked = std::make_unique<LookedAt>(other, config, count);
  if (std::none_of(ids.begin(), ids.end(), is_target(*looked))) {
    return {std::nullopt, "nothing to look at: no tensor has all tokens"};
  }
  double forward = 0.0;
  for (const TensorId& id : ids) forward += work_of(id.tensor, config, config.vocab);
  const double work = search_work(*looked, oracle, forward, limits.logit_columns);
  const double allowed = std::max(least_work, forward * static_cast<double>(all));
  const auto affordable = static_cast<std::size_t>(std::min(allowed / work, 1e9));
  if (options.causes != Causes::always && affordable < std::min(count, least_tokens)) {
    return {std::nullopt, "too much work beside the comparison itself"};
  }
  const std::size_t fewer = std::min(count, std::max(affordable, least_tokens));
  if (fewer < count) {
    count = fewer;
    looked = std::make_unique<LookedAt>(other, config, count);
  }
  const auto progress = [&](double share) {
    if (options.progress) options.progress(share);
  };
  constexpr double of_runs = 0.3;
  const auto runs =
      honest_runs(checkpoint, team, options.profile, looked->tokens(), looked.get(), honest_count);
  progress(of_runs);
  std::vector<const TensorSource*> honest;
  for (const auto& run : runs) honest.push_back(run.get());
  limits.most_tokens = count;
  limits.progress = [&](double share) { progress(of_runs + (1.0 - of_runs) * share); };
  return {find_deviations(checkpoint, team, options.profile, *looked, &reference, honest, limits),
          {}};
}

}  // namespace neoxref::eval
