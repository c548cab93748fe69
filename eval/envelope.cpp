// SPDX-License-Identifier: Apache-2.0
#include "eval/envelope.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/error.hpp"
#include "eval/bound_rules.hpp"
#include "eval/parallel_items.hpp"
#include "eval/simulated_steps.hpp"
#include "eval/unit_steps.hpp"

namespace neoxref::eval {
namespace {

using engine::Error;
using engine::Tensor;
using engine::TensorId;
using engine::Weight;
using Runs = SimulatedSteps::Runs;

constexpr double infinity = std::numeric_limits<double>::infinity();
/// Columns of the logits that are held at a time; a multiple of 16.
constexpr std::size_t logit_columns = 2048;
/// The grid of kld16: sixteen bits over at most 16.
constexpr double log_base_step = 16.0 / 65535.0;

/// Logit errors by size: 32 bins an octave from 2^-64 on.
class Sizes {
public:
  Sizes() : bins_(32 * 128) {}
  void add(double size) {
    // Exponent and five bits of significand.
    const std::uint64_t bin = std::bit_cast<std::uint64_t>(std::max(size, 0x1p-64)) >> 47;
    ++bins_[std::min<std::size_t>(bin - least_bin, bins_.size() - 1)];
  }
  void add(const Sizes& other) {
    for (std::size_t i = 0; i < bins_.size(); ++i) bins_[i] += other.bins_[i];
  }
  /// The upper edge of the bin that the quantile falls in.
  double quantile(double share) const {
    const auto total =
        static_cast<double>(std::accumulate(bins_.begin(), bins_.end(), std::uint64_t{0}));
    double so_far = 0.0;
    for (std::size_t i = 0; i < bins_.size(); ++i) {
      so_far += static_cast<double>(bins_[i]);
      if (so_far >= share * total) {
        return std::bit_cast<double>((least_bin + i + 1) << 47);
      }
    }
    return infinity;
  }

private:
  static constexpr std::uint64_t least_bin = std::bit_cast<std::uint64_t>(0x1p-64) >> 47;
  std::vector<std::uint64_t> bins_;
};

/// Of one token: sums over channels, so far.
struct Token {
  double truth2 = 0.0;
  std::vector<double> runs2;
  double other1 = 0.0, other2 = 0.0;
  std::size_t other_count = 0;
  double best = -infinity, second = -infinity;
  std::int32_t argmax = 0;
};

class Maker {
public:
  Maker(const engine::Checkpoint& checkpoint, engine::Team& team, const Profile& profile,
        std::span<const std::int32_t> tokens, const EnvelopeOptions& options,
        const TensorSource* other, const EnvelopeWatcher& watcher)
      : config_(checkpoint.config()),
        team_(team),
        profile_(profile),
        exact_(shipped_profile("f32")),
        rules_(exact_, config_),
        truth_(checkpoint, team, rules_, simd::measuring(simd::kernels(options.isa).isa)),
        simulated_(checkpoint, team, profile, simd::kernels(options.isa).isa, options.runs,
                   options.seed),
        tokens_(tokens),
        runs_(options.runs),
        seed_(options.seed),
        other_(other),
        watcher_(watcher) {
    envelope_.profile = profile.name;
  }

  Envelope make();

private:
  /// A tensor: the truth and the runs.
  struct Both {
    Carried truth;
    Runs runs;
  };
  Both met(const TensorId& id, Carried truth, Runs runs);
  Both norm(Weight gain, Weight shift, const TensorId& id, const Both& x);
  Both linear(Weight weight, Weight bias, bool has_bias, const TensorId& id, const Both& x);
  Both attention(std::size_t layer, const Both& qkv);
  Both add(const Both& a, const Both& b, const Both* c, const TensorId& id, bool show);
  void logits(const Both& x);
  void round_to_log_base(Runs& runs, std::size_t first);

  std::optional<Matrix> other(const TensorId& id) const;
  std::vector<Token> fresh() const {
    return std::vector<Token>(tokens_.size(), Token{.runs2 = std::vector<double>(runs_)});
  }
  void sum_up(std::vector<Token>& sums, const Runs& runs, const double* truth, const Matrix* other,
              std::size_t first, std::size_t columns, std::vector<Sizes>* sizes);
  void finish(const TensorId& id, const std::vector<Token>& sums, std::size_t width, bool other,
              bool up_to_shift);
  void show(const TensorId& id, std::size_t first, std::size_t columns, const Runs& runs,
            const double* truth) const;

  const engine::Config& config_;
  engine::Team& team_;
  const Profile& profile_;
  const Profile exact_;
  BoundRules rules_;
  UnitSteps truth_;
  SimulatedSteps simulated_;
  std::span<const std::int32_t> tokens_;
  std::size_t runs_;
  std::uint64_t seed_;
  const TensorSource* other_;
  const EnvelopeWatcher& watcher_;
  Envelope envelope_;
};

std::optional<Matrix> Maker::other(const TensorId& id) const {
  if (other_ == nullptr || !other_->has(id)) return std::nullopt;
  std::optional<Matrix> matrix = other_->get(id);
  const std::size_t width = engine::tensor_width(id.tensor, config_);
  if (!matrix || matrix->rows != tokens_.size() || matrix->columns != width) {
    throw Error(engine::tensor_name(id), "not the tensor of these tokens",
                std::to_string(tokens_.size()) + " x " + std::to_string(width),
                matrix ? std::to_string(matrix->rows) + " x " + std::to_string(matrix->columns)
                       : "nothing");
  }
  return matrix;
}

/// truth [tokens, columns], the runs likewise; other whole, its columns from `first` on.
void Maker::sum_up(std::vector<Token>& sums, const Runs& runs, const double* truth,
                   const Matrix* other, std::size_t first, std::size_t columns,
                   std::vector<Sizes>* sizes) {
  const bool clipped = sizes != nullptr && profile_.stored(Tensor::embed_out) == Format::kld16;
  parallel_items(team_, tokens_.size(), [&](std::size_t t, std::size_t) {
    Token& sum = sums[t];
    const double* row = truth + t * columns;
    for (std::size_t i = 0; i < columns; ++i) sum.truth2 += row[i] * row[i];
    for (std::size_t run = 0; run < runs_; ++run) {
      const float* values = runs[run].row(t);
      for (std::size_t i = 0; i < columns; ++i) {
        const double error = static_cast<double>(values[i]) - row[i];
        sum.runs2[run] += error * error;
        if (sizes != nullptr) (*sizes)[t].add(std::abs(error));
      }
    }
    if (sizes != nullptr) {
      for (std::size_t i = 0; i < columns; ++i) {
        if (row[i] > sum.best) {
          sum.second = sum.best;
          sum.best = row[i];
          sum.argmax = static_cast<std::int32_t>(first + i);
        } else if (row[i] > sum.second) {
          sum.second = row[i];
        }
      }
    }
    if (other == nullptr) return;
    const float* values = other->row(t);
    const float least = clipped ? *std::min_element(values, values + other->columns) : 0.0f;
    for (std::size_t i = 0; i < columns; ++i) {
      if (clipped && values[first + i] <= least) continue;
      const double error = static_cast<double>(values[first + i]) - row[i];
      sum.other1 += error;
      sum.other2 += error * error;
      ++sum.other_count;
    }
  });
}

void Maker::finish(const TensorId& id, const std::vector<Token>& sums, std::size_t width,
                   bool other, bool up_to_shift) {
  EnvelopeOfTensor& result = envelope_.tensors[id];
  const auto columns = static_cast<double>(width);
  const auto elements = columns * static_cast<double>(sums.size());
  const auto runs = static_cast<double>(runs_);
  double truth2 = 0.0, all2 = 0.0, other2 = 0.0, other_count = 0.0;
  std::vector<double> runs2(runs_);
  for (const Token& token : sums) {
    truth2 += token.truth2;
    double token2 = 0.0;
    for (std::size_t run = 0; run < runs_; ++run) {
      runs2[run] += token.runs2[run];
      token2 += token.runs2[run];
    }
    all2 += token2;
    result.rms_of_tokens.push_back(std::sqrt(token2 / (runs * columns)));
    if (!other) continue;
    // A log base holds each row up to the logarithm of its sum.
    const auto count = static_cast<double>(std::max<std::size_t>(token.other_count, 1));
    const double own2 = up_to_shift
                            ? std::max(token.other2 - token.other1 * token.other1 / count, 0.0)
                            : token.other2;
    result.other_of_tokens.push_back(std::sqrt(own2 / count));
    other2 += own2;
    other_count += count;
  }
  result.rms_truth = std::sqrt(truth2 / elements);
  result.rms = std::sqrt(all2 / (elements * runs));
  for (const double run2 : runs2) result.rms_of_runs.push_back(std::sqrt(run2 / elements));
  result.rms_other =
      other ? std::sqrt(other2 / other_count) : std::numeric_limits<double>::quiet_NaN();
}

void Maker::show(const TensorId& id, std::size_t first, std::size_t columns, const Runs& runs,
                 const double* truth) const {
  if (!watcher_) return;
  for (std::size_t run = 0; run < runs_; ++run) {
    watcher_(id, run, first, columns, runs[run].values.data(), truth, columns);
  }
}

Maker::Both Maker::met(const TensorId& id, Carried truth, Runs runs) {
  // The truth has no bound: it inherits nothing.
  truth.bound.clear();
  truth.magnitude.clear();
  std::vector<Token> sums = fresh();
  const std::optional<Matrix> matrix = other(id);
  sum_up(sums, runs, truth.value.data(), matrix ? &*matrix : nullptr, 0, truth.columns, nullptr);
  finish(id, sums, truth.columns, matrix.has_value(), false);
  show(id, 0, truth.columns, runs, truth.value.data());
  return {std::move(truth), std::move(runs)};
}

Maker::Both Maker::norm(Weight gain, Weight shift, const TensorId& id, const Both& x) {
  return met(id, truth_.layer_norm(gain, shift, id.layer, x.truth, id.tensor),
             simulated_.layer_norm(gain, shift, id.layer, x.runs, id));
}

Maker::Both Maker::linear(Weight weight, Weight bias, bool has_bias, const TensorId& id,
                          const Both& x) {
  const UnitSteps::Linear layer =
      truth_.prepare(weight, bias, has_bias, id.layer, x.truth, id.tensor, false);
  Carried truth;
  truth.rows = tokens_.size();
  truth.columns = layer.outputs;
  truth.value.resize(truth.rows * truth.columns);
  truth_.linear(layer, 0, truth.rows, truth.value.data(), nullptr);
  const std::vector<float> shift =
      has_bias ? simulated_.parameters(bias, id.layer) : std::vector<float>{};
  const Runs rounded = simulated_.operands(x.runs, x.truth.stored, id);
  return met(id, std::move(truth), simulated_.linear(weight, shift, rounded, id, 0, layer.outputs));
}

Maker::Both Maker::attention(std::size_t layer, const Both& qkv) {
  const TensorId q_id{Tensor::rotary_q, layer}, k_id{Tensor::rotary_k, layer};
  const TensorId context_id{Tensor::context, layer};
  const Both q =
      met(q_id, truth_.rotate(qkv.truth, 0, q_id.tensor), simulated_.rotate(qkv.runs, 0, q_id));
  const Both k =
      met(k_id, truth_.rotate(qkv.truth, 1, k_id.tensor), simulated_.rotate(qkv.runs, 1, k_id));
  return met(context_id, truth_.context(qkv.truth, q.truth, k.truth),
             simulated_.context(qkv.runs, q.runs, k.runs, context_id));
}

Maker::Both Maker::add(const Both& a, const Both& b, const Both* c, const TensorId& id, bool show) {
  std::vector<const Carried*> terms = {&a.truth, &b.truth};
  if (c != nullptr) terms.push_back(&c->truth);
  Carried truth = truth_.residual(terms, Format::f32);
  Runs runs = simulated_.residual(a.runs, b.runs, c == nullptr ? nullptr : &c->runs, id);
  if (show) return met(id, std::move(truth), std::move(runs));
  truth.bound.clear();
  return {std::move(truth), std::move(runs)};
}

void Maker::round_to_log_base(Runs& runs, std::size_t first) {
  parallel_items(team_, runs_, [&](std::size_t run, std::size_t) {
    Draw draw(seed_, run, {Tensor::embed_out}, first);
    for (float& value : runs[run].values) {
      value += static_cast<float>(0.5 * log_base_step * draw.symmetric());
    }
  });
}

void Maker::logits(const Both& x) {
  const TensorId id{Tensor::embed_out};
  const bool log_base = profile_.stored(Tensor::embed_out) == Format::kld16;
  const UnitSteps::Linear layer =
      truth_.prepare(Weight::embed_out, Weight::embed_out, false, 0, x.truth, id.tensor, false);
  const Runs rounded = simulated_.operands(x.runs, profile_.stored(Tensor::final_layer_norm), id);
  const std::optional<Matrix> matrix = other(id);
  std::vector<Token> sums = fresh();
  std::vector<Sizes> sizes(tokens_.size());
  std::vector<double> truth(tokens_.size() * std::min(logit_columns, config_.vocab));
  for (std::size_t first = 0; first < config_.vocab; first += logit_columns) {
    const std::size_t columns = std::min(logit_columns, config_.vocab - first);
    truth_.linear_columns(layer, 0, tokens_.size(), first, columns, truth.data(), nullptr);
    Runs runs = simulated_.linear(Weight::embed_out, {}, rounded, id, first, columns);
    if (log_base) round_to_log_base(runs, first);
    sum_up(sums, runs, truth.data(), matrix ? &*matrix : nullptr, first, columns, &sizes);
    show(id, first, columns, runs, truth.data());
  }
  finish(id, sums, config_.vocab, matrix.has_value(), log_base);
  for (std::size_t t = 1; t < sizes.size(); ++t) sizes[0].add(sizes[t]);
  envelope_.logit_error_999 = sizes[0].quantile(0.999);
  for (const Token& token : sums) {
    envelope_.truth_margin.push_back(token.best - token.second);
    envelope_.truth_argmax.push_back(token.argmax);
  }
}

Envelope Maker::make() {
  Carried embedded = truth_.embed(tokens_);
  Runs embedded_runs = simulated_.embed(embedded.value, tokens_.size());
  Both x = met({Tensor::embed_in}, std::move(embedded), std::move(embedded_runs));
  const bool with = config_.attention_bias;
  for (std::size_t i = 0; i < config_.layers; ++i) {
    const auto here = [&](Tensor tensor) { return TensorId{tensor, i}; };
    Both attn;
    {
      const Both normed = norm(Weight::input_norm_weight, Weight::input_norm_bias,
                               here(Tensor::input_layernorm), x);
      const Both qkv =
          linear(Weight::qkv_weight, Weight::qkv_bias, with, here(Tensor::query_key_value), normed);
      attn = linear(Weight::dense_weight, Weight::dense_bias, with, here(Tensor::dense),
                    attention(i, qkv));
    }
    const TensorId output = here(Tensor::layer_output);
    Both h;
    if (!config_.parallel_residual) h = add(attn, x, nullptr, output, false);
    const Both normed =
        norm(Weight::post_norm_weight, Weight::post_norm_bias,
             here(Tensor::post_attention_layernorm), config_.parallel_residual ? x : h);
    const Both up = linear(Weight::mlp_up_weight, Weight::mlp_up_bias, true,
                           here(Tensor::dense_h_to_4h), normed);
    const Both act = met(here(Tensor::act), truth_.activation(up.truth),
                         simulated_.activation(up.runs, here(Tensor::act)));
    const Both mlp = linear(Weight::mlp_down_weight, Weight::mlp_down_bias, true,
                            here(Tensor::dense_4h_to_h), act);
    x = config_.parallel_residual ? add(attn, mlp, &x, output, true)
                                  : add(mlp, h, nullptr, output, true);
  }
  logits(norm(Weight::final_norm_weight, Weight::final_norm_bias, {Tensor::final_layer_norm}, x));
  return std::move(envelope_);
}

}  // namespace

Envelope make_envelope(const engine::Checkpoint& checkpoint, engine::Team& team,
                       const Profile& profile, std::span<const std::int32_t> tokens,
                       const EnvelopeOptions& options, const TensorSource* other,
                       const EnvelopeWatcher& watcher) {
  check_tokens(checkpoint.config(), tokens);
  if (options.runs == 0) throw Error("envelope", "needs a run", "at least 1", "0");
  return Maker(checkpoint, team, profile, tokens, options, other, watcher).make();
}

}  // namespace neoxref::eval
