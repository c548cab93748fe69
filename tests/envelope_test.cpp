// SPDX-License-Identifier: Apache-2.0
// Envelopes: the same for any number of threads and any seed's repetition, about as wide as honest
// backends err, and far from what other backends do.
#define BOOST_TEST_MODULE envelope
#include "eval/envelope.hpp"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "engine/error.hpp"
#include "engine/oracle.hpp"
#include "eval/simulated_steps.hpp"
#include "eval/verdict.hpp"
#include "tests/engine_tensors.hpp"
#include "tests/plain_backend.hpp"

namespace {

using namespace neoxref;
using engine::Tensor;
using engine::TensorId;

struct Made {
  tests::TemporaryFolder folder;
  engine::Model model;
  std::vector<std::int32_t> tokens;
  static tests::Shape shape(bool parallel) {
    tests::Shape shape;
    shape.parallel_residual = parallel;
    shape.attention_bias = parallel;
    return shape;
  }
  explicit Made(bool parallel, std::size_t threads = 0)
      : model(load(folder, shape(parallel), threads)), tokens(tests::random_tokens(40, 61, 7)) {}
  static engine::Model load(const tests::TemporaryFolder& folder, const tests::Shape& shape,
                            std::size_t threads) {
    tests::write_checkpoint(folder.path(), shape);
    engine::RunOptions options;
    options.threads = threads;
    return engine::Model::load(folder.path(), options);
  }
  eval::Envelope envelope(const eval::Profile& profile, const eval::TensorSource* other,
                          const eval::EnvelopeWatcher& watcher = {}, std::uint64_t seed = 1) {
    eval::EnvelopeOptions options;
    options.seed = seed;
    return eval::make_envelope(model.checkpoint(), model.team(), profile, tokens, options, other,
                               watcher);
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(honest_backends_are_about_as_far_off) {
  for (const bool parallel : {true, false}) {
    Made made(parallel);
    for (const std::string_view name : {"f32", "tf32", "bf16-acc32", "f16-acc32", "bf16-flash"}) {
      const eval::Profile profile = eval::shipped_profile(name);
      const auto other = tests::PlainBackend(made.model.checkpoint(), profile, 3).run(made.tokens);
      const auto envelope = made.envelope(profile, &other);
      for (const TensorId& id : tests::all_tensors(made.model.config())) {
        const auto& tensor = envelope.tensors.at(id);
        BOOST_TEST_CONTEXT(name << ' ' << engine::tensor_name(id)) {
          BOOST_CHECK_EQUAL(tensor.rms_of_runs.size(), 8u);
          BOOST_CHECK_EQUAL(tensor.rms_of_tokens.size(), made.tokens.size());
          BOOST_CHECK_LE(tensor.rms_other, eval::envelope_limit * tensor.rms);
          // Not wider than ten times what it is to hold.
          if (id.tensor != Tensor::embed_in) BOOST_CHECK_GE(10.0 * tensor.rms_other, tensor.rms);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(the_truth_and_the_runs_can_be_watched) {
  Made made(true);
  engine::Oracle<double> oracle(made.model.checkpoint());
  engine::Oracle<double>::Record record;
  for (const std::int32_t token : made.tokens) oracle.forward(token, &record);
  std::size_t seen = 0;
  double worst = 0.0, squares = 0.0;
  const TensorId logits{Tensor::embed_out};
  const auto envelope =
      made.envelope(eval::shipped_profile("bf16-acc32"), nullptr,
                    [&](const TensorId& id, std::size_t, std::size_t first, std::size_t columns,
                        const float* values, const double* truth, std::size_t stride) {
                      ++seen;
                      const auto& exact = record.at(engine::tensor_name(id));
                      const std::size_t width = exact.size() / made.tokens.size();
                      for (std::size_t t = 0; t < made.tokens.size(); ++t) {
                        for (std::size_t i = 0; i < columns; ++i) {
                          const double there = truth[t * stride + i];
                          worst = std::max(worst, std::abs(there - exact[t * width + first + i]));
                          const double error = static_cast<double>(values[t * stride + i]) - there;
                          if (id == logits) squares += error * error;
                        }
                      }
                    });
  BOOST_CHECK_EQUAL(seen, 8 * tests::all_tensors(made.model.config()).size());
  BOOST_CHECK_LE(worst, 1e-12);
  const double rms = std::sqrt(squares / (8.0 * 61.0 * static_cast<double>(made.tokens.size())));
  BOOST_CHECK_CLOSE(rms, envelope.tensors.at(logits).rms, 1e-6);
  BOOST_CHECK_GT(envelope.logit_error_999, 2.0 * rms);
  BOOST_CHECK_LT(envelope.logit_error_999, 10.0 * rms);
  BOOST_CHECK(std::isnan(envelope.tensors.at(logits).rms_other));
  for (std::size_t t = 0; t < made.tokens.size(); ++t) {
    const auto row = record.at("embed_out").begin() + static_cast<std::ptrdiff_t>(t * 61);
    BOOST_CHECK_EQUAL(envelope.truth_argmax[t], std::max_element(row, row + 61) - row);
  }
}

BOOST_AUTO_TEST_CASE(seeds_decide_and_threads_do_not) {
  const eval::Profile profile = eval::shipped_profile("bf16-flash");
  const auto rms = [&](std::size_t threads, std::uint64_t seed) {
    Made made(true, threads);
    return made.envelope(profile, nullptr, {}, seed).tensors.at({Tensor::embed_out}).rms_of_runs;
  };
  const auto one = rms(1, 1);
  BOOST_CHECK(one == rms(3, 1));
  BOOST_CHECK(one != rms(1, 2));
  BOOST_CHECK(one[0] != one[1]);
}

BOOST_AUTO_TEST_CASE(another_model_is_far_outside) {
  Made made(true);
  tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), Made::shape(true), [](const std::string& name, auto& v) {
    if (name != "gpt_neox.layers.1.attention.dense.bias") return;
    for (float& value : v) value += 2.0f;
  });
  auto wrong = engine::Model::load(folder.path(), {});
  const auto other = tests::engine_tensors(wrong, made.tokens);
  const auto envelope = made.envelope(eval::shipped_profile("bf16-acc32"), &other);
  eval::UnitSummary without;
  without.elements = without.without_bound = 1;
  const auto verdict = eval::judge(without, &envelope.tensors.at({Tensor::layer_output, 1}));
  BOOST_CHECK(verdict.yardstick == eval::Yardstick::envelope && !verdict.passes);
  const auto before = eval::judge(without, &envelope.tensors.at({Tensor::layer_output, 0}));
  BOOST_CHECK(before.yardstick == eval::Yardstick::envelope && before.passes);
}

BOOST_AUTO_TEST_CASE(a_log_base_is_compared_up_to_its_shift) {
  Made made(true);
  auto other = tests::engine_tensors(made.model, made.tokens);
  eval::Matrix& logits = other.all.at({Tensor::embed_out});
  for (std::size_t t = 0; t < logits.rows; ++t) {
    float* row = logits.row(t);
    const float max = *std::max_element(row, row + logits.columns);
    double sum = 0.0;
    for (std::size_t i = 0; i < logits.columns; ++i) {
      sum += std::exp(static_cast<double>(row[i] - max));
    }
    const float least = std::max(*std::min_element(row, row + logits.columns), max - 16.0f);
    const float step = (max - least) / 65535.0f;
    for (std::size_t i = 0; i < logits.columns; ++i) {
      const float grid = std::nearbyint((std::max(row[i], least) - least) / step);
      row[i] = grid * step + (least - max - static_cast<float>(std::log(sum)));
    }
  }
  const eval::Profile profile = eval::shipped_profile("kld16");
  const auto envelope = made.envelope(profile, &other);
  const auto& tensor = envelope.tensors.at({Tensor::embed_out});
  BOOST_CHECK_LE(tensor.rms_other, eval::envelope_limit * tensor.rms);
  eval::UnitOracle oracle(made.model.checkpoint(), made.model.team(), profile);
  const auto summary = oracle.measure(other, {Tensor::embed_out}, logits);
  BOOST_CHECK_EQUAL(summary.over_bound + summary.without_bound, 0u);
  logits.row(7)[3] += 0.01f;
  BOOST_CHECK_GT(oracle.measure(other, {Tensor::embed_out}, logits).over_bound, 0u);
}

BOOST_AUTO_TEST_CASE(stochastic_rounding_is_right_on_average) {
  eval::Draw draw(1, 0, {Tensor::dense}, 0);
  for (const eval::Format format : {eval::Format::f32, eval::Format::bf16, eval::Format::f16}) {
    for (const double x : {1.0 / 3.0, -2.7182818, 1e-6, 300.1}) {
      double sum = 0.0;
      constexpr int count = 40000;
      for (int i = 0; i < count; ++i) {
        const auto y = static_cast<double>(draw.round(format, x));
        BOOST_REQUIRE_EQUAL(eval::round_to(format, y), y);
        sum += y - x;
      }
      const double spacing = std::max(2.0 * eval::format_limits(format).unit * std::abs(x),
                                      eval::format_limits(format).least);
      BOOST_CHECK_LE(std::abs(sum / count), 0.02 * spacing);
    }
    BOOST_CHECK_EQUAL(draw.round(format, 1.5), 1.5f);
  }
}

BOOST_AUTO_TEST_CASE(measuring_products_are_those_of_the_scalar_table) {
  tests::Numbers numbers(3);
  constexpr std::size_t rows = 11, depth = 150, columns = 13;
  std::vector<float> input(rows * depth), panel(depth * simd::lanes);
  for (float& value : input) value = numbers.symmetric();
  for (float& value : panel) value = numbers.symmetric();
  const std::vector<double> wide_input(input.begin(), input.end());
  const std::vector<double> wide_panel(panel.begin(), panel.end());
  const std::vector<simd::Stretch> order = {{64, 128}, {0, 64}, {128, 150}, {7, 7}};
  const auto in_floats = [&](simd::Isa isa, bool fused) {
    std::vector<float> output(rows * columns);
    simd::measuring(isa).stretched_product({rows, columns, input.data(), depth, panel.data(),
                                            order.data(), order.size(), fused, output.data(),
                                            columns});
    return output;
  };
  const auto in_doubles = [&](simd::Isa isa) {
    std::vector<double> output(rows * columns);
    simd::measuring(isa).product64({rows, depth, columns, wide_input.data(), depth,
                                    wide_panel.data(), output.data(), columns});
    return output;
  };
  const auto exact = in_doubles(simd::Isa::scalar);
  for (const simd::Isa isa : simd::usable_isas()) {
    BOOST_TEST_CONTEXT(simd::isa_name(isa)) {
      for (const bool fused : {false, true}) {
        BOOST_CHECK(in_floats(isa, fused) == in_floats(simd::Isa::scalar, fused));
      }
      const auto found = in_doubles(isa);
      for (std::size_t i = 0; i < exact.size(); ++i) BOOST_CHECK_SMALL(found[i] - exact[i], 1e-13);
    }
  }
  BOOST_CHECK(in_floats(simd::Isa::scalar, true) != in_floats(simd::Isa::scalar, false));
}
