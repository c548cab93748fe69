// SPDX-License-Identifier: Apache-2.0
#include "eval/foreign_names.hpp"

#include <algorithm>
#include <charconv>
#include <map>
#include <tuple>

#include "engine/error.hpp"

namespace neoxref::eval {
namespace {

using engine::Error;
using engine::Tensor;
using engine::TensorId;

/// Longer names are looked up in docs/tensors.md only: std::regex recurses over the text.
constexpr std::size_t longest_matched = 512;

/// What a name of docs/tensors.md, or one of its aliases, stands for.
struct Target {
  enum class Kind : std::uint8_t { tensor, input_ids, cos, sin, log_probabilities, nothing } kind;
  TensorId id{Tensor::embed_in};
  QkvPart part = QkvPart::whole;
  bool heads_first = false;
};

/// The number between `begin` and `end` of a name.
std::optional<std::size_t> number_between(std::string_view name, std::string_view begin,
                                          std::string_view end) {
  if (name.size() <= begin.size() + end.size() || !name.starts_with(begin) ||
      !name.ends_with(end)) {
    return std::nullopt;
  }
  const std::string_view digits =
      name.substr(begin.size(), name.size() - begin.size() - end.size());
  std::size_t number = 0;
  const auto [last, problem] =
      std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (problem != std::errc{} || last != digits.data() + digits.size()) return std::nullopt;
  return number;
}

std::optional<Target> target_of(std::string_view name, const engine::Config& config) {
  using Kind = Target::Kind;
  if (const auto id = engine::tensor_from_name(name)) return Target{Kind::tensor, *id};
  if (name == "input_ids") return Target{Kind::input_ids};
  if (name == "rotary.cos") return Target{Kind::cos};
  if (name == "rotary.sin") return Target{Kind::sin};
  if (name == "log_probabilities") return Target{Kind::log_probabilities, {Tensor::embed_out}};
  if (name == "attention_mask") return Target{Kind::nothing};
  // transformers: the embedding, the layers' outputs but the last, and that one behind the final norm.
  if (const auto n = number_between(name, "hidden_states.", "")) {
    if (*n == 0) return Target{Kind::tensor, {Tensor::embed_in}};
    if (*n == config.layers) return Target{Kind::tensor, {Tensor::final_layer_norm}};
    return Target{Kind::tensor, {Tensor::layer_output, *n - 1}};
  }
  if (const auto n = number_between(name, "past_key_values.", ".key")) {
    return Target{Kind::tensor, {Tensor::rotary_k, *n}, QkvPart::whole, true};
  }
  if (const auto n = number_between(name, "past_key_values.", ".value")) {
    return Target{Kind::tensor, {Tensor::query_key_value, *n}, QkvPart::v, true};
  }
  return std::nullopt;
}

/// "gpt_neox.layers.{layer}.mlp.act" with the layer filled in.
std::string filled(const ForeignRule& rule, std::optional<long> layer) {
  constexpr std::string_view hole = "{layer}";
  std::string name = rule.name;
  const std::size_t place = name.find(hole);
  if (place == std::string::npos || !layer) return name;
  return name.replace(place, hole.size(), std::to_string(*layer + rule.layer_offset));
}

std::optional<long> layer_in(const std::smatch& match) {
  if (match.size() < 2 || !match[1].matched) return std::nullopt;
  const std::string digits = match[1].str();
  long layer = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
  if (problem != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
  return layer;
}

class Binder {
public:
  Binder(const ForeignFile& file, const engine::Config& config) : file_(file), config_(config) {}

  /// Binds arrays that no one has claimed yet; true where a rule of the file names nothing.
  void use(std::span<const ForeignRule> rules, bool strict) {
    for (std::size_t i = 0; i < file_.arrays.size(); ++i) {
      const std::string& name = file_.arrays[i].name;
      if (claimed(i) || name.size() > longest_matched) continue;
      for (const ForeignRule& rule : rules) {
        std::smatch match;
        if (!std::regex_match(name, match, rule.pattern)) continue;
        follow(i, rule, match, strict);
        break;
      }
    }
  }

  void use_own_names() {
    for (std::size_t i = 0; i < file_.arrays.size(); ++i) {
      if (claimed(i)) continue;
      if (const auto target = target_of(file_.arrays[i].name, config_))
        add(i, *target, nullptr, {});
    }
  }

  std::size_t count() const { return claims_.size(); }

  Bindings finish(const std::string& map) {
    result_.map = map;
    result_.named = claims_.size();
    for (std::size_t i = 0; i < file_.arrays.size(); ++i) {
      if (!claimed(i)) result_.unknown.push_back(file_.arrays[i].name);
    }
    return std::move(result_);
  }

private:
  bool claimed(std::size_t i) const { return claims_.contains(i); }

  void follow(std::size_t i, const ForeignRule& rule, const std::smatch& match, bool strict) {
    if (rule.ignore) {
      claims_[i] = true;
      result_.ignored.push_back(file_.arrays[i].name);
      return;
    }
    const ForeignArray& array = file_.arrays[i];
    if (rule.stack && *rule.stack < array.shape.size()) {
      const auto extent = static_cast<std::size_t>(array.shape[*rule.stack]);
      for (std::size_t n = 0; n < extent && n <= config_.layers; ++n) {
        bind(i, rule, static_cast<long>(n), n, strict);
      }
      return;
    }
    bind(i, rule, layer_in(match), {}, strict);
  }

  void bind(std::size_t i, const ForeignRule& rule, std::optional<long> layer,
            std::optional<std::size_t> in_stack, bool strict) {
    const std::string name = filled(rule, layer);
    auto target = target_of(name, config_);
    if (!target) {
      if (!strict) return;
      throw Error("rules: match '" + rule.match + "'",
                  "the name is none of docs/tensors.md" +
                      std::string(rule.name.find("{layer}") != std::string::npos && !layer
                                      ? " (group 1 of the pattern must be the layer's number)"
                                      : ""),
                  {}, name);
    }
    if (rule.part != QkvPart::whole) target->part = rule.part;
    add(i, *target, &rule, in_stack);
  }

  void add(std::size_t i, const Target& target, const ForeignRule* rule,
           std::optional<std::size_t> in_stack) {
    using Kind = Target::Kind;
    claims_[i] = true;
    switch (target.kind) {
      case Kind::input_ids:
        result_.input_ids = i;
        return;
      case Kind::cos:
        result_.rotary_cos = i;
        return;
      case Kind::sin:
        result_.rotary_sin = i;
        return;
      case Kind::log_probabilities:
        if (file_.log_probabilities) break;
        return;
      case Kind::nothing:
        return;
      case Kind::tensor:
        break;
    }
    const auto [known, fresh] = taken_.try_emplace({target.id, target.part}, i);
    if (!fresh) {
      result_.repeated.push_back(file_.arrays[i].name + ": not compared, as " +
                                 file_.arrays[known->second].name + " is the same tensor");
      return;
    }
    Binding binding{i, target.id, target.part, target.heads_first, in_stack, {}, rule};
    if (target.kind == Kind::log_probabilities) {
      binding.log_probabilities_from = file_.log_probabilities->first_token;
    }
    result_.tensors.push_back(binding);
  }

  const ForeignFile& file_;
  const engine::Config& config_;
  Bindings result_;
  std::map<std::size_t, bool> claims_;
  std::map<std::pair<TensorId, QkvPart>, std::size_t> taken_;
};

}  // namespace

Bindings bind_names(const ForeignFile& file, const ForeignRules& rules,
                    const engine::Config& config) {
  Binder binder(file, config);
  binder.use(rules.rules, true);
  binder.use_own_names();
  std::string map = rules.map.value_or("");
  if (map.empty()) {
    map = "none";
    std::size_t most = binder.count();
    for (const std::string_view name : built_in_maps()) {
      Binder trial = binder;
      trial.use(built_in_map(name), false);
      if (trial.count() > most) {
        most = trial.count();
        map = name;
      }
    }
  }
  if (map != "none") binder.use(built_in_map(map), false);
  return binder.finish(map);
}

}  // namespace neoxref::eval
