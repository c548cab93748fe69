// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/pages.hpp"
#include "engine/parallel.hpp"
#include "simd/kernels.hpp"

namespace neoxref::engine {

/// A weight matrix [outputs, inputs] packed once, at load, into panels of 16 output rows,
/// [outputs/16][inputs][16], in the precision of the file. Rows come in groups (one per head for
/// query_key_value, one for all others); every group starts a new panel and is padded with zero
/// rows.
struct Linear {
  std::byte* packed = nullptr;  ///< in the pages of the weights, at a multiple of 64 bytes
  simd::Dtype dtype = simd::Dtype::f32;
  bool from_memory = false;  ///< as in simd::Panels
  std::size_t inputs = 0;
  std::size_t groups = 1;
  std::size_t group_outputs = 0;  ///< rows of a group without padding
  std::vector<float> bias;        ///< [outputs padded as packed]; empty where there is none

  /// Rows of a group with padding; a multiple of 16.
  std::size_t group_stride() const { return simd::round_up(group_outputs, simd::lanes); }
  /// Columns of the product: groups * group_stride.
  std::size_t outputs() const { return groups * group_stride(); }
  /// The panels from output `first` (a multiple of 16) on.
  simd::Panels panels(std::size_t first) const;
  const float* bias_from(std::size_t first) const {
    return bias.empty() ? nullptr : bias.data() + first;
  }
};

/// The largest |weight|; reads all of them.
float largest_magnitude(const Linear& linear);

struct Norm {
  std::vector<float> gamma;  ///< [hidden]
  std::vector<float> beta;   ///< [hidden]
};

struct LayerWeights {
  Norm input_layernorm;
  Norm post_attention_layernorm;
  Linear query_key_value;  ///< groups = heads, rows [q, k, v][head_dim] of each head
  Linear dense;
  Linear dense_h_to_4h;
  Linear dense_4h_to_h;
};

/// Everything that a forward pass reads, made from a checkpoint that stays open: the embedding is
/// read in its mapping.
struct Weights {
  /// Packs in parallel on `team`. Errors: Error for NaN or infinity in a weight, naming it.
  static Weights pack(const Checkpoint& checkpoint, Team& team);

  /// Row `token` of the embedding, widened: out [hidden].
  void embed(const simd::Kernels& kernels, std::size_t token, float* out) const;

  std::vector<LayerWeights> layers;
  Norm final_layer_norm;
  Linear embed_out;
  /// Bytes of packed matrices.
  std::size_t packed_bytes() const { return pages_.size(); }

private:
  Pages pages_;  ///< all packed matrices
  std::span<const std::byte> embed_in_;
  simd::Dtype embed_dtype_ = simd::Dtype::f32;
  std::size_t hidden_ = 0;
};

}  // namespace neoxref::engine
