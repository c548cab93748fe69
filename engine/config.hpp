// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "simd/kernels.hpp"

namespace neoxref::engine {

/// The shape and the constants of a GPT-NeoX model. Defaults are those of transformers'
/// GPTNeoXConfig, whose fields stand behind each member. heads * head_dim = hidden.
struct Config {
  std::size_t hidden = 6144;                         ///< hidden_size
  std::size_t layers = 44;                           ///< num_hidden_layers
  std::size_t heads = 64;                            ///< num_attention_heads
  std::size_t head_dim = 96;                         ///< hidden / heads
  std::size_t intermediate = 24576;                  ///< intermediate_size
  std::size_t vocab = 50432;                         ///< vocab_size
  std::size_t max_positions = 2048;                  ///< max_position_embeddings
  double rotary_pct = 0.25;                          ///< rotary_pct, partial_rotary_factor
  std::size_t rotary_dims = 24;                      ///< trunc(RN64(head_dim * rotary_pct)), even
  float rotary_base = 10000;                         ///< rotary_emb_base, rope_theta
  float layer_norm_eps = 1e-5f;                      ///< layer_norm_eps
  bool parallel_residual = true;                     ///< use_parallel_residual
  simd::Function activation = simd::Function::gelu;  ///< hidden_act
  bool attention_bias = true;                        ///< of query_key_value and dense
  bool tie_word_embeddings = false;                  ///< embed_out is embed_in
  std::optional<std::int32_t> bos_token_id = 0;
  std::vector<std::int32_t> eos_token_ids = {2};  ///< may be empty
};

/// The function behind a hidden_act name of transformers; nothing for a name that is not supported.
std::optional<simd::Function> activation_from_name(std::string_view name);

/// Reads the text of a config.json. Decimal constants are read to binary64 and rounded to binary32
/// where the member is one, whatever rounding mode the caller has.
/// where   names the text in errors.
/// Errors  Error for a field that is out of range or of the wrong type, for two spellings that
///         disagree, and for every field that is not known to leave the results alone.
Config parse_config(std::string_view text, std::string_view where);

/// parse_config of a file.
Config read_config(const std::filesystem::path& path);

}  // namespace neoxref::engine
