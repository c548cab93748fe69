// SPDX-License-Identifier: Apache-2.0
// Units: the same truth as Oracle<double> from anybody's own inputs; bounds hold for the engine and for
// plain backends of every profile, are sharp enough to say something, and what is planted is found.
#define BOOST_TEST_MODULE units
#include "eval/units.hpp"

#include <algorithm>
#include <array>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "engine/error.hpp"
#include "engine/oracle.hpp"
#include "eval/bound_rules.hpp"
#include "eval/verdict.hpp"
#include "tests/engine_tensors.hpp"
#include "tests/plain_backend.hpp"

namespace {

using namespace neoxref;
using engine::Tensor;
using engine::TensorId;

std::filesystem::path mini() {
  return tests::source_dir() / "datasets/mini";
}

/// Two layers, or one for the variants.
std::vector<tests::Shape> shapes() {
  std::vector<tests::Shape> all(5);
  all[0].name = "parallel";
  all[1].name = "sequential, no bias";
  all[1].parallel_residual = false;
  all[1].attention_bias = false;
  all[1].activation = "silu";
  all[2].name = "full rotary, tied";
  all[2].rotary_pct = 1.0;
  all[2].tied = true;
  all[2].activation = "gelu_new";
  all[2].dtype = simd::Dtype::f16;
  all[3].name = "quick_gelu, rotary of six";
  all[3].activation = "quick_gelu";
  all[3].head_dim = 24;
  all[3].dtype = simd::Dtype::bf16;
  all[4].name = "tanh, no rotary";
  all[4].activation = "tanh";
  all[4].rotary_pct = 0.0;
  return all;
}

/// f(model, tokens) for each shape, with outliers in some channels of the residual stream.
template <class F>
void each_model(F&& f) {
  for (const tests::Shape& shape : shapes()) {
    BOOST_TEST_CONTEXT(shape.name) {
      const tests::TemporaryFolder folder;
      tests::write_checkpoint(folder.path(), shape,
                              [&](const std::string& name, std::vector<float>& values) {
                                if (!name.ends_with("embed_in.weight")) return;
                                for (std::size_t i = 3; i < values.size(); i += shape.hidden()) {
                                  values[i] *= 32.0f;
                                }
                              });
      auto model = engine::Model::load(folder.path(), {});
      f(model, tests::random_tokens(40, shape.vocab, 7));
    }
  }
}

/// No tensor: everything is computed from the ids.
tests::HeldTensors only_ids(const std::vector<std::int32_t>& tokens) {
  return tests::HeldTensors(tokens);
}

/// Every tensor of `other` against its unit on inputs of `inputs`; returns median bound / largest
/// error for those that have an error.
std::vector<double> all_inside(eval::UnitOracle& oracle, const eval::TensorSource& inputs,
                               const tests::HeldTensors& other) {
  std::vector<double> sharpness;
  for (const auto& [id, matrix] : other.all) {
    const auto summary = oracle.measure(inputs, id, matrix);
    BOOST_TEST_CONTEXT(eval::describe(summary.unit)) {
      BOOST_CHECK_EQUAL(summary.over_bound, 0u);
      BOOST_CHECK_LE(summary.largest_ratio, 1.0);
      if (summary.over_bound > 0) BOOST_TEST_MESSAGE("ratio " << summary.largest_ratio);
    }
    if (summary.largest_own > 0.0 && summary.median_bound > 0.0) {
      sharpness.push_back(summary.median_bound / summary.largest_own);
    }
  }
  return sharpness;
}

double median(std::vector<double> values) {
  BOOST_REQUIRE(!values.empty());
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_truth_is_the_oracles) {
  each_model([](engine::Model& model, const std::vector<std::int32_t>& tokens) {
    engine::Oracle<double> oracle(model.checkpoint());
    engine::Oracle<double>::Record record;
    for (const std::int32_t token : tokens) oracle.forward(token, &record);
    for (const std::string_view isa : {"", "scalar"}) {
      eval::UnitOracle units(model.checkpoint(), model.team(), eval::shipped_profile("f32"),
                             std::string(isa));
      const auto ids = only_ids(tokens);
      for (const TensorId& id : tests::all_tensors(model.config())) {
        const auto result = units.evaluate(ids, id);
        BOOST_CHECK(result.unit.from_ids && result.unit.inputs.empty());
        const auto& truth = record.at(engine::tensor_name(id));
        BOOST_REQUIRE_EQUAL(truth.size(), result.value.values.size());
        double largest = 0.0, error = 0.0;
        for (std::size_t i = 0; i < truth.size(); ++i) {
          largest = std::max(largest, std::abs(truth[i]));
          error = std::max(error, std::abs(truth[i] - result.value.values[i]));
        }
        BOOST_CHECK_LE(error, 1e-12 * largest);
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(units_are_the_smallest_there_are) {
  auto model = engine::Model::load(mini(), {});
  const auto tokens = tests::random_tokens(3, model.config().vocab, 1);
  const auto engine = tests::engine_tensors(model, tokens);
  eval::UnitOracle oracle(model.checkpoint(), model.team(), eval::shipped_profile("f32"));
  const TensorId dense{Tensor::dense, 2}, output{Tensor::layer_output, 2};
  BOOST_CHECK_EQUAL(eval::describe(oracle.unit(engine, dense)),
                    "layers.2.attention.dense from layers.2.attention.context");
  const eval::OnlyThese block(engine, {{Tensor::query_key_value, 2}, dense});
  BOOST_CHECK_EQUAL(eval::describe(oracle.unit(block, dense)),
                    "layers.2.attention.dense from layers.2.attention.query_key_value");
  const eval::OnlyThese layers(engine, {{Tensor::layer_output, 1}, output});
  BOOST_CHECK_EQUAL(eval::describe(oracle.unit(layers, output)), "layers.2 from layers.1");
  const eval::OnlyThese logits(engine, {{Tensor::embed_out}});
  BOOST_CHECK_EQUAL(eval::describe(oracle.unit(logits, {Tensor::embed_out})),
                    "embed_out from the ids");
  BOOST_CHECK_THROW(oracle.evaluate(engine, {Tensor::act, 6}), engine::Error);
}

BOOST_AUTO_TEST_CASE(the_engine_is_inside_the_bounds_of_f32) {
  each_model([](engine::Model& model, const std::vector<std::int32_t>& tokens) {
    const auto engine = tests::engine_tensors(model, tokens);
    eval::UnitOracle oracle(model.checkpoint(), model.team(), eval::shipped_profile("f32"));
    all_inside(oracle, engine, engine);
    // Coarser and coarser: no norms; only the stream; only the ids.
    std::vector<TensorId> some, few;
    for (const auto& entry : engine.all) {
      const Tensor tensor = entry.first.tensor;
      const bool stream = tensor == Tensor::layer_output || tensor == Tensor::embed_in;
      if (stream || tensor == Tensor::dense || tensor == Tensor::query_key_value) {
        some.push_back(entry.first);
      }
      if (stream) few.push_back(entry.first);
    }
    all_inside(oracle, eval::OnlyThese(engine, some), engine);
    all_inside(oracle, eval::OnlyThese(engine, few), engine);
    all_inside(oracle, only_ids(tokens), engine);
  });
}

BOOST_AUTO_TEST_CASE(bounds_of_f32_are_sharp) {
  auto model = engine::Model::load(mini(), {});
  const auto engine =
      tests::engine_tensors(model, tests::random_tokens(100, model.config().vocab, 3));
  eval::UnitOracle oracle(model.checkpoint(), model.team(), eval::shipped_profile("f32"));
  const double sharpness = median(all_inside(oracle, engine, engine));
  BOOST_TEST_MESSAGE("median over tensors of median bound / largest error: " << sharpness);
  BOOST_CHECK_LE(sharpness, 100.0);
}

BOOST_AUTO_TEST_CASE(plain_backends_are_inside_their_profiles) {
  each_model([](engine::Model& model, const std::vector<std::int32_t>& tokens) {
    for (const std::string_view name : {"f32", "tf32", "bf16-acc32", "f16-acc32", "bf16-flash"}) {
      const eval::Profile profile = eval::shipped_profile(name);
      eval::UnitOracle oracle(model.checkpoint(), model.team(), profile);
      for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        BOOST_TEST_CONTEXT(name << " seed " << seed) {
          const auto other = tests::PlainBackend(model.checkpoint(), profile, seed).run(tokens);
          all_inside(oracle, other, other);
          std::vector<TensorId> some;
          for (const auto& entry : other.all) {
            const Tensor tensor = entry.first.tensor;
            if (tensor == Tensor::layer_output || tensor == Tensor::embed_in) {
              some.push_back(entry.first);
            }
          }
          all_inside(oracle, eval::OnlyThese(other, some), other);
        }
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(a_backend_of_less_precision_is_outside) {
  each_model([](engine::Model& model, const std::vector<std::int32_t>& tokens) {
    const eval::Profile bf16 = eval::shipped_profile("bf16-acc32");
    const auto other = tests::PlainBackend(model.checkpoint(), bf16, 1).run(tokens);
    eval::UnitOracle oracle(model.checkpoint(), model.team(), eval::shipped_profile("f32"));
    for (const Tensor tensor : {Tensor::input_layernorm, Tensor::query_key_value, Tensor::context,
                                Tensor::act, Tensor::layer_output}) {
      const TensorId id{tensor, 0};
      BOOST_CHECK_GT(oracle.measure(other, id, other.all.at(id)).over_bound, 0u);
    }
  });
}

BOOST_AUTO_TEST_CASE(what_is_planted_is_found) {
  auto model = engine::Model::load(mini(), {});
  const auto tokens = tests::random_tokens(20, model.config().vocab, 5);
  const auto engine = tests::engine_tensors(model, tokens);
  eval::UnitOracle oracle(model.checkpoint(), model.team(), eval::shipped_profile("f32"));
  for (const auto& entry : engine.all) {
    const TensorId id = entry.first;
    const eval::Matrix& matrix = entry.second;
    if (id.layer > 1) continue;
    const auto result = oracle.evaluate(engine, id);
    const std::size_t token = 7, channel = 11;
    eval::Matrix other = matrix;
    const double value = result.value.row(token)[channel];
    const double bound = result.bound.row(token)[channel];
    const auto off = [&](double share) {
      // Below the grid of binary32 nothing can be planted.
      const double step = std::abs(value) * 0x1p-22 + 1e-40;
      other.row(token)[channel] =
          static_cast<float>(value + share * bound + (share > 1 ? step : 0));
      return oracle.measure(engine, id, other);
    };
    BOOST_TEST_CONTEXT(engine::tensor_name(id)) {
      const auto above = off(1.01);
      BOOST_CHECK_EQUAL(above.over_bound, 1u);
      BOOST_REQUIRE(above.first_over.has_value());
      BOOST_CHECK(*above.first_over == std::make_pair(token, channel));
      BOOST_CHECK(!eval::judge(above, nullptr).passes);
      BOOST_CHECK(eval::judge(oracle.measure(engine, id, matrix), nullptr).passes);
      other.row(token)[channel] = std::numeric_limits<float>::quiet_NaN();
      BOOST_CHECK_EQUAL(oracle.measure(engine, id, other).over_bound, 1u);
    }
  }
}

BOOST_AUTO_TEST_CASE(own_error_is_where_the_mistake_is_and_inherited_behind) {
  const tests::TemporaryFolder right, wrong;
  tests::Shape shape;
  tests::write_checkpoint(right.path(), shape);
  tests::write_checkpoint(wrong.path(), shape, [](const std::string& name, auto& values) {
    if (name == "gpt_neox.layers.0.attention.dense.bias") values[5] += 0.01f;
  });
  auto model = engine::Model::load(right.path(), {});
  auto patched = engine::Model::load(wrong.path(), {});
  const auto tokens = tests::random_tokens(30, shape.vocab, 9);
  const auto reference = tests::engine_tensors(model, tokens);
  const auto other = tests::engine_tensors(patched, tokens);
  eval::UnitOracle oracle(model.checkpoint(), model.team(), eval::shipped_profile("f32"));
  for (const auto& [id, matrix] : other.all) {
    const auto summary = oracle.measure(other, id, matrix, &reference.all.at(id));
    BOOST_TEST_CONTEXT(engine::tensor_name(id)) {
      const bool here = id == TensorId{Tensor::dense, 0};
      BOOST_CHECK_EQUAL(summary.over_bound > 0, here);
      const bool behind = id.tensor == Tensor::layer_output || id.tensor == Tensor::embed_out;
      if (here) BOOST_CHECK_GT(summary.rms_own, 100.0 * summary.rms_inherited);
      if (behind) BOOST_CHECK_GT(summary.rms_inherited, 100.0 * summary.rms_own);
    }
  }
  // Injected: the backend's own function on the reference's input.
  const TensorId dense{Tensor::dense, 0}, next{Tensor::dense, 1};
  const auto injected = oracle.measure(reference, dense, other.all.at(dense));
  BOOST_CHECK_GT(injected.over_bound, 0u);
  BOOST_CHECK_EQUAL(oracle.measure(reference, next, reference.all.at(next)).over_bound, 0u);
}

BOOST_AUTO_TEST_CASE(no_bound_is_said_and_not_guessed) {
  auto model = engine::Model::load(mini(), {});
  const auto tokens = tests::random_tokens(12, model.config().vocab, 2);
  const auto f16 = eval::shipped_profile("f16-acc32");
  eval::UnitOracle oracle(model.checkpoint(), model.team(), f16);
  const auto engine = tests::engine_tensors(model, tokens);
  const TensorId logits{Tensor::embed_out};
  const auto whole = oracle.measure(only_ids(tokens), logits, engine.all.at(logits));
  BOOST_CHECK_EQUAL(whole.without_bound, whole.elements);
  BOOST_CHECK(eval::judge(whole, nullptr).yardstick == eval::Yardstick::none);
  BOOST_CHECK(!eval::judge(whole, nullptr).passes);

  // A constant row has no variance to bound; one that binary16 cannot hold has no bound either.
  auto other = engine;
  for (std::size_t i = 0; i < model.config().hidden; ++i) {
    other.all.at({Tensor::layer_output, 0}).row(3)[i] = 0.75f;
    other.all.at({Tensor::dense, 1}).row(5)[i] = 60000.0f;
    other.all.at({Tensor::dense_4h_to_h, 1}).row(5)[i] = 60000.0f;
  }
  const TensorId norm{Tensor::input_layernorm, 1}, sum{Tensor::layer_output, 1};
  BOOST_CHECK_EQUAL(oracle.measure(other, norm, other.all.at(norm)).without_bound,
                    model.config().hidden);
  BOOST_CHECK_EQUAL(oracle.measure(other, sum, other.all.at(sum)).without_bound,
                    model.config().hidden);
}

BOOST_AUTO_TEST_CASE(the_rotary_table_is_a_tensor_of_its_own) {
  auto model = engine::Model::load(mini(), {});
  const engine::Config& config = model.config();
  const std::size_t positions = 1000, half = config.rotary_dims / 2;
  eval::UnitOracle oracle(model.checkpoint(), model.team(), eval::shipped_profile("f32"));
  const engine::RotaryTable table(config, model.kernels());
  for (const bool sin : {false, true}) {
    const auto result = oracle.rotary_table(sin, positions);
    const auto& held = sin ? table.sin : table.cos;
    std::size_t shifted_outside = 0;
    for (std::size_t p = 0; p < positions; ++p) {
      for (std::size_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(p) *
            std::pow(static_cast<double>(config.rotary_base),
                     -2.0 * static_cast<double>(i) / static_cast<double>(config.rotary_dims));
        const double bound = result.bound.row(p)[i];
        const double value = result.value.row(p)[i];
        // |angle| times 3 u, and the function's own 2 ulp.
        BOOST_CHECK_LE(bound, (3.001 * angle + 4.001) * 0x1p-24);
        BOOST_CHECK_LE(std::abs(static_cast<double>(held.data()[p * half + i]) - value), bound);
        if (p > 0) {
          const auto shifted = static_cast<double>(held.data()[(p - 1) * half + i]);
          shifted_outside += std::abs(shifted - value) > bound ? 1u : 0u;
        }
      }
    }
    BOOST_CHECK_GT(shifted_outside, positions * half * 9 / 10);
  }
}

BOOST_AUTO_TEST_CASE(sums_with_cancellation_in_the_worst_order) {
  // +1 a thousand times and then -1: partial sums as large as they can be, and terms that are lost.
  for (const std::string_view name : {"f32", "bf16-acc32", "f16-acc32", "tf32"}) {
    const eval::Profile profile = eval::shipped_profile(name);
    const engine::Config config;
    const eval::BoundRules rules(profile, config);
    tests::Numbers numbers(11);
    for (const std::size_t length : {1u, 2u, 63u, 1000u, 4096u}) {
      std::vector<double> terms;
      double size = 0.0, exact = 0.0;
      for (std::size_t i = 0; i < length; ++i) {
        const double sign = i < length / 2 ? 1.0 : -1.0;
        const double a = eval::round_to(
            profile.operands, 1.0 + 0.3 * std::abs(static_cast<double>(numbers.symmetric())));
        const double b = eval::round_to(profile.operands,
                                        sign * std::exp2(static_cast<double>(numbers.below(12))));
        terms.push_back(a * b);
        size += std::abs(a * b);
        exact += a * b;  // exact: 22 bits, 12 more, 4096 of them
      }
      const bool truncates = profile.accumulator_rounding == eval::Rounding::truncate;
      for (const bool fused : {false, true}) {
        float total = 0.0f;
        for (const double term : terms) {
          const double part = fused ? term : static_cast<double>(static_cast<float>(term));
          const double next = static_cast<double>(total) + part;
          total = static_cast<float>(next);
          if (truncates && std::abs(static_cast<double>(total)) > std::abs(next)) {
            total = std::nextafter(total, 0.0f);
          }
        }
        const eval::SumRule rule = rules.sum(length, false);
        const double bound = rule.terms * size + rule.total * std::abs(exact) + rule.least;
        BOOST_CHECK_LE(std::abs(static_cast<double>(total) - exact), bound);
      }
    }
  }
}
