// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/model.hpp"

namespace neoxref::engine {

/// A sequence as the bytes of a safetensors file: per layer N
///   past_key_values.N.key, .value  F32 [1, heads, slots, head_dim], the key after rotary
///   past_key_values.N.norm         F32 [heads, slots]
///   past_key_values.N.position     I32 [heads, slots]
///   past_key_values.N.raw          F32 [heads, slots, raw_dims]        where kept
///   past_key_values.N.sums         F64 [heads, slots]                  where noted
///   past_key_values.N.rows         F32 [heads, window, slots]          where noted
/// and `cuts` I64 [cuts, 5] (layer, position, before, after, protection won). The positions that
/// cuts dropped are not saved. Going on from it gives the bits of going on from the original.
/// Errors: Error for a sequence that stopped.
std::string save_sequence(const Model& model, const Sequence& sequence);

/// capacity  as of Model::sequence, at least the slots in use.
/// press     the rule that was at work, or none: it must be the one that the bytes name.
/// where     names the bytes in errors.
/// Errors: Error for bytes that are no saved sequence, or that of another model or press.
Sequence load_sequence(const Model& model, std::span<const std::byte> bytes, std::string_view where,
                       std::size_t capacity, const std::optional<Press>& press);

}  // namespace neoxref::engine
