// SPDX-License-Identifier: Apache-2.0
#include "eval/golden_run.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <memory>

#include "engine/error.hpp"
#include "eval/golden_recorder.hpp"
#include "simd/float_environment.hpp"

namespace neoxref::eval {
namespace {

using engine::Error;
using engine::Tensor;
using engine::TensorId;

/// Tokens of a forward call: rows are put together for as many, and more are hardly faster.
constexpr std::size_t chunk_tokens = 128;

TensorDigest digest_entry(const NamedTensor& tensor, const std::vector<DigestBytes>& rows,
                          bool leaves) {
  TensorDigest entry{tensor.name, tensor.dtype, tensor.shape, tree_digest(rows)};
  if (leaves) {
    for (const DigestBytes& row : rows) entry.leaves.push_back(leaf_of(row));
  }
  return entry;
}

std::size_t slots_of(const engine::KvCache& cache, std::size_t layer) {
  const std::size_t slots = cache.longest(layer);
  for (std::size_t head = 0; head < cache.shape().heads; ++head) {
    if (cache.length(layer, head) != slots) {
      throw Error("cache",
                  "the heads of layer " + std::to_string(layer) + " are not of one length");
    }
  }
  return slots;
}

/// The values of a cache tensor, [heads, slots, ...], four bytes each.
std::vector<std::uint32_t> cache_values(const engine::KvCache& cache, std::size_t layer,
                                        const NamedTensor& tensor) {
  const std::size_t heads = cache.shape().heads;
  const std::size_t head_dim = cache.shape().head_dim;
  const std::size_t slots = tensor.shape[2];
  const auto ends = [&](std::string_view end) { return tensor.name.ends_with(end); };
  std::vector<std::uint32_t> values(tensor.rows() * tensor.row_values());
  std::uint32_t* to = values.data();
  const auto append = [&](const auto* from, std::size_t count) {
    std::memcpy(to, from, count * sizeof *to);
    to += count;
  };
  for (std::size_t head = 0; head < heads; ++head) {
    if (ends(".norm")) append(cache.norms(layer, head), slots);
    if (ends(".position")) append(cache.positions(layer, head), slots);
    for (std::size_t slot = 0; slot < slots && ends(".value"); ++slot) {
      append(cache.values(layer, head) + slot * cache.value_stride(), head_dim);
    }
    const bool keys = ends(".key");
    for (std::size_t slot = 0; slot < slots && keys; ++slot) {
      const float* const lane = cache.keys(layer, head) +
                                slot / simd::lanes * head_dim * simd::lanes + slot % simd::lanes;
      for (std::size_t d = 0; d < head_dim; ++d) {
        *to++ = std::bit_cast<std::uint32_t>(lane[d * simd::lanes]);
      }
    }
  }
  return values;
}

class Run {
public:
  Run(engine::Model& model, const GoldenRecipe& recipe, const RunRequest& request)
      : model_(model),
        recipe_(recipe),
        request_(request),
        config_(model.config()),
        tokens_(recipe.tokens.size()),
        sequence_(model.sequence(tokens_, recipe.press)),
        recorder_(model, sequence_, tokens_, std::min(chunk_tokens, tokens_), request.digests) {}

  std::vector<TensorDigest> operator()() {
    prepare();
    forward();
    finish();
    return std::move(digests_);
  }

private:
  void* keep(const NamedTensor& tensor) const {
    return request_.keep ? request_.keep(tensor) : nullptr;
  }

  void prepare() {
    for (const TensorId& id : forward_tensors(config_)) {
      if (void* const to = keep(forward_tensor(id, config_, tokens_))) {
        recorder_.keep(id, static_cast<float*>(to));
      }
    }
    for (const std::string& name : request_.extras) {
      const auto tensor = extra_tensor(name, config_, tokens_);
      if (!tensor) throw Error("tensors", "this model makes no such tensor", {}, name);
      auto* const to = static_cast<float*>(keep(*tensor));
      extras_.push_back({*tensor, to});
      if (name.ends_with(".scores")) recorder_.keep_scores(extra_layer(name), to);
      if (name.ends_with(".probabilities")) recorder_.keep_probabilities(extra_layer(name), to);
      if (name.starts_with("rotary.")) rotary(name.ends_with(".cos"), to);
    }
  }

  void rotary(bool cos, float* to) const {
    const simd::FloatEnvironment environment;
    const engine::RotaryTable table(config_, model_.kernels());
    std::memcpy(to, (cos ? table.cos : table.sin).data(), tokens_ * table.half * sizeof(float));
  }

  void forward() {
    engine::Buffer<float> logits(std::min(chunk_tokens, tokens_) * config_.vocab,
                                 engine::Buffer<float>::Uninitialized{});
    for (std::size_t first = 0; first < tokens_;) {
      if (request_.progress) {
        request_.progress(static_cast<double>(first) / static_cast<double>(tokens_));
      }
      if (first > 0 && first == recipe_.prompt_tokens) sequence_.end_prompt();
      // The prompt ends between two calls.
      const std::size_t end = first < recipe_.prompt_tokens ? recipe_.prompt_tokens : tokens_;
      const std::size_t count = std::min(chunk_tokens, end - first);
      recorder_.begin(first, logits.data());
      engine::Step step{&sequence_, std::span(recipe_.tokens).subspan(first, count),
                        engine::LogitRows::all, logits.data()};
      if (!model_.forward({&step, 1})) {
        step.failure->token += first;
        throw Error("golden", engine::describe(*step.failure));
      }
      recorder_.end(count, model_.team());
      first += count;
    }
  }

  void finish() {
    for (const TensorId& id : forward_tensors(config_)) {
      if (!request_.digests) break;
      digests_.push_back(digest_entry(forward_tensor(id, config_, tokens_), recorder_.rows(id),
                                      request_.all_leaves || id.tensor == Tensor::layer_output));
    }
    finish_cache();
    for (const auto& [tensor, values] : extras_) add(tensor, values);
  }

  struct CacheJob {
    std::size_t layer;
    NamedTensor tensor;
    void* keep;
    std::vector<DigestBytes> rows;
  };

  /// The cache's tensors, shared out over the model's threads.
  void finish_cache() {
    jobs_.clear();
    for (std::size_t layer = 0; layer < config_.layers; ++layer) {
      for (const NamedTensor& tensor :
           cache_tensors(config_, layer, slots_of(sequence_.cache, layer))) {
        void* const to = keep(tensor);
        if (to != nullptr || request_.digests) jobs_.push_back({layer, tensor, to, {}});
      }
    }
    const engine::Phase phase{static_cast<std::uint32_t>(jobs_.size()), cache_item};
    model_.team().run({&phase, 1}, this);
    for (const CacheJob& job : jobs_) {
      if (request_.digests) digests_.push_back(digest_entry(job.tensor, job.rows, false));
    }
  }

  static void cache_item(void* context, std::uint32_t, std::uint32_t item, std::size_t) noexcept {
    auto& run = *static_cast<Run*>(context);
    CacheJob& job = run.jobs_[item];
    const auto values = cache_values(run.sequence_.cache, job.layer, job.tensor);
    if (job.keep != nullptr) std::memcpy(job.keep, values.data(), job.tensor.bytes());
    if (!run.request_.digests) return;
    job.rows =
        row_digests(std::as_bytes(std::span(values)), job.tensor.dtype, job.tensor.row_values());
  }

  void add(const NamedTensor& tensor, const void* values) {
    if (!request_.digests) return;
    const std::span bytes(static_cast<const std::byte*>(values), tensor.bytes());
    digests_.push_back(
        digest_entry(tensor, row_digests(bytes, tensor.dtype, tensor.row_values()), false));
  }

  engine::Model& model_;
  const GoldenRecipe& recipe_;
  const RunRequest& request_;
  const engine::Config& config_;
  std::size_t tokens_;
  engine::Sequence sequence_;
  Recorder recorder_;
  std::vector<std::pair<NamedTensor, float*>> extras_;
  std::vector<CacheJob> jobs_;
  std::vector<TensorDigest> digests_;
};

}  // namespace

void check_tokens(std::span<const std::int32_t> tokens, const engine::Config& config) {
  if (tokens.empty()) throw Error("tokens", "none", "at least one token");
  if (tokens.size() > config.max_positions) {
    throw Error("tokens", "longer than the context of the model",
                "at most " + std::to_string(config.max_positions) + " tokens",
                std::to_string(tokens.size()));
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && static_cast<std::size_t>(tokens[i]) < config.vocab) continue;
    throw Error("tokens", "token " + std::to_string(i) + " is outside the vocabulary",
                "0 to " + std::to_string(config.vocab - 1), std::to_string(tokens[i]));
  }
}

std::vector<TensorDigest> run_recipe(engine::Model& model, const GoldenRecipe& recipe,
                                     const RunRequest& request) {
  check_tokens(recipe.tokens, model.config());
  return Run(model, recipe, request)();
}

}  // namespace neoxref::eval
