// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/plain_press.hpp"
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

  /// Cuts the layers that are due before a token, enters one and returns its logits [vocab]; then
  /// cuts the layers that are due behind it.
  /// record   may be null.
  /// Errors: Error for a token outside the vocabulary or a position past the context.
  std::vector<Real> forward(std::int32_t token, Record* record = nullptr);

  /// Slots of a layer that exist.
  std::size_t length(std::size_t layer) const {
    const std::vector<bool>& exists = exists_[layer].front();
    return static_cast<std::size_t>(std::count(exists.begin(), exists.end(), true));
  }
  /// Slots of a layer that are stored: more than exist only under a mask.
  std::size_t stored(std::size_t layer) const { return caches_[layer].front().positions.size(); }
  /// Slots of a layer that the last token attended to, itself included.
  std::size_t seen(std::size_t layer) const { return seen_[layer]; }
  /// The original position of each stored slot of a head.
  const std::vector<std::int32_t>& positions(std::size_t layer, std::size_t head) const {
    return caches_[layer][head].positions;
  }

  /// From the next token on. Errors: as Press::check.
  void set_press(const Press& press);
  void end_prompt() { prompt_ended_ = true; }
  /// From now on cuts hide slots and keep them stored: what a mask over a full cache computes. Slots
  /// stay in time order.
  void mask_instead_of_dropping() { mask_ = true; }

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
  std::vector<Real> norm(const Norm& norm, const std::vector<Real>& x) const;
  std::vector<Real> linear(const Linear& linear, const std::vector<Real>& x) const;
  std::vector<Real> attention(std::size_t layer, const std::vector<Real>& qkv,
                              const std::string& name, Record* record);
  std::vector<std::size_t> existing_slots(std::size_t layer, std::size_t head) const;
  void rotate(Real* x, std::size_t position) const;
  std::size_t rotary_position(std::size_t slot) const;
  void cut(std::size_t layer);

  Config config_;
  std::vector<Real> embed_in_;
  std::vector<Layer> layers_;
  Norm final_layer_norm_;
  Linear embed_out_;
  std::vector<std::vector<PlainHead<Real>>> caches_;
  std::vector<std::vector<std::vector<bool>>> exists_;  ///< [layers, heads, stored slots]
  bool mask_ = false;
  std::int32_t position_ = 0;
  std::size_t frame_position_ = 0;  ///< that the token of now turns by, unless it is renumbered
  std::optional<Press> press_;
  std::size_t since_press_ = 0;
  bool prompt_ended_ = false;
  std::vector<std::size_t> cuts_;  ///< of each layer
  std::vector<std::size_t> seen_;
};

extern template class Oracle<float>;
extern template class Oracle<double>;

}  // namespace neoxref::engine
