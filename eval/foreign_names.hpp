// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "engine/config.hpp"
#include "engine/tensors.hpp"
#include "eval/foreign.hpp"
#include "eval/foreign_rules.hpp"

namespace neoxref::eval {

/// What an array is, by its name.
struct Binding {
  std::size_t array = 0;  ///< in ForeignFile::arrays
  engine::TensorId id{engine::Tensor::embed_in};
  QkvPart part = QkvPart::whole;
  bool heads_first = false;  ///< axes [heads, tokens, head_dim]
  std::optional<std::size_t> layer_of_stack;
  /// The array holds logarithms of probabilities, its rows are positions from here on.
  std::optional<std::size_t> log_probabilities_from;
  const ForeignRule* rule = nullptr;  ///< null: the name stands in docs/tensors.md
};

/// Which array is what.
struct Bindings {
  std::string map;  ///< built-in map that was used; "none"
  std::vector<Binding> tensors;
  std::optional<std::size_t> input_ids, rotary_cos, rotary_sin;
  std::size_t named = 0;              ///< arrays that have a meaning
  std::vector<std::string> unknown;   ///< names that no rule knows
  std::vector<std::string> ignored;   ///< names that are known and have nothing to be compared with
  std::vector<std::string> repeated;  ///< "X: not compared, as Y is the same tensor"
};

/// Names are looked up in the rules file, then in docs/tensors.md, then in the built-in map: the one that
/// the rules name, else the one that knows most of what is left. `rules` must outlive the result.
/// Errors: Error for a rule that names no tensor.
Bindings bind_names(const ForeignFile& file, const ForeignRules& rules,
                    const engine::Config& config);

}  // namespace neoxref::eval
