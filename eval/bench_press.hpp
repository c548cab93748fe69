// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "eval/bench.hpp"

namespace neoxref::eval {

/// One way to treat the cache, on the same tokens as the others of its group.
struct PressVariant {
  std::string label;  ///< "1" for the uncompressed one
  std::optional<engine::Press> press;
  /// Also does, at every token and in every layer and head, what a press does that keeps no state:
  /// all key norms anew, a full sort of the slots by them, a copy of all keys and values in that
  /// order to other memory. What it makes is thrown away; the cache is that of `press`.
  bool naive = false;
};

/// Stretches of a text whose speed is shown apart.
inline constexpr std::size_t bucket_tokens = 128;

/// What a variant did and how long it took, over all rounds that count.
struct PressRow {
  PressVariant variant;

  // Each measurement, in the order in which they were made.
  std::vector<double> first_token_seconds;   ///< ids in until the first new id is known
  std::vector<double> prompt_press_seconds;  ///< of it: cuts
  std::vector<double> choose_seconds;        ///< of it: logits and argmax of the first new token
  std::vector<std::vector<double>> bucket_seconds;  ///< [measurement][bucket] of the new tokens
  std::vector<double> cut_seconds;                  ///< cuts while the new tokens entered

  // The same in every measurement.
  std::vector<std::size_t> cuts;  ///< of each layer, prompt included
  double cut_bytes = 0.0;  ///< that the cuts after the prompt kept: keys, values, norms, positions
  std::size_t cut_times = 0;   ///< tokens after the prompt behind which something was cut
  double mean_slots = 0.0;     ///< in a layer, over the new tokens
  std::size_t peak_slots = 0;  ///< over all layers at one time, of the new tokens
  std::string digest;          ///< of the logits of the prompt's last and all new tokens

  std::vector<double> new_token_seconds() const;  ///< sums over the buckets
};

/// A prompt and new tokens after it, one by one, under each variant: the same tokens for all. The
/// variants take turns every 32 tokens, in an order of its own each time, so that what slows the
/// machine slows all of them.
class PressGroup : public BenchArm {
public:
  /// The first variant is the one that others are compared with.
  PressGroup(engine::Model& model, std::size_t prompt_length, std::size_t new_count,
             std::vector<PressVariant> variants, bool random);
  void run(bool counts) override;
  double seconds() const override { return seconds_; }

  const std::vector<PressRow>& rows() const { return rows_; }
  const engine::Model& model() const { return model_; }
  /// Seconds that the norms of one token's keys take, in all layers and heads, on one thread.
  double norm_seconds() const;

  const std::size_t prompt;
  const std::size_t new_tokens;

private:
  struct Runner;
  void start(Runner& runner);
  void advance(Runner& runner, std::size_t first, std::size_t count);
  void finish(const Runner& runner, PressRow& row);

  engine::Model& model_;
  bool random_;
  std::vector<std::int32_t> ids_;
  std::vector<PressRow> rows_;
  std::uint64_t rounds_ = 0;
  double seconds_ = 0.0;
};

}  // namespace neoxref::eval
