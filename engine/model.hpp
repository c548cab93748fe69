// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/buffer.hpp"
#include "engine/checkpoint.hpp"
#include "engine/parallel.hpp"
#include "engine/sequence.hpp"
#include "engine/weights.hpp"
#include "simd/kernels.hpp"

namespace neoxref::engine {

/// Where a value first was not finite. layer = layers for the last two operations.
enum class Operation : std::uint8_t {
  input_layernorm,
  key_norm,
  post_attention_layernorm,
  final_layer_norm,
  logits
};
struct NonFinite {
  std::size_t token;  ///< index in the step's tokens
  std::size_t layer;
  Operation operation;
};
/// "token 3 of the step, layer 2, key norm is not finite".
std::string describe(const NonFinite& failure);

enum class LogitRows : std::uint8_t { none, last, all };

/// Some tokens of one sequence. tokens.size() >= 1.
struct Step {
  Sequence* sequence = nullptr;
  std::span<const std::int32_t> tokens;
  LogitRows rows = LogitRows::last;
  float* logits = nullptr;             ///< out: [1 or tokens, vocab] for last or all
  std::optional<NonFinite> failure{};  ///< out: where this sequence stopped; logits before it hold
};

struct RunOptions {
  std::string isa;  ///< empty: NEOXREF_ISA or the best of this CPU
  Backend backend = built_backends().front();
  std::size_t threads = 0;  ///< 0: all that this process may use
  /// Instead of a table of `isa`, for measurements; must outlive the model. The bits are theirs.
  const simd::Kernels* kernels = nullptr;
};

/// A loaded model. One forward call at a time; sequences belong to the caller.
/// The bits of the logits are those of docs/contract.md for every isa, backend, number of threads,
/// split of the tokens into steps, and company in a batch.
class Model {
public:
  /// Errors: Error as Checkpoint::open and Weights::pack; std::invalid_argument for an isa name.
  static Model load(const std::filesystem::path& folder, const RunOptions& options);

  /// The same weights under other options, without loading them again; both may be used, one at a
  /// time. Errors: as load for the options.
  Model share(const RunOptions& options) const;

  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  const Config& config() const { return checkpoint_->config(); }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const Weights& weights() const { return *weights_; }
  const simd::Kernels& kernels() const { return *kernels_; }
  const Team& team() const { return *team_; }
  /// For work between two forward calls.
  Team& team() { return *team_; }

  /// A fresh sequence, with a press if one is given; extras: beside those of the press. Its memory may be
  /// that of one that is gone. Errors: as KvCache and Sequence::set_press.
  Sequence sequence(std::size_t capacity, const std::optional<Press>& press = {},
                    const Extras& extras = {}) const;

  /// Runs every step's tokens; sequences must be distinct. A sequence that is not stopped advances
  /// by its tokens, cut on the way whenever its press says so. Errors: Error, before anything has
  /// changed, for a token outside the vocabulary, a position past max_position_embeddings, a cache
  /// too small, a stopped sequence. An own score may throw at a cut: then this step's sequence is
  /// stopped, and the tokens before have entered. A value that is not finite is no exception: the step's
  /// `failure` names it and false is returned.
  bool forward(std::span<Step> steps);

private:
  class Pass;
  Model();
  /// What the options choose: kernels and pool.
  void choose(const RunOptions& options);
  void check(std::span<const Step> steps) const;
  /// Tells a cache how many slots its first tokens fill in every layer.
  void expect(const Sequence& sequence, std::size_t tokens) const;
  bool advance(std::span<Step> steps);

  struct Progress {
    std::size_t done = 0;  ///< tokens of the step
    bool one_by_one = false;
    std::optional<Attended> attended{};  ///< before the chunk that runs
  };

  std::shared_ptr<const Checkpoint> checkpoint_;
  const simd::Kernels* kernels_ = nullptr;
  std::unique_ptr<Team> team_;
  std::shared_ptr<const Weights> weights_;
  std::shared_ptr<PagePool> pool_ = std::make_shared<PagePool>();
  std::unique_ptr<Pass> pass_;
  std::vector<Progress> progress_;
};

/// cos and sin of every position: [positions][rotary_dims/2], docs/contract.md "Rotary".
struct RotaryTable {
  RotaryTable(const Config& config, const simd::Kernels& kernels);
  std::size_t half;  ///< rotary_dims / 2
  Buffer<float> cos;
  Buffer<float> sin;
};

}  // namespace neoxref::engine
