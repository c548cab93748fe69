// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/model.hpp"
#include "eval/bench_cost.hpp"
#include "eval/kernel_times.hpp"
#include "eval/limits.hpp"

namespace neoxref::eval {

/// What several measurements of one thing gave.
struct Spread {
  double median = 0.0;
  double least = 0.0;
  double most = 0.0;
  std::size_t n = 0;
};
/// values.size() >= 1; the median of an even number is the mean of the two in the middle.
Spread spread(std::vector<double> values);

/// Token ids that every arm is fed, the same for the same vocabulary: drawn by Philox, so that no
/// result decides what is computed.
std::vector<std::int32_t> bench_tokens(std::size_t count, std::size_t vocab);

/// One thing that is measured again and again.
class BenchArm {
public:
  virtual ~BenchArm() = default;
  /// One measurement; it counts or only warms up.
  virtual void run(bool counts) = 0;
  /// Measured so far.
  virtual double seconds() const = 0;
};

struct Schedule {
  std::size_t warm_up = 1;   ///< rounds that do not count
  std::size_t repeat = 5;    ///< rounds that do, at least
  double min_seconds = 0.0;  ///< measured for each arm, at least
  bool random = true;        ///< another order in each round
  std::uint64_t seed = 1;    ///< of the orders
};
/// Rounds in each of which every arm has one turn, so that a slow moment of the machine hits all.
/// progress  called with the share done, from 0 to 1; may be empty.
void take_turns(std::span<BenchArm* const> arms, const Schedule& schedule,
                const std::function<void(double)>& progress = {});

/// Indices 0 .. count - 1 in the order of a round: as they are, or shuffled by seed and round.
std::vector<std::size_t> turn_order(std::size_t count, bool random, std::uint64_t seed,
                                    std::uint64_t round);

/// A limit of the machine.
class LimitArm : public BenchArm {
public:
  enum class Kind : std::uint8_t { multiply_add, read, copy };
  LimitArm(LimitMeter& meter, Kind what, simd::Isa with, std::size_t amount)
      : kind(what), isa(with), bytes(amount), meter_(meter) {}
  void run(bool counts) override;
  double seconds() const override { return seconds_; }
  /// Operations or bytes a second.
  Spread per_second() const { return spread(rates_); }

  const Kind kind;
  const simd::Isa isa;
  const std::size_t bytes;

private:
  LimitMeter& meter_;
  std::vector<double> rates_;
  double seconds_ = 0.0;
};

/// Tokens through a model, at full speed.
class SpeedArm : public BenchArm {
public:
  double seconds() const override { return seconds_; }
  Spread tokens_per_second() const { return spread(rates_); }
  /// Of one unit (cost()), each measurement, in the order in which they were made.
  std::vector<double> unit_seconds() const;
  /// Of the logits of one measurement; each must give the same. Errors: Error in run() when one does
  /// not, or a value is not finite.
  const std::string& digest() const { return digest_; }
  const engine::TeamTimes& times() const { return times_; }
  const engine::Model& model() const { return model_; }
  /// Of one measured unit: the whole prompt, or one token of each sequence.
  const Cost& cost() const { return cost_; }
  /// Tokens of that unit.
  double unit_tokens() const { return unit_tokens_; }
  /// Units in all measurements.
  double units() const { return units_; }
  std::size_t batch() const { return batch_; }
  /// From now on keeps what each kernel took in the measurements that count. The model runs with
  /// kernels.table().
  void time_kernels(TimedKernels& kernels) { kernels_ = &kernels; }
  const std::vector<KernelTime>& kernel_times() const { return kernel_times_; }

protected:
  SpeedArm(engine::Model& model, std::size_t batch) : model_(model), batch_(batch) {}
  void keep(double tokens, double seconds, const std::string& digest);
  /// Drops, or adds to kernel_times(), what kernels took since the last call.
  void take_kernels(bool counts);

  engine::Model& model_;
  std::size_t batch_;
  Cost cost_;
  double unit_tokens_ = 0.0;
  engine::TeamTimes times_;

private:
  std::vector<double> rates_;
  double seconds_ = 0.0;
  double units_ = 0.0;
  std::string digest_;
  TimedKernels* kernels_ = nullptr;
  std::vector<KernelTime> kernel_times_;
};

/// Prompts of fresh sequences, together in one call, until the first new token of each is known: its
/// unit_seconds() are times to a first token.
class PrefillArm : public SpeedArm {
public:
  PrefillArm(engine::Model& model, std::size_t prompt, std::size_t batch);
  void run(bool counts) override;
  const std::size_t tokens;

private:
  std::vector<std::int32_t> ids_;
};

/// `steps` = `count` further tokens of sequences that hold `context` = `slots` tokens, one token of each in
/// a call.
class DecodeArm : public SpeedArm {
public:
  DecodeArm(engine::Model& model, std::size_t slots, std::size_t count, std::size_t batch);
  void run(bool counts) override;
  const std::size_t context;
  const std::size_t steps;

private:
  std::vector<std::int32_t> ids_;
  std::vector<engine::Sequence> bases_;  ///< filled by the first run
};

/// What each phase of a forward pass is called, in order: docs/design.md, "Phases".
std::vector<std::string> phase_names(const engine::Config& config);

/// The share of a region's threads' time by kind of phase.
struct PhaseShare {
  std::string name;
  double worked = 0.0;  ///< of the time of all threads; these and `waited` sum to 1
  double waited = 0.0;
};
/// Of the forward passes in `times`. Empty when there were none.
std::vector<PhaseShare> phase_shares(const engine::TeamTimes& times, const engine::Config& config);

}  // namespace neoxref::eval
