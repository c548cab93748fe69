// SPDX-License-Identifier: Apache-2.0
#include "eval/foreign_source.hpp"

#include <algorithm>
#include <cmath>

#include "engine/error.hpp"

namespace neoxref::eval {

using engine::Error;
using engine::Tensor;
using engine::TensorId;
using foreign::Grid;

namespace {

/// Correlation above which a layout is taken to be the right one.
constexpr double matching = 0.9;
/// Sequences of a batch that are tried where nothing says which one it is.
constexpr std::size_t most_sequences = 64;

/// Correlation of the deviations from each column's mean, over finite pairs; of the values themselves
/// where there is one row, or no column varies. Rows of `reference` from `first` on.
double correlation(const Matrix& other, const Matrix& reference, std::size_t first) {
  std::vector<double> means(2 * other.columns, 0.0);
  const auto use = [&](std::size_t i, std::size_t c) {
    return std::isfinite(other.row(i)[c]) && std::isfinite(reference.row(first + i)[c]);
  };
  const double rows = static_cast<double>(other.rows);
  if (other.rows > 1) {
    for (std::size_t i = 0; i < other.rows; ++i) {
      for (std::size_t c = 0; c < other.columns; ++c) {
        if (!use(i, c)) continue;
        means[c] += static_cast<double>(other.row(i)[c]) / rows;
        means[other.columns + c] += static_cast<double>(reference.row(first + i)[c]) / rows;
      }
    }
  }
  double xy = 0.0, xx = 0.0, yy = 0.0;
  for (std::size_t i = 0; i < other.rows; ++i) {
    for (std::size_t c = 0; c < other.columns; ++c) {
      if (!use(i, c)) continue;
      const double x = static_cast<double>(other.row(i)[c]) - means[c];
      const double y = static_cast<double>(reference.row(first + i)[c]) - means[other.columns + c];
      xy += x * y;
      xx += x * x;
      yy += y * y;
    }
  }
  return xx > 0.0 && yy > 0.0 ? xy / std::sqrt(xx * yy) : 0.0;
}

std::string joined(const std::string& a, const std::string& b) {
  return a.empty() || b.empty() ? a + b : a + ", " + b;
}

}  // namespace

Matrix qkv_part(const Matrix& whole, QkvPart part, std::size_t heads) {
  if (part == QkvPart::whole) return whole;
  const std::size_t head_dim = whole.columns / (3 * heads);
  const std::size_t place = static_cast<std::size_t>(part) - 1;
  Matrix result{whole.rows, whole.columns / 3, std::vector<float>(whole.values.size() / 3)};
  for (std::size_t i = 0; i < whole.rows; ++i) {
    for (std::size_t head = 0; head < heads; ++head) {
      std::copy_n(whole.row(i) + (head * 3 + place) * head_dim, head_dim,
                  result.row(i) + head * head_dim);
    }
  }
  return result;
}

ForeignSource::ForeignSource(const ForeignFile& file, const ForeignRules& rules,
                             const engine::Config& config, const TensorSource& reference)
    : file_(file),
      config_(config),
      reference_(reference),
      rule_(rules.tokens),
      bindings_(bind_names(file, rules, config)) {
  align(rules.tokens);
  std::erase_if(bindings_.tensors, [&](const Binding& each) { return !usable(each); });
}

void ForeignSource::align(const TokenRule& rule) {
  const std::span<const std::int32_t> golden = reference_.tokens();
  alignment_.count = golden.size();
  alignment_.row = rule.row.value_or(0);
  alignment_.offset = rule.offset.value_or(0);
  if (!bindings_.input_ids) return;
  const ForeignArray& array = file_.arrays[*bindings_.input_ids];
  const foreign::View view = foreign::view_of(array, {});
  if (array.shape.empty() || array.shape.size() > 2 || array.elements() == 0) {
    throw Error(array.place, "input_ids are neither [tokens] nor [batch, tokens]", {},
                array.shape_text());
  }
  const ForeignBytes bytes = array.read();
  const std::vector<std::int64_t> ids = foreign::integers(view, bytes.view, array.place);
  alignment_.from_ids = true;
  alignment_.length = static_cast<std::size_t>(array.shape.back());
  alignment_.sequences = ids.size() / alignment_.length;
  if (alignment_.row >= alignment_.sequences || alignment_.offset >= alignment_.length) {
    throw Error(array.place, "the rules name a row or offset that input_ids do not have", {},
                array.shape_text());
  }
  // The place where most of the golden's first tokens stand, and among equals where the ids end too.
  std::size_t best = 0;
  bool whole = false, any = false;
  for (std::size_t row = 0; row < alignment_.sequences && !whole; ++row) {
    if (rule.row && row != *rule.row) continue;
    for (std::size_t offset = 0; offset < alignment_.length && !whole; ++offset) {
      if (rule.offset && offset != *rule.offset) continue;
      const std::size_t room = std::min(golden.size(), alignment_.length - offset);
      std::size_t same = 0;
      while (same < room && ids[row * alignment_.length + offset + same] == golden[same]) ++same;
      if (any && same <= best) continue;
      any = true;
      best = same;
      whole = same == room && (same == golden.size() || offset == 0);
      alignment_.row = row;
      alignment_.offset = offset;
    }
  }
  alignment_.count = best;
  const std::size_t behind = alignment_.offset + best;
  alignment_.agrees = whole || (best > 0 && behind == alignment_.length);
  if (alignment_.agrees) return;
  if (best == 0 && !rule.row && !rule.offset) alignment_.row = alignment_.offset = 0;
  alignment_.difference = best;
  alignment_.golden_id = golden[best];
  const std::size_t at = alignment_.offset + best;
  if (at < alignment_.length) alignment_.other_id = ids[alignment_.row * alignment_.length + at];
}

foreign::View ForeignSource::view(const Binding& binding) const {
  const ForeignArray& array = file_.arrays[binding.array];
  foreign::View result =
      foreign::view_of(array, binding.rule != nullptr ? binding.rule->type : std::nullopt);
  if (binding.layer_of_stack) {
    result =
        foreign::at(std::move(result), *binding.rule->stack, *binding.layer_of_stack, array.place);
  }
  return binding.rule == nullptr ? result
                                 : foreign::apply(std::move(result), *binding.rule, array.place);
}

std::vector<Grid> ForeignSource::all_grids(const Binding& binding) const {
  const foreign::View seen = view(binding);
  const bool is_part = binding.part != QkvPart::whole;
  const std::size_t width =
      is_part ? config_.hidden : engine::tensor_width(binding.id.tensor, config_);
  std::vector<Grid> found = foreign::grids(seen, width, config_.heads, binding.heads_first);
  if (binding.id.tensor == Tensor::query_key_value && !is_part) {
    std::vector<Grid> both;
    const bool by_part = binding.rule != nullptr && binding.rule->order == StoredQkvOrder::by_part;
    for (const Grid& grid : found) {
      for (const bool other_order : {false, true}) {
        Grid next = grid;
        next.by_part = by_part != other_order;
        if (other_order) {
          next.how = joined(next.how, next.by_part ? "columns [q, k, v][heads][head_dim]"
                                                   : "columns [heads][q, k, v][head_dim]");
        }
        both.push_back(std::move(next));
      }
    }
    found = std::move(both);
  }
  // Whole numbers of 16 bits are no activations: what numpy has no name for is often kept so.
  if (seen.type == ForeignType::u16) {
    std::vector<Grid> typed;
    for (const auto& [type, how] : {std::pair{ForeignType::bf16, "uint16 taken as bf16"},
                                    std::pair{ForeignType::f16, "uint16 taken as f16"}}) {
      for (Grid grid : found) {
        grid.view.type = type;
        grid.how = joined(grid.how, how);
        typed.push_back(std::move(grid));
      }
    }
    found = std::move(typed);
  }
  return found;
}

std::vector<ForeignSource::Rows> ForeignSource::row_choices(const Binding& binding,
                                                            const Grid& grid) const {
  const foreign::GridRows rows = foreign::rows_of(grid);
  const Alignment& a = alignment_;
  const std::size_t count = a.count;
  std::vector<Rows> result;
  const auto of_sequence = [&](std::size_t sequence, std::size_t first, std::size_t tokens) {
    const bool known = a.from_ids || rule_.offset.has_value();
    if (known && (a.length == tokens || (a.length == 0 && a.offset + count <= tokens))) {
      result.push_back({sequence, first + a.offset, 0, count});
    } else if (tokens == count) {
      result.push_back({sequence, first, 0, count});
    } else if (tokens > count && a.length == 0) {
      result.push_back({sequence, first + tokens - count, 0, count});
      result.push_back({sequence, first, 0, count});
    } else if (tokens < count) {
      result.push_back({sequence, first, count - tokens, tokens});
      result.push_back({sequence, first, 0, tokens});
    }
  };
  if (binding.log_probabilities_from) {
    const std::size_t from = *binding.log_probabilities_from;
    const std::size_t skipped = a.offset > from ? a.offset - from : 0;
    const std::size_t first = from + skipped - a.offset;
    if (skipped < rows.tokens && first < count) {
      result.push_back({0, skipped, first, std::min(rows.tokens - skipped, count - first)});
    }
  } else if (rows.batch == 1 && a.sequences > 1 && rows.tokens == a.sequences * a.length) {
    of_sequence(0, a.row * a.length, a.length);
  } else if (rows.batch == 1 && a.sequences > 1 && rows.tokens == a.sequences && a.length > 1) {
    result.push_back({0, a.row, count - 1, 1});
  } else if (rows.batch == 1) {
    of_sequence(0, 0, rows.tokens);
  } else if (rule_.row || (a.from_ids && rows.batch == a.sequences)) {
    if (a.row < rows.batch) of_sequence(a.row, 0, rows.tokens);
  } else if (rows.batch <= most_sequences) {
    for (std::size_t i = 0; i < rows.batch; ++i) of_sequence(i, 0, rows.tokens);
  }
  return result;
}

bool ForeignSource::usable(const Binding& binding) {
  const ForeignArray& array = file_.arrays[binding.array];
  const auto refuse = [&](const std::string& why) {
    unusable_.push_back(array.name + ": " + why);
    return false;
  };
  if (binding.id.layer >= config_.layers) {
    return refuse("the model has " + std::to_string(config_.layers) + " layers");
  }
  const std::string name = engine::tensor_name(binding.id);
  const std::vector<Grid> found = all_grids(binding);
  if (found.empty()) {
    const std::size_t width = binding.part == QkvPart::whole
                                  ? engine::tensor_width(binding.id.tensor, config_)
                                  : config_.hidden;
    return refuse("shape " + array.shape_text() + " is not [tokens, " + std::to_string(width) +
                  "], which " + name + " has");
  }
  for (const Grid& grid : found) {
    if (!row_choices(binding, grid).empty()) return true;
  }
  return refuse("shape " + array.shape_text() + " has not the " + std::to_string(alignment_.count) +
                " tokens of the golden");
}

bool ForeignSource::covers_all(const Binding& binding) const {
  for (const Grid& grid : all_grids(binding)) {
    const auto choices = row_choices(binding, grid);
    if (!choices.empty()) return choices.front().count == alignment_.count;
  }
  return false;
}

const ForeignSource::Choice& ForeignSource::choose(const Binding& binding,
                                                   const ForeignBytes& bytes) const {
  const auto key = std::pair(binding.id, binding.part);
  if (const auto known = choices_.find(key); known != choices_.end()) return known->second;
  const std::optional<Matrix> whole = reference_.get(binding.id);
  if (!whole) throw Error(engine::tensor_name(binding.id), "the reference has no such tensor");
  const Matrix reference = qkv_part(*whole, binding.part, config_.heads);
  std::optional<Choice> first, best;
  double highest = matching;
  bool plain = true;
  for (const Grid& grid : all_grids(binding)) {
    for (const Rows& rows : row_choices(binding, grid)) {
      Choice choice{grid, rows, grid.how};
      if (!first) first = choice;
      const Matrix seen =
          foreign::values(grid, bytes.view, rows.sequence, rows.from, rows.count, config_.heads);
      const double found = correlation(seen, reference, rows.first_token);
      if (found > highest || (plain && found >= matching)) {
        highest = found;
        best = choice;
      }
      if (plain && found >= matching) return choices_.emplace(key, *best).first->second;
      plain = false;
    }
  }
  return choices_.emplace(key, best ? *best : *first).first->second;
}

Mapped ForeignSource::one(const Binding& binding) const {
  const ForeignArray& array = file_.arrays[binding.array];
  const ForeignBytes bytes = array.read();
  const Choice& choice = choose(binding, bytes);
  Mapped result;
  result.matrix = foreign::values(choice.grid, bytes.view, choice.rows.sequence, choice.rows.from,
                                  choice.rows.count, config_.heads);
  result.first_token = choice.rows.first_token;
  result.other_name = array.name;
  result.type = foreign_type_name(choice.grid.view.type);
  result.how = choice.how;
  result.log_probabilities = binding.log_probabilities_from.has_value();
  return result;
}

const Binding* ForeignSource::binding(const TensorId& id, QkvPart part) const {
  for (const Binding& each : bindings_.tensors) {
    if (each.id == id && each.part == part) return &each;
  }
  return nullptr;
}

std::vector<QkvPart> ForeignSource::parts(const TensorId& id) const {
  if (binding(id, QkvPart::whole) != nullptr) return {QkvPart::whole};
  std::vector<QkvPart> found;
  for (const QkvPart part : {QkvPart::q, QkvPart::k, QkvPart::v}) {
    if (binding(id, part) != nullptr) found.push_back(part);
  }
  const bool complete =
      found.size() == 3 && std::all_of(found.begin(), found.end(),
                                       [&](QkvPart p) { return covers_all(*binding(id, p)); });
  return complete ? std::vector{QkvPart::whole} : found;
}

bool ForeignSource::has(const TensorId& id) const {
  if (const Binding* whole = binding(id, QkvPart::whole)) {
    return !whole->log_probabilities_from && covers_all(*whole);
  }
  return parts(id) == std::vector{QkvPart::whole};
}

Mapped ForeignSource::find(const TensorId& id, QkvPart part) const {
  if (const Binding* const single = binding(id, part)) return one(*single);
  if (part != QkvPart::whole) throw Error(engine::tensor_name(id), "OTHER has no such part");
  Mapped result;
  const std::size_t head_dim = config_.head_dim;
  for (const QkvPart each : {QkvPart::q, QkvPart::k, QkvPart::v}) {
    const Binding* const third = binding(id, each);
    if (third == nullptr) throw Error(engine::tensor_name(id), "OTHER has no such tensor");
    const Mapped mapped = one(*third);
    if (each == QkvPart::q) {
      result = mapped;
      result.matrix = {mapped.matrix.rows, 3 * config_.hidden,
                       std::vector<float>(mapped.matrix.rows * 3 * config_.hidden)};
    } else {
      result.other_name += " + " + mapped.other_name;
      if (result.how != mapped.how) result.how = joined(result.how, mapped.how);
      if (mapped.matrix.rows != result.matrix.rows || mapped.first_token != result.first_token) {
        throw Error(engine::tensor_name(id), "q, k and v in OTHER have other tokens");
      }
    }
    const std::size_t place = static_cast<std::size_t>(each) - 1;
    for (std::size_t i = 0; i < mapped.matrix.rows; ++i) {
      for (std::size_t head = 0; head < config_.heads; ++head) {
        std::copy_n(mapped.matrix.row(i) + head * head_dim, head_dim,
                    result.matrix.row(i) + (head * 3 + place) * head_dim);
      }
    }
  }
  return result;
}

std::optional<Matrix> ForeignSource::get(const TensorId& id) const {
  if (!has(id)) return std::nullopt;
  return find(id, QkvPart::whole).matrix;
}

std::span<const std::int32_t> ForeignSource::tokens() const {
  return reference_.tokens().first(alignment_.count);
}

std::size_t ForeignSource::last_extent(std::size_t array) const {
  const auto& shape = file_.arrays[array].shape;
  return shape.empty() ? 1 : static_cast<std::size_t>(shape.back());
}

Matrix ForeignSource::plain(std::size_t array, std::size_t width) const {
  const ForeignArray& found = file_.arrays[array];
  const auto views = foreign::grids(foreign::view_of(found, {}), width, 1, false);
  if (views.empty() || foreign::rows_of(views.front()).batch != 1) {
    throw Error(found.place, "not of this shape", "[positions, " + std::to_string(width) + "]",
                found.shape_text());
  }
  const ForeignBytes bytes = found.read();
  return foreign::values(views.front(), bytes.view, 0, 0, foreign::rows_of(views.front()).tokens,
                         1);
}

}  // namespace neoxref::eval
