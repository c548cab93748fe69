// SPDX-License-Identifier: Apache-2.0
#include "eval/bench_press.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "engine/error.hpp"
#include "engine/sampler.hpp"
#include "eval/digest.hpp"

namespace neoxref::eval {
namespace {

using engine::KvCache;
using Clock = std::chrono::steady_clock;

/// Tokens that a variant gets at a time.
constexpr std::size_t turn_tokens = 32;

double seconds_between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

/// Seconds of the parallel regions of `phases` phases.
double region_seconds(const engine::TeamTimes& times, std::size_t phases) {
  const auto found = times.find(phases);
  return found == times.end() ? 0.0 : found->second.seconds;
}

/// Seconds of the last phase of the passes: the unembedding.
double last_phase_seconds(const engine::TeamTimes& times, std::size_t phases) {
  const auto found = times.find(phases);
  if (found == times.end()) return 0.0;
  double most = 0.0;
  const auto& shares = found->second.shares;
  for (std::size_t last = phases - 1; last < shares.size(); last += phases) {
    most = std::max(most, shares[last].worked + shares[last].waited);
  }
  return most;
}

/// Work of a press that keeps no state; see PressVariant.
class NaivePress {
public:
  NaivePress(const engine::Model& model, std::size_t capacity)
      : kernels_(model.kernels()), shape_{}, scratch_(model.team().threads()) {
    const engine::Config& config = model.config();
    shape_ = {config.layers, config.heads, config.head_dim};
    const std::size_t floats = capacity * (config.head_dim + simd::lanes);
    copies_ = engine::Buffer<float>(shape_.layers * shape_.heads * 2 * floats);
    copy_floats_ = floats;
    for (Scratch& scratch : scratch_) {
      scratch.norms.resize(capacity);
      scratch.order.resize(capacity);
    }
  }

  void run(engine::Team& team, const KvCache& cache) {
    cache_ = &cache;
    const engine::Phase phase{static_cast<std::uint32_t>(shape_.layers * shape_.heads), item};
    team.run({&phase, 1}, this);
  }

private:
  struct Scratch {
    std::vector<float> norms;
    std::vector<std::uint32_t> order;
  };

  static void item(void* context, std::uint32_t, std::uint32_t item,
                   std::size_t participant) noexcept {
    static_cast<NaivePress*>(context)->press(item, participant);
  }

  void press(std::size_t item, std::size_t participant) noexcept {
    Scratch& scratch = scratch_[participant];
    const std::size_t layer = item / shape_.heads;
    const std::size_t head = item % shape_.heads;
    const std::size_t slots = cache_->length(layer, head);
    const std::size_t head_dim = shape_.head_dim;
    const float* keys = cache_->keys(layer, head);
    const float* values = cache_->values(layer, head);
    kernels_.key_norms(keys, head_dim, 0, slots, scratch.norms.data());
    const auto end = scratch.order.begin() + static_cast<std::ptrdiff_t>(slots);
    std::iota(scratch.order.begin(), end, 0u);
    std::sort(scratch.order.begin(), end, [&](std::uint32_t a, std::uint32_t b) {
      const float x = scratch.norms[a];
      const float y = scratch.norms[b];
      return x < y || (x == y && a < b);
    });
    // Keys are moved as rows of as many bytes, as where they lie as rows: their panels would make
    // this slower still.
    float* to_keys = copies_.data() + 2 * item * copy_floats_;
    float* to_values = to_keys + copy_floats_;
    for (std::size_t i = 0; i < slots; ++i) {
      const std::size_t from = scratch.order[i];
      std::memcpy(to_keys + i * head_dim, keys + from * head_dim, head_dim * sizeof(float));
      std::memcpy(to_values + i * head_dim, values + from * cache_->value_stride(),
                  head_dim * sizeof(float));
    }
  }

  const simd::Kernels& kernels_;
  engine::CacheShape shape_;
  std::vector<Scratch> scratch_;
  engine::Buffer<float> copies_;
  std::size_t copy_floats_ = 0;
  const KvCache* cache_ = nullptr;
};

}  // namespace

struct PressGroup::Runner {
  const PressVariant* variant;
  engine::Sequence sequence;
  std::unique_ptr<NaivePress> naive;
  std::vector<float> logits;
  Digest digest{};
  std::vector<double> buckets{};
  double first_token = 0.0;
  double prompt_press = 0.0;
  double choose = 0.0;
  double cut = 0.0;
  double slot_sum = 0.0;
  std::size_t peak = 0;
  std::size_t prompt_cuts = 0;
};

std::vector<double> PressRow::new_token_seconds() const {
  std::vector<double> sums;
  for (const auto& buckets : bucket_seconds) {
    sums.push_back(std::accumulate(buckets.begin(), buckets.end(), 0.0));
  }
  return sums;
}

PressGroup::PressGroup(engine::Model& model, std::size_t prompt_length, std::size_t new_count,
                       std::vector<PressVariant> variants, bool random)
    : prompt(prompt_length),
      new_tokens(new_count),
      model_(model),
      random_(random),
      ids_(bench_tokens(prompt + new_tokens, model.config().vocab)),
      rows_(variants.size()) {
  for (std::size_t i = 0; i < variants.size(); ++i) rows_[i].variant = std::move(variants[i]);
}

void PressGroup::start(Runner& runner) {
  const std::size_t phases = phase_names(model_.config()).size();
  engine::TeamTimes times;
  model_.team().watch(&times);
  engine::Step step{&runner.sequence, std::span(ids_).first(prompt), engine::LogitRows::last,
                    runner.logits.data()};
  const auto begin = Clock::now();
  const bool finite = model_.forward({&step, 1});
  if (runner.naive) runner.naive->run(model_.team(), runner.sequence.cache);
  const auto entered = Clock::now();
  engine::argmax(runner.logits);
  const auto end = Clock::now();
  model_.team().watch(nullptr);
  if (!finite) throw engine::Error("bench", engine::describe(*step.failure));
  runner.sequence.end_prompt();
  runner.digest.add(runner.logits);
  runner.first_token = seconds_between(begin, end);
  runner.prompt_press = region_seconds(times, 1);
  runner.choose = seconds_between(entered, end) + last_phase_seconds(times, phases);
  runner.prompt_cuts = runner.sequence.cuts.size();
}

void PressGroup::advance(Runner& runner, std::size_t first, std::size_t count) {
  const KvCache& cache = runner.sequence.cache;
  const std::size_t layers = cache.shape().layers;
  engine::TeamTimes times;
  for (std::size_t i = first; i < first + count; ++i) {
    engine::Step step{&runner.sequence, std::span(ids_).subspan(prompt + i, 1),
                      engine::LogitRows::last, runner.logits.data()};
    // The naive work runs unwatched, or it would count as a cut.
    model_.team().watch(&times);
    const auto begin = Clock::now();
    const bool finite = model_.forward({&step, 1});
    model_.team().watch(nullptr);
    if (runner.naive) runner.naive->run(model_.team(), cache);
    const double seconds = seconds_between(begin, Clock::now());
    if (!finite) throw engine::Error("bench", engine::describe(*step.failure));
    runner.buckets[i / bucket_tokens] += seconds;
    std::size_t slots = 0;
    for (std::size_t layer = 0; layer < layers; ++layer) slots += cache.longest(layer);
    runner.slot_sum += static_cast<double>(slots) / static_cast<double>(layers);
    runner.peak = std::max(runner.peak, slots);
    runner.digest.add(runner.logits);
  }
  runner.cut += region_seconds(times, 1);
}

void PressGroup::finish(const Runner& runner, PressRow& row) {
  const std::string digest = runner.digest.hex();
  if (!row.digest.empty() && row.digest != digest) {
    throw engine::Error("bench", "the same work gave other logits", row.digest, digest);
  }
  row.digest = digest;
  row.first_token_seconds.push_back(runner.first_token);
  row.prompt_press_seconds.push_back(runner.prompt_press);
  row.choose_seconds.push_back(runner.choose);
  row.bucket_seconds.push_back(runner.buckets);
  row.cut_seconds.push_back(runner.cut);
  const engine::CacheShape& shape = runner.sequence.cache.shape();
  row.cuts.assign(shape.layers, 0);
  row.cut_bytes = 0.0;
  row.cut_times = 0;
  std::size_t last = ~std::size_t{0};
  const std::size_t slot =
      shape.heads * (2 * shape.head_dim * sizeof(float) + sizeof(float) + sizeof(std::int32_t));
  for (std::size_t i = 0; i < runner.sequence.cuts.size(); ++i) {
    const engine::Cut& cut = runner.sequence.cuts[i];
    ++row.cuts[cut.layer];
    if (i < runner.prompt_cuts) continue;
    row.cut_bytes += static_cast<double>(cut.after * slot);
    if (cut.position != last) ++row.cut_times;
    last = cut.position;
  }
  row.mean_slots = new_tokens == 0 ? 0.0 : runner.slot_sum / static_cast<double>(new_tokens);
  row.peak_slots = runner.peak;
  seconds_ +=
      runner.first_token + std::accumulate(runner.buckets.begin(), runner.buckets.end(), 0.0);
}

void PressGroup::run(bool counts) {
  std::vector<Runner> runners;
  runners.reserve(rows_.size());
  const std::uint64_t round = rounds_++;
  const std::size_t buckets = (new_tokens + bucket_tokens - 1) / bucket_tokens;
  for (const PressRow& row : rows_) {
    runners.push_back({&row.variant,
                       model_.sequence(prompt + new_tokens, row.variant.press),
                       {},
                       std::vector<float>(model_.config().vocab)});
    Runner& runner = runners.back();
    runner.buckets.assign(buckets, 0.0);
    if (row.variant.naive) {
      runner.naive = std::make_unique<NaivePress>(model_, prompt + new_tokens);
    }
  }
  for (const std::size_t i : turn_order(runners.size(), random_, 0, round << 32)) {
    start(runners[i]);
  }
  for (std::size_t first = 0; first < new_tokens; first += turn_tokens) {
    const std::size_t count = std::min(turn_tokens, new_tokens - first);
    for (const std::size_t i : turn_order(runners.size(), random_, 1, (round << 32) + first)) {
      advance(runners[i], first, count);
    }
  }
  for (std::size_t i = 0; counts && i < runners.size(); ++i) finish(runners[i], rows_[i]);
}

double PressGroup::norm_seconds() const {
  const engine::Config& config = model_.config();
  constexpr std::size_t slots = 16;
  const std::size_t heads = config.layers * config.heads;
  const engine::Buffer<float> keys(heads * slots * config.head_dim);
  std::vector<float> norms(slots);
  std::vector<double> seconds;
  constexpr int repeats = 200;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const auto begin = Clock::now();
    for (std::size_t head = 0; head < heads; ++head) {
      model_.kernels().key_norms(keys.data() + head * slots * config.head_dim, config.head_dim, 7,
                                 1, norms.data());
    }
    seconds.push_back(seconds_between(begin, Clock::now()));
  }
  return spread(seconds).median;
}

}  // namespace neoxref::eval
