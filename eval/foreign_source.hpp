// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/config.hpp"
#include "eval/foreign.hpp"
#include "eval/foreign_layout.hpp"
#include "eval/foreign_names.hpp"
#include "eval/foreign_rules.hpp"
#include "eval/matrices.hpp"

namespace neoxref::eval {

/// How OTHER's positions and the golden's tokens belong together.
struct Alignment {
  bool from_ids = false;                 ///< else from rules, or as the shapes let it
  bool agrees = true;                    ///< false: the ids are others
  std::size_t sequences = 1;             ///< of OTHER's input
  std::size_t length = 0;                ///< positions of each; 0: unknown
  std::size_t row = 0;                   ///< which of the sequences
  std::size_t offset = 0;                ///< position of the golden's first token
  std::size_t count = 0;                 ///< tokens that are in both
  std::size_t difference = 0;            ///< agrees is false: first token that differs,
  std::int64_t golden_id = 0;            ///< what it is in the golden,
  std::optional<std::int64_t> other_id;  ///< and in OTHER; nothing where OTHER ends
};

/// What an array turned out to be.
struct Mapped {
  Matrix matrix;
  std::size_t first_token = 0;     ///< of the first row
  std::string other_name;          ///< arrays that it came from
  std::string type;                ///< "f32", ...
  std::string how;                 ///< "" for the plain layout, else what had to be done
  bool log_probabilities = false;  ///< instead of logits
};

/// OTHER's tensors under their names of docs/tensors.md. Which layout an array has is decided by its
/// values: where the plain one does not go with the reference (correlation of deviations from the
/// columns' means below 0.9) and another does, the other one is taken, and `how` says so.
class ForeignSource : public TensorSource {
public:
  /// All references must outlive it. tokens: the golden's. Errors: Error as bind_names; for a rule that
  /// does not fit its array.
  ForeignSource(const ForeignFile& file, const ForeignRules& rules, const engine::Config& config,
                const TensorSource& reference);

  /// Whole tensors with a row for each token that is in both.
  bool has(const engine::TensorId& id) const override;
  std::optional<Matrix> get(const engine::TensorId& id) const override;
  /// The first alignment().count tokens.
  std::span<const std::int32_t> tokens() const override;

  const Alignment& alignment() const { return alignment_; }
  const Bindings& bindings() const { return bindings_; }
  /// Arrays that cannot be what their names say: "name: why".
  const std::vector<std::string>& unusable() const { return unusable_; }

  /// Parts of a tensor that can be compared, at most three: whole, or those of q, k, v that there are
  /// where not all are. Rows may be fewer than tokens.
  std::vector<QkvPart> parts(const engine::TensorId& id) const;
  /// Errors: Error for no such part, and where bytes cannot be read.
  Mapped find(const engine::TensorId& id, QkvPart part) const;

  /// An array of [positions, width] that is no tensor of a token (rotary.cos): as many rows as it has.
  Matrix plain(std::size_t array, std::size_t width) const;
  /// Extent of an array's last axis; 1 where it has none.
  std::size_t last_extent(std::size_t array) const;

private:
  struct Rows {
    std::size_t sequence, from, first_token, count;
  };
  struct Choice {
    foreign::Grid grid;
    Rows rows;
    std::string how;
  };
  const Binding* binding(const engine::TensorId& id, QkvPart part) const;
  bool usable(const Binding& binding);
  foreign::View view(const Binding& binding) const;
  std::vector<foreign::Grid> all_grids(const Binding& binding) const;
  std::vector<Rows> row_choices(const Binding& binding, const foreign::Grid& grid) const;
  bool covers_all(const Binding& binding) const;
  const Choice& choose(const Binding& binding, const ForeignBytes& bytes) const;
  Mapped one(const Binding& binding) const;
  void align(const TokenRule& rule);

  const ForeignFile& file_;
  const engine::Config& config_;
  const TensorSource& reference_;
  TokenRule rule_;
  Bindings bindings_;
  Alignment alignment_;
  std::vector<std::string> unusable_;
  mutable std::map<std::pair<engine::TensorId, QkvPart>, Choice> choices_;
};

/// Columns of query_key_value [tokens, heads * 3 * head_dim] that are a part: [tokens, hidden].
Matrix qkv_part(const Matrix& whole, QkvPart part, std::size_t heads);

}  // namespace neoxref::eval
