// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <regex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/foreign.hpp"

namespace neoxref::eval {

/// Which third of query_key_value an array is.
enum class QkvPart : std::uint8_t { whole, q, k, v };
/// Order of the columns of a whole query_key_value: [heads][q, k, v][head_dim], as checkpoints store it,
/// or [q, k, v][heads][head_dim].
enum class StoredQkvOrder : std::uint8_t { by_head, by_part };

/// Elements [start, stop) of an axis, each step-th.
struct AxisSlice {
  std::size_t axis = 0;
  std::uint64_t start = 0;
  std::optional<std::uint64_t> stop;
  std::uint64_t step = 1;
};

/// What arrays of some names are. The steps are done in the order of the members.
struct ForeignRule {
  std::string match;                 ///< for messages
  std::regex pattern;                ///< of the whole name, ECMAScript; group 1, if any: the layer
  std::string name;                  ///< of docs/tensors.md; "{layer}" stands for the layer
  int layer_offset = 0;              ///< added to the layer
  bool ignore = false;               ///< nothing to compare
  std::optional<ForeignType> type;   ///< what the bytes are, whatever the file calls them
  std::optional<std::size_t> stack;  ///< this axis counts layers; one array stands for all
  std::vector<AxisSlice> slices;
  std::vector<std::size_t> squeeze;  ///< axes of extent 1 to drop
  std::vector<std::size_t> permute;  ///< axis i of the result was axis permute[i]; empty: none
  QkvPart part = QkvPart::whole;
  StoredQkvOrder order = StoredQkvOrder::by_head;
};

/// Where the sequence stands in OTHER's arrays, for who says so.
struct TokenRule {
  std::optional<std::size_t> row;     ///< of the batch
  std::optional<std::size_t> offset;  ///< position in OTHER of the golden's first token
};

struct ForeignRules {
  std::vector<ForeignRule> rules;
  std::optional<std::string> map;  ///< built-in map that is used behind them; none: the best
  TokenRule tokens;
  std::vector<RawArray> raw;
};

/// Reads a rules file (docs/compare.md). where names it in errors. Errors: Error.
ForeignRules parse_rules(std::string_view text, std::string_view where);

/// "transformers", "llama.cpp", "onnx".
std::span<const std::string_view> built_in_maps();
/// Errors: Error naming those that exist.
std::span<const ForeignRule> built_in_map(std::string_view name);

}  // namespace neoxref::eval
