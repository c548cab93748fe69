// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/press.hpp"

namespace neoxref::engine {

/// The contract as plain code: one token at a time, weights as they are stored, vectors of numbers,
/// no kernels, no threads. Oracle<float> gives the bits of the engine; Oracle<double> gives the
/// truth that errors are measured against: the same page in binary64, with scale, eps, inv_freq,
/// angle, cos and sin at their binary32 values (its elementary functions are libm's).
template <class Real>
class Oracle {
public:
  /// Intermediate tensors by name (docs/tensors.md), rows appended token by token: [tokens, width].
  using Record = std::map<std::string, std::vector<Real>>;

  /// Copies the weights. Errors: Error for NaN or infinity in a weight.
  explicit Oracle(const Checkpoint& checkpoint);

  /// Enters one token and returns its logits [vocab]; then cuts the layers that are due.
  /// record   may be null.
  /// Errors: Error for a token outside the vocabulary or a position past the context.
  std::vector<Real> forward(std::int32_t token, Record* record = nullptr);

  /// Slots of a layer, and the original position of each slot of a head.
  std::size_t length(std::size_t layer) const { return caches_[layer].front().positions.size(); }
  const std::vector<std::int32_t>& positions(std::size_t layer, std::size_t head) const {
    return caches_[layer][head].positions;
  }

  std::optional<Press> press;

private:
  struct Linear {
    std::size_t inputs = 0;
    std::vector<Real> weight;  ///< [outputs, inputs]
    std::vector<Real> bias;    ///< [outputs] or empty
  };
  struct Norm {
    std::vector<Real> gamma, beta;
  };
  struct Layer {
    Norm input_layernorm, post_attention_layernorm;
    Linear query_key_value, dense, dense_h_to_4h, dense_4h_to_h;
  };
  struct HeadCache {
    std::vector<std::vector<Real>> keys, values;
    std::vector<Real> norms;
    std::vector<std::int32_t> positions;
  };

  std::vector<Real> norm(const Norm& norm, const std::vector<Real>& x) const;
  std::vector<Real> linear(const Linear& linear, const std::vector<Real>& x) const;
  std::vector<Real> attention(std::size_t layer, const std::vector<Real>& qkv,
                              const std::string& name, Record* record);
  void rotate(Real* x) const;
  void cut(std::size_t layer);

  Config config_;
  std::vector<Real> embed_in_;
  std::vector<Layer> layers_;
  Norm final_layer_norm_;
  Linear embed_out_;
  std::vector<std::vector<HeadCache>> caches_;
  std::int32_t position_ = 0;
};

extern template class Oracle<float>;
extern template class Oracle<double>;

}  // namespace neoxref::engine
