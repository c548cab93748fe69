// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>

#include "eval/deviations.hpp"
#include "eval/envelope.hpp"

namespace neoxref::eval {
namespace {

class HeldTensors : public TensorSource {
public:
  explicit HeldTensors(std::vector<std::int32_t> tokens) : tokens_(std::move(tokens)) {}

  bool has(const engine::TensorId& id) const override { return tensors_.contains(id); }
  std::optional<Matrix> get(const engine::TensorId& id) const override {
    const auto found = tensors_.find(id);
    return found == tensors_.end() ? std::nullopt : std::optional(found->second);
  }
  std::span<const std::int32_t> tokens() const override { return tokens_; }

  /// The piece of a tensor `width` wide.
  void put(const engine::TensorId& id, std::size_t width, std::size_t first_column,
           std::size_t columns, const float* values, std::size_t stride) {
    Matrix& matrix = tensors_[id];
    if (matrix.values.empty()) {
      matrix = {tokens_.size(), width, std::vector<float>(tokens_.size() * width)};
    }
    for (std::size_t t = 0; t < matrix.rows; ++t) {
      std::copy_n(values + t * stride, columns, matrix.row(t) + first_column);
    }
  }

private:
  std::vector<std::int32_t> tokens_;
  std::map<engine::TensorId, Matrix> tensors_;
};

}  // namespace

std::vector<std::unique_ptr<TensorSource>> honest_runs(const engine::Checkpoint& checkpoint,
                                                       engine::Team& team, const Profile& profile,
                                                       std::span<const std::int32_t> tokens,
                                                       const TensorSource* like, std::size_t runs,
                                                       std::uint64_t seed) {
  std::vector<std::unique_ptr<HeldTensors>> held;
  for (std::size_t run = 0; run < runs; ++run) {
    held.push_back(
        std::make_unique<HeldTensors>(std::vector<std::int32_t>(tokens.begin(), tokens.end())));
  }
  const engine::Config& config = checkpoint.config();
  EnvelopeOptions options;
  options.runs = runs;
  options.seed = seed;
  make_envelope(checkpoint, team, profile, tokens, options, nullptr,
                [&](const engine::TensorId& id, std::size_t run, std::size_t first_column,
                    std::size_t columns, const float* values, const double*, std::size_t stride) {
                  if (like != nullptr && !like->has(id)) return;
                  held[run]->put(id, tensor_width(id.tensor, config), first_column, columns, values,
                                 stride);
                });
  return {std::make_move_iterator(held.begin()), std::make_move_iterator(held.end())};
}

}  // namespace neoxref::eval
