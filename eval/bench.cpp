// SPDX-License-Identifier: Apache-2.0
#include "eval/bench.hpp"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "engine/error.hpp"
#include "engine/sampler.hpp"
#include "eval/digest.hpp"

namespace neoxref::eval {
namespace {

using engine::Step;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void forward(engine::Model& model, std::span<Step> steps) {
  if (model.forward(steps)) return;
  for (const Step& step : steps) {
    if (step.failure) throw engine::Error("bench", engine::describe(*step.failure));
  }
}

/// Watches a pool for as long as it lives.
class Watch {
public:
  Watch(engine::Team& team, engine::TeamTimes* times) : team_(team) { team_.watch(times); }
  ~Watch() { team_.watch(nullptr); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

private:
  engine::Team& team_;
};

}  // namespace

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return {(values[(n - 1) / 2] + values[n / 2]) / 2.0, values.front(), values.back(), n};
}

std::vector<std::int32_t> bench_tokens(std::size_t count, std::size_t vocab) {
  std::vector<std::int32_t> tokens(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t word = engine::philox({static_cast<std::uint32_t>(i), 0, 0, 0}, {1, 0})[0];
    tokens[i] = static_cast<std::int32_t>(word % vocab);
  }
  return tokens;
}

std::vector<std::size_t> turn_order(std::size_t count, bool random, std::uint64_t seed,
                                    std::uint64_t round) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = count; random && i > 1; --i) {
    const std::uint32_t word = engine::philox(
        {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(round),
         static_cast<std::uint32_t>(round >> 32), 0},
        {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)})[0];
    std::swap(order[i - 1], order[word % i]);
  }
  return order;
}

void take_turns(std::span<BenchArm* const> arms, const Schedule& schedule,
                const std::function<void(double)>& progress) {
  const std::size_t planned = schedule.warm_up + schedule.repeat;
  const auto enough = [&](std::size_t round) {
    return round >= planned && std::all_of(arms.begin(), arms.end(), [&](const BenchArm* arm) {
             return arm->seconds() >= schedule.min_seconds;
           });
  };
  for (std::size_t round = 0; !enough(round); ++round) {
    std::size_t turn = 0;
    for (const std::size_t i : turn_order(arms.size(), schedule.random, schedule.seed, round)) {
      arms[i]->run(round >= schedule.warm_up);
      const double done = static_cast<double>(round) +
                          static_cast<double>(++turn) / static_cast<double>(arms.size());
      if (progress) progress(std::min(1.0, done / static_cast<double>(planned)));
    }
  }
}

void LimitArm::run(bool counts) {
  const auto start = Clock::now();
  double rate = 0.0;
  switch (kind) {
    case Kind::multiply_add:
      rate = meter_.multiply_add(isa);
      break;
    case Kind::read:
      rate = meter_.read(isa, bytes);
      break;
    case Kind::copy:
      rate = meter_.copy(bytes);
      break;
  }
  if (!counts) return;
  rates_.push_back(rate);
  seconds_ += seconds_since(start);
}

void SpeedArm::keep(double tokens, double seconds, const std::string& digest) {
  if (!digest_.empty() && digest != digest_) {
    throw engine::Error("bench", "the same work gave other logits", digest_, digest);
  }
  digest_ = digest;
  rates_.push_back(tokens / seconds);
  seconds_ += seconds;
  units_ += tokens / unit_tokens_;
}

std::vector<double> SpeedArm::unit_seconds() const {
  std::vector<double> seconds;
  for (const double rate : rates_) seconds.push_back(unit_tokens_ / rate);
  return seconds;
}

void SpeedArm::take_kernels(bool counts) {
  if (kernels_ == nullptr) return;
  for (const KernelTime& time : kernels_->take()) {
    if (!counts) continue;
    const auto sum = std::ranges::find(kernel_times_, time.kernel, &KernelTime::kernel);
    if (sum == kernel_times_.end()) {
      kernel_times_.push_back(time);
    } else {
      *sum += time;
    }
  }
}

PrefillArm::PrefillArm(engine::Model& model, std::size_t prompt, std::size_t batch)
    : SpeedArm(model, batch), tokens(prompt), ids_(bench_tokens(prompt, model.config().vocab)) {
  cost_ = prefill_cost(model.config(), model.weights(), tokens, batch);
  unit_tokens_ = static_cast<double>(tokens * batch);
}

void PrefillArm::run(bool counts) {
  const std::size_t vocab = model_.config().vocab;
  std::vector<float> logits(batch_ * vocab);
  std::vector<engine::Sequence> sequences;
  std::vector<Step> steps;
  for (std::size_t i = 0; i < batch_; ++i) sequences.push_back(model_.sequence(tokens));
  for (std::size_t i = 0; i < batch_; ++i) {
    steps.push_back({&sequences[i], ids_, engine::LogitRows::last, logits.data() + i * vocab});
  }
  double seconds = 0.0;
  take_kernels(false);
  {
    const Watch watch(model_.team(), counts ? &times_ : nullptr);
    const auto start = Clock::now();
    forward(model_, steps);
    for (std::size_t i = 0; i < batch_; ++i) engine::argmax({logits.data() + i * vocab, vocab});
    seconds = seconds_since(start);
  }
  take_kernels(counts);
  if (!counts) return;
  Digest digest;
  digest.add(logits);
  keep(unit_tokens_, seconds, digest.hex());
}

DecodeArm::DecodeArm(engine::Model& model, std::size_t slots, std::size_t count, std::size_t batch)
    : SpeedArm(model, batch),
      context(slots),
      steps(count),
      ids_(bench_tokens(slots + steps + 1, model.config().vocab)) {
  // The first token does not count; those that do see context + 2 .. context + 1 + steps slots.
  const double mean = static_cast<double>(context) + (static_cast<double>(steps) + 3.0) / 2.0;
  cost_ = decode_cost(model.config(), model.weights(), mean, batch);
  unit_tokens_ = static_cast<double>(batch);
}

void DecodeArm::run(bool counts) {
  const std::size_t vocab = model_.config().vocab;
  if (bases_.empty()) {
    for (std::size_t i = 0; i < batch_; ++i) {
      bases_.push_back(model_.sequence(context + steps + 1));
      // One after the other: together they could be longer than a pass.
      Step step{&bases_.back(), std::span(ids_).first(context), engine::LogitRows::none};
      forward(model_, {&step, 1});
    }
  }
  std::vector<engine::Sequence> sequences;
  for (const engine::Sequence& base : bases_) sequences.push_back(base.fork());
  std::vector<float> logits(batch_ * vocab);
  std::vector<Step> calls(batch_);
  Digest digest;
  double seconds = 0.0;
  for (std::size_t i = 0; i <= steps; ++i) {
    for (std::size_t b = 0; b < batch_; ++b) {
      calls[b] = {&sequences[b], std::span(ids_).subspan(context + i, 1), engine::LogitRows::last,
                  logits.data() + b * vocab};
    }
    if (i == 1) take_kernels(false);
    const Watch watch(model_.team(), counts && i > 0 ? &times_ : nullptr);
    const auto start = Clock::now();
    forward(model_, calls);
    if (i > 0) seconds += seconds_since(start);
    digest.add(logits);
  }
  take_kernels(counts);
  if (counts) keep(static_cast<double>(batch_ * steps), seconds, digest.hex());
}

std::vector<std::string> phase_names(const engine::Config& config) {
  std::vector<std::string> names;
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    if (config.parallel_residual) {
      names.insert(names.end(), {"norms, qkv, up", "attention", "dense, down"});
    } else {
      names.insert(names.end(), {"norm, qkv", "attention", "dense", "norm, up", "down"});
    }
  }
  names.emplace_back("logits");
  return names;
}

std::vector<PhaseShare> phase_shares(const engine::TeamTimes& times, const engine::Config& config) {
  const std::vector<std::string> names = phase_names(config);
  const auto found = times.find(names.size());
  if (found == times.end()) return {};
  std::vector<PhaseShare> shares;
  double total = 0.0;
  for (std::size_t i = 0; i < found->second.shares.size(); ++i) {
    const std::string& name = names[i % names.size()];
    auto share = std::find_if(shares.begin(), shares.end(),
                              [&](const PhaseShare& entry) { return entry.name == name; });
    if (share == shares.end()) share = shares.insert(shares.end(), PhaseShare{name});
    share->worked += found->second.shares[i].worked;
    share->waited += found->second.shares[i].waited;
    total += found->second.shares[i].worked + found->second.shares[i].waited;
  }
  for (PhaseShare& share : shares) {
    share.worked /= total;
    share.waited /= total;
  }
  return shares;
}

}  // namespace neoxref::eval
