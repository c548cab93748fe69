// SPDX-License-Identifier: Apache-2.0
#include "eval/units.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "engine/error.hpp"
#include "eval/bound_rules.hpp"
#include "eval/unit_steps.hpp"
#include "simd/measuring.hpp"

namespace neoxref::eval {
namespace {

using engine::Error;
using engine::Tensor;
using engine::TensorId;
using engine::Weight;

/// Rows of logits that are held at a time.
constexpr std::size_t logit_rows = 128;

/// What a layer reads: the embedding or the layer before.
TensorId stream(std::size_t layer) {
  return layer == 0 ? TensorId{Tensor::embed_in} : TensorId{Tensor::layer_output, layer - 1};
}

std::vector<TensorId> parents(const TensorId& id, const engine::Config& config) {
  const auto here = [&](Tensor tensor) { return TensorId{tensor, id.layer}; };
  switch (id.tensor) {
    case Tensor::embed_in:
      return {};
    case Tensor::input_layernorm:
      return {stream(id.layer)};
    case Tensor::query_key_value:
      return {here(Tensor::input_layernorm)};
    case Tensor::rotary_q:
    case Tensor::rotary_k:
      return {here(Tensor::query_key_value)};
    case Tensor::context:
      return {here(Tensor::query_key_value), here(Tensor::rotary_q), here(Tensor::rotary_k)};
    case Tensor::dense:
      return {here(Tensor::context)};
    case Tensor::post_attention_layernorm:
      if (config.parallel_residual) return {stream(id.layer)};
      return {stream(id.layer), here(Tensor::dense)};
    case Tensor::dense_h_to_4h:
      return {here(Tensor::post_attention_layernorm)};
    case Tensor::act:
      return {here(Tensor::dense_h_to_4h)};
    case Tensor::dense_4h_to_h:
      return {here(Tensor::act)};
    case Tensor::layer_output:
      return {stream(id.layer), here(Tensor::dense), here(Tensor::dense_4h_to_h)};
    case Tensor::final_layer_norm:
      return {stream(config.layers)};
    case Tensor::embed_out:
      break;
  }
  return {TensorId{Tensor::final_layer_norm}};
}

std::string short_name(const TensorId& id) {
  constexpr std::string_view prefix = "gpt_neox.";
  const std::string name = engine::tensor_name(id);
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

}  // namespace

void check_tokens(const engine::Config& config, std::span<const std::int32_t> tokens) {
  if (tokens.size() > config.max_positions) {
    throw Error("tokens", "longer than the context of the model",
                "at most " + std::to_string(config.max_positions), std::to_string(tokens.size()));
  }
  for (const std::int32_t token : tokens) {
    if (token < 0 || static_cast<std::size_t>(token) >= config.vocab) {
      throw Error("tokens", "outside the vocabulary", "0 to " + std::to_string(config.vocab - 1),
                  std::to_string(token));
    }
  }
}

bool OnlyThese::has(const TensorId& id) const {
  return std::find(ids_.begin(), ids_.end(), id) != ids_.end() && source_.has(id);
}

std::optional<Matrix> OnlyThese::get(const TensorId& id) const {
  return has(id) ? source_.get(id) : std::nullopt;
}

std::string describe(const Unit& unit) {
  std::string text = short_name(unit.target) + " from ";
  if (unit.from_ids) text += unit.inputs.empty() ? "the ids" : "the ids, ";
  for (std::size_t i = 0; i < unit.inputs.size(); ++i) {
    text += (i == 0 ? "" : ", ") + short_name(unit.inputs[i]);
  }
  return text;
}

struct UnitOracle::State {
  State(const engine::Checkpoint& checkpoint_, engine::Team& team, Profile profile_,
        const std::string& isa)
      : checkpoint(checkpoint_),
        profile(std::move(profile_)),
        rules(profile, checkpoint.config()),
        steps(checkpoint, team, rules, simd::measuring(simd::kernels(isa).isa)) {}

  const engine::Checkpoint& checkpoint;
  Profile profile;
  BoundRules rules;
  UnitSteps steps;
  std::map<TensorId, Carried> held;        ///< of the unit at hand
  std::map<TensorId, std::size_t> needed;  ///< by so many steps to come

  const Carried& input(const TensorSource& inputs, const TensorId& id);
  Carried step(const TensorSource& inputs, const TensorId& id);
  UnitSteps::Linear prepare(const TensorId& id, const Carried& x);
  void used(const TensorId& id) {
    if (--needed.at(id) == 0) held.erase(id);
  }
};

const Carried& UnitOracle::State::input(const TensorSource& inputs, const TensorId& id) {
  if (const auto found = held.find(id); found != held.end()) return found->second;
  const std::optional<Matrix> matrix = inputs.get(id);
  const std::size_t width = engine::tensor_width(id.tensor, checkpoint.config());
  if (!matrix || matrix->rows != inputs.tokens().size() || matrix->columns != width) {
    throw Error(engine::tensor_name(id), "not the tensor of these tokens",
                std::to_string(inputs.tokens().size()) + " x " + std::to_string(width),
                matrix ? std::to_string(matrix->rows) + " x " + std::to_string(matrix->columns)
                       : "nothing");
  }
  Carried carried;
  carried.rows = matrix->rows;
  carried.columns = matrix->columns;
  carried.value.assign(matrix->values.begin(), matrix->values.end());
  carried.stored = profile.stored(id.tensor);
  if (!fits(carried.stored, profile.dump)) {
    carried.bound.resize(carried.value.size());
    for (std::size_t i = 0; i < carried.value.size(); ++i) {
      carried.bound[i] = rules.dumped(carried.stored, carried.value[i], 0.0);
    }
  }
  return held.emplace(id, std::move(carried)).first->second;
}

UnitSteps::Linear UnitOracle::State::prepare(const TensorId& id, const Carried& x) {
  const bool with = checkpoint.config().attention_bias;
  switch (id.tensor) {
    case Tensor::query_key_value:
      return steps.prepare(Weight::qkv_weight, Weight::qkv_bias, with, id.layer, x, id.tensor);
    case Tensor::dense:
      return steps.prepare(Weight::dense_weight, Weight::dense_bias, with, id.layer, x, id.tensor);
    case Tensor::dense_h_to_4h:
      return steps.prepare(Weight::mlp_up_weight, Weight::mlp_up_bias, true, id.layer, x,
                           id.tensor);
    case Tensor::dense_4h_to_h:
      return steps.prepare(Weight::mlp_down_weight, Weight::mlp_down_bias, true, id.layer, x,
                           id.tensor);
    default:
      return steps.prepare(Weight::embed_out, Weight::embed_out, false, 0, x, id.tensor);
  }
}

Carried UnitOracle::State::step(const TensorSource& inputs, const TensorId& id) {
  const engine::Config& config = checkpoint.config();
  const auto from = [&](std::size_t parent) -> const Carried& {
    return input(inputs, parents(id, config)[parent]);
  };
  switch (id.tensor) {
    case Tensor::embed_in:
      return steps.embed(inputs.tokens());
    case Tensor::input_layernorm:
      return steps.layer_norm(Weight::input_norm_weight, Weight::input_norm_bias, id.layer, from(0),
                              id.tensor);
    case Tensor::post_attention_layernorm: {
      if (config.parallel_residual) {
        return steps.layer_norm(Weight::post_norm_weight, Weight::post_norm_bias, id.layer, from(0),
                                id.tensor);
      }
      const std::array<const Carried*, 2> terms = {&from(1), &from(0)};
      return steps.layer_norm(Weight::post_norm_weight, Weight::post_norm_bias, id.layer,
                              steps.residual(terms, profile.stored(Tensor::layer_output)),
                              id.tensor);
    }
    case Tensor::final_layer_norm:
      return steps.layer_norm(Weight::final_norm_weight, Weight::final_norm_bias, 0, from(0),
                              id.tensor);
    case Tensor::rotary_q:
      return steps.rotate(from(0), 0, id.tensor);
    case Tensor::rotary_k:
      return steps.rotate(from(0), 1, id.tensor);
    case Tensor::context:
      return steps.context(from(0), from(1), from(2));
    case Tensor::act:
      return steps.activation(from(0));
    case Tensor::layer_output: {
      const std::array<const Carried*, 3> terms = {&from(0), &from(1), &from(2)};
      const Format format = profile.stored(id.tensor);
      if (config.parallel_residual) return steps.residual(terms, format);
      const std::array<const Carried*, 2> first = {terms[0], terms[1]};
      const Carried h = steps.residual(first, format);
      const std::array<const Carried*, 2> second = {&h, terms[2]};
      return steps.residual(second, format);
    }
    default:
      break;
  }
  const Carried& x = from(0);
  const UnitSteps::Linear linear = prepare(id, x);
  Carried result;
  result.rows = x.rows;
  result.columns = linear.outputs;
  result.stored = linear.format;
  result.value.resize(result.rows * result.columns);
  result.bound.resize(result.rows * result.columns);
  steps.linear(linear, 0, x.rows, result.value.data(), result.bound.data());
  return result;
}

UnitOracle::UnitOracle(const engine::Checkpoint& checkpoint, engine::Team& team, Profile profile,
                       const std::string& isa)
    : team_(team), state_(std::make_unique<State>(checkpoint, team, std::move(profile), isa)) {}
UnitOracle::~UnitOracle() = default;

const Profile& UnitOracle::profile() const {
  return state_->profile;
}
const engine::Config& UnitOracle::config() const {
  return state_->checkpoint.config();
}

Unit UnitOracle::unit(const TensorSource& inputs, const TensorId& target) const {
  Unit unit{target, {}, false, {}};
  std::vector<TensorId> open = {target};
  std::set<TensorId> met = {target};
  while (!open.empty()) {
    const TensorId id = open.back();
    open.pop_back();
    unit.computed.push_back(id);
    if (id.tensor == Tensor::embed_in) unit.from_ids = true;
    for (const TensorId& parent : parents(id, config())) {
      if (!met.insert(parent).second) continue;
      (inputs.has(parent) ? unit.inputs : open).push_back(parent);
    }
  }
  const auto earlier = [&](const TensorId& a, const TensorId& b) {
    return engine::execution_order(a, config()) < engine::execution_order(b, config());
  };
  std::sort(unit.inputs.begin(), unit.inputs.end(), earlier);
  std::sort(unit.computed.begin(), unit.computed.end(), earlier);
  return unit;
}

Unit UnitOracle::visit(const TensorSource& inputs, const TensorId& target, const Visitor& visitor) {
  const engine::Config& shape = config();
  const std::size_t rows = inputs.tokens().size();
  if (engine::exists_per_layer(target.tensor) && target.layer >= shape.layers) {
    throw Error(engine::tensor_name(target), "the model has no such layer",
                std::to_string(shape.layers) + " layers", std::to_string(target.layer));
  }
  check_tokens(shape, inputs.tokens());
  State& state = *state_;
  const Unit unit = this->unit(inputs, target);
  const Format stored = state.profile.stored(target.tensor);
  const bool narrower = stored != Format::kld16 && !fits(stored, state.profile.dump);
  const auto show = [&](std::size_t first, std::size_t count, const double* value, double* bound) {
    const std::size_t all = narrower ? count * engine::tensor_width(target.tensor, shape) : 0;
    for (std::size_t i = 0; i < all; ++i) {
      bound[i] = outward(state.rules.dumped(stored, value[i], bound[i]));
    }
    visitor(first, count, value, bound);
  };
  state.held.clear();
  state.needed.clear();
  for (const TensorId& id : unit.computed) {
    for (const TensorId& parent : parents(id, shape)) ++state.needed[parent];
  }
  for (const TensorId& id : unit.computed) {
    if (id == target) break;
    Carried made = state.step(inputs, id);
    for (const TensorId& parent : parents(id, shape)) state.used(parent);
    state.held.emplace(id, std::move(made));
  }
  if (target.tensor == Tensor::embed_out) {
    const Carried& x = state.input(inputs, parents(target, shape).front());
    const UnitSteps::Linear linear = state.prepare(target, x);
    std::vector<double> value(std::min(rows, logit_rows) * shape.vocab);
    std::vector<double> bound(value.size());
    for (std::size_t first = 0; first < rows; first += logit_rows) {
      const std::size_t count = std::min(logit_rows, rows - first);
      state.steps.linear(linear, first, count, value.data(), bound.data());
      if (linear.format == Format::kld16) {
        state.steps.to_log_base(count, value.data(), bound.data());
      }
      show(first, count, value.data(), bound.data());
    }
  } else {
    Carried made = state.step(inputs, target);
    state.held.clear();
    show(0, rows, made.value.data(), made.bound.data());
  }
  state.held.clear();
  return unit;
}

UnitResult UnitOracle::evaluate(const TensorSource& inputs, const TensorId& target) {
  UnitResult result;
  const std::size_t rows = inputs.tokens().size();
  const std::size_t width = engine::tensor_width(target.tensor, config());
  result.value = result.bound = {rows, width, std::vector<double>(rows * width)};
  result.unit =
      visit(inputs, target,
            [&](std::size_t first, std::size_t count, const double* value, const double* bound) {
              std::copy_n(value, count * width, result.value.row(first));
              std::copy_n(bound, count * width, result.bound.row(first));
            });
  return result;
}

UnitResult UnitOracle::rotary_table(bool sin, std::size_t positions) const {
  const std::size_t half = config().rotary_dims / 2;
  UnitResult result;
  result.value = result.bound = {positions, half, std::vector<double>(positions * half)};
  for (std::size_t position = 0; position < positions; ++position) {
    for (std::size_t i = 0; i < half; ++i) {
      double angle = 0.0;
      double error = 0.0;
      state_->rules.real_angle(position, i, angle, error);
      const double value = sin ? std::sin(angle) : std::cos(angle);
      result.value.row(position)[i] = value;
      result.bound.row(position)[i] = outward(state_->rules.table_error(value, error));
    }
  }
  return result;
}

}  // namespace neoxref::eval
