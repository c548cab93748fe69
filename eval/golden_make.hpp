// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/model.hpp"
#include "eval/golden.hpp"
#include "eval/golden_tensors.hpp"
#include "eval/matrices.hpp"

namespace neoxref::eval {

struct GoldenOptions {
  std::string tool;                        ///< name and version of what asks
  bool all_leaves = false;                 ///< of every tensor of the forward pass
  std::vector<std::string> stored{};       ///< as select_tensors takes them
  std::filesystem::path folder{};          ///< to write; empty: none, then nothing may be stored
  std::function<void(double)> progress{};  ///< share from 0 to 1
};

/// The recipe of a run of this model: config, SHA-256 (which reads all weight files), tokens, press.
GoldenRecipe make_recipe(const engine::Model& model, std::string name,
                         std::vector<std::int32_t> tokens,
                         const std::optional<engine::Press>& press = {},
                         std::size_t prompt_tokens = 0);

/// Runs a recipe and takes its digests; writes the folder under another name first, so that it is
/// there whole or not at all, and replaces a golden that lay there.
/// Errors: Error as run_recipe and select_tensors, for a folder that holds something else, and where it
/// cannot be written.
Golden make_golden(engine::Model& model, const GoldenRecipe& recipe, const GoldenOptions& options);

/// Errors: Error for a folder that holds something else than a golden.
void check_golden_folder(const std::filesystem::path& folder);

/// One value, on both sides.
struct DifferingValue {
  std::size_t channel;  ///< in its row
  float expected;
  float found;
};

/// A tensor that came out otherwise.
struct GoldenDifference {
  std::string name;
  std::optional<std::size_t>
      row;  ///< the first; of the forward pass: the token. Where leaves say so
  std::optional<std::size_t> rows_differing;
  std::optional<DifferingValue> value;  ///< the first; where the golden stores the tensor
};

/// What a run here says of a golden.
struct Verification {
  std::size_t tensors = 0;                    ///< compared
  std::vector<GoldenDifference> differences;  ///< in the order of execution
  /// Where the first tensor that differs has no leaves: the first token of which a layer's output behind
  /// it differs.
  std::optional<std::size_t> token_behind;
  bool same() const { return differences.empty(); }
};

/// Runs the golden's recipe here and compares. Stored tensors are checked against their digests too.
/// Errors: Error as check_same_model, Golden::stored and run_recipe.
Verification verify_golden(engine::Model& model, const Golden& golden,
                           const std::function<void(double)>& progress = {});

/// A tensor with its values, four bytes each.
struct TensorValues {
  NamedTensor tensor;
  std::vector<float> floats;           ///< of F32
  std::vector<std::int32_t> integers;  ///< of I32
};

/// The tensors of a golden, made again from its recipe and checked against their digests. Stored ones are
/// read. The first that is not stored costs one run, which leaves all tensors of the forward pass in a
/// file without a name (in the system's folder for temporary files), so that memory holds what is asked
/// for only; tensors of the cache, scores, probabilities and rotary tables cost a run each.
class GoldenSource final : public TensorSource {
public:
  /// The model must outlive it. Errors: as check_same_model.
  GoldenSource(engine::Model& model, const Golden& golden);
  ~GoldenSource() override;

  bool has(const engine::TensorId& id) const override;
  /// Errors: Error where this machine gives other bits than the golden has, and as run_recipe.
  std::optional<Matrix> get(const engine::TensorId& id) const override;
  std::span<const std::int32_t> tokens() const override;

  /// Any tensor of docs/tensors.md, with its batch axis. Errors: as get, and Error for an unknown name.
  TensorValues find(const std::string& name) const;

private:
  struct Spill;
  const Spill& spill() const;
  engine::Model& model_;
  Golden golden_;
  mutable std::unique_ptr<Spill> spill_;
};

std::unique_ptr<GoldenSource> golden_source(engine::Model& model, const Golden& golden);

}  // namespace neoxref::eval
