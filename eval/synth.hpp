// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/config.hpp"
#include "simd/kernels.hpp"

namespace neoxref::eval {

/// The extents of a published model, by the end of its Hub name.
struct NamedShape {
  std::string_view name;
  std::size_t layers;
  std::size_t hidden;
  std::size_t heads;
  std::size_t intermediate;
  std::size_t vocab;
};
/// pythia-14m to pythia-12b and gpt-neox-20b, smallest first.
std::span<const NamedShape> named_shapes();
/// A config of that shape, everything else as those models have it.
/// Errors: Error naming the shapes there are.
engine::Config shape_config(std::string_view name);

/// The seeded value of one weight, the same on every machine: no function of the C library and no
/// rounding but that of + - * / sqrt has a part in it.
///
/// Element i of tensor t (in the order of engine::required_tensors) takes the words of Philox4x32-10
/// under the key `seed` at the counter {i / 2 low, i / 2 high, t, 0}: the first two words if i is
/// even, else the last two. Their four 16-bit halves u are summed: n = 2 * sum - 4 * 65535, a whole
/// number of mean 0 and of the deviation D = sqrt(4 * (65536^2 - 1) / 3), which stays within 3.47 D.
/// The value is RN32(n * RN32(deviation / D)), deviation and D in binary64, for a gain of a LayerNorm plus 1; of an outlier
/// channel it is then multiplied by 8. f16 and bf16 are that value rounded to nearest even.
///
/// deviation: sqrt(2 / (5 hidden)) for embedding, query_key_value and dense_h_to_4h; 5 / sqrt(hidden) for
/// the unembedding (so logits have a deviation of about 5, the largest of a vocabulary near 20);
/// 2 / (layers * sqrt(hidden)) for dense and dense_4h_to_h; 0.02 for biases of products, 0.1 for
/// gains and biases of norms. Outlier channels are max(2, hidden / 128) channels of the residual
/// stream: columns of the embedding, and rows of dense and dense_4h_to_h with their biases.
class SynthValues {
public:
  SynthValues(const engine::Config& config, std::uint64_t seed);

  /// Values [first, first + out.size()) of tensor `number`, named `name`, with rows of `width`.
  void fill(std::size_t number, std::string_view name, std::size_t width, std::uint64_t first,
            std::span<float> out) const;
  /// Ascending.
  const std::vector<std::size_t>& outliers() const { return outliers_; }

private:
  const engine::Config config_;
  std::uint64_t seed_;
  std::vector<std::size_t> outliers_;
  std::vector<bool> is_outlier_;  ///< [hidden]
};

/// RN of a finite float to binary16 or bfloat16, as bits. Errors: none; what is too large becomes
/// infinity.
std::uint16_t to_f16(float value);
std::uint16_t to_bf16(float value);

struct SynthOptions {
  std::uint64_t seed = 1;
  simd::Dtype dtype = simd::Dtype::f16;
  std::uint64_t most_shard_bytes = 5'000'000'000;  ///< of tensors in one file; a tensor stays whole
  bool force = false;                              ///< replace what is at `folder`
  std::optional<std::filesystem::path> tokenizer;  ///< copied as tokenizer.json
};

struct SynthFile {
  std::string name;
  std::uint64_t bytes;
  std::string xxh3;  ///< XXH3-128 of its bytes, canonical hex
};

/// Writes config.json and model.safetensors, or shards and model.safetensors.index.json when the
/// tensors take more than most_shard_bytes, tensor by tensor, without ever holding one whole. The
/// folder is made under another name beside its place and renamed at the end, so it is there whole
/// or not at all.
/// progress  called with the share done, from 0 to 1; may be empty.
/// Errors: Error when `folder` exists and force is not set (with force: when it is not a folder
/// that holds a config.json), for extents that make no model, and for what the system refuses.
std::vector<SynthFile> write_synth(const engine::Config& config, const SynthOptions& options,
                                   const std::filesystem::path& folder,
                                   const std::function<void(double)>& progress = {});

/// Bytes that write_synth's tensors take.
std::uint64_t synth_bytes(const engine::Config& config, simd::Dtype dtype);

}  // namespace neoxref::eval
