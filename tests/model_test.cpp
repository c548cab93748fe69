// SPDX-License-Identifier: Apache-2.0
// The engine against the oracle in binary32, bit for bit, over the configuration space; and what
// forward does with tokens that it cannot take or values that are not finite.
#define BOOST_TEST_MODULE model
#include <algorithm>
#include <atomic>
#include <boost/test/unit_test.hpp>
#include <limits>
#include <string>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "engine/oracle.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using engine::LogitRows;
using engine::Model;
using engine::Sequence;
using engine::Step;
using tests::Shape;

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  const auto add = [&](std::string name, auto change) {
    Shape shape;
    shape.name = std::move(name);
    shape.seed = all.size() + 1;
    change(shape);
    all.push_back(shape);
  };
  add("default", [](Shape&) {});
  add("sequential", [](Shape& s) { s.parallel_residual = false; });
  add("no rotary", [](Shape& s) { s.rotary_pct = 0.0; });
  add("full rotary", [](Shape& s) { s.rotary_pct = 1.0; });
  add("half rotary, another base", [](Shape& s) {
    s.rotary_pct = 0.5;
    s.rotary_base = 25000.0;
  });
  add("one head of 8", [](Shape& s) {
    s.heads = 1;
    s.head_dim = 8;
  });
  add("heads of 20", [](Shape& s) {
    s.heads = 3;
    s.head_dim = 20;
    s.rotary_pct = 0.5;
  });
  add("heads of 80", [](Shape& s) { s.head_dim = 80; });
  add("heads of 96, sequential", [](Shape& s) {
    s.head_dim = 96;
    s.parallel_residual = false;
  });
  add("no attention bias, tied", [](Shape& s) {
    s.attention_bias = false;
    s.tied = true;
  });
  add("float16", [](Shape& s) { s.dtype = simd::Dtype::f16; });
  add("bfloat16", [](Shape& s) { s.dtype = simd::Dtype::bf16; });
  add("odd extents", [](Shape& s) {
    s.intermediate = 37;
    s.vocab = 33;
    s.head_dim = 24;
  });
  for (const char* name :
       {"gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "tanh"}) {
    add(name, [&](Shape& s) { s.activation = name; });
  }
  return all;
}

/// Logits of every token, [tokens][vocab], fed in chunks.
std::vector<float> run(Model& model, const std::vector<std::int32_t>& tokens, std::size_t chunk,
                       Sequence& sequence) {
  const std::size_t vocab = model.config().vocab;
  std::vector<float> logits(tokens.size() * vocab);
  for (std::size_t first = 0; first < tokens.size(); first += chunk) {
    const std::size_t count = std::min(chunk, tokens.size() - first);
    Step step{&sequence, std::span(tokens).subspan(first, count), LogitRows::all,
              logits.data() + first * vocab};
    BOOST_REQUIRE(model.forward({&step, 1}));
  }
  return logits;
}

void check_same(const std::vector<float>& expected, const std::vector<float>& found,
                const std::string& what) {
  BOOST_REQUIRE_EQUAL(expected.size(), found.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (tests::same_bits(expected[i], found[i])) continue;
    BOOST_ERROR(what << ": element " << i << ": oracle " << std::hexfloat << expected[i]
                     << ", engine " << found[i]);
    return;
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(engine_gives_the_bits_of_the_oracle) {
  for (const Shape& shape : shapes()) {
    const tests::TemporaryFolder folder;
    tests::write_checkpoint(folder.path(), shape);
    const auto tokens = tests::random_tokens(40, shape.vocab, 7);
    engine::Oracle<float> oracle(engine::Checkpoint::open(folder.path()));
    std::vector<float> expected;
    for (const std::int32_t token : tokens) {
      const auto row = oracle.forward(token);
      expected.insert(expected.end(), row.begin(), row.end());
    }
    for (const simd::Isa isa : simd::usable_isas()) {
      Model model = Model::load(folder.path(),
                                {std::string(simd::isa_name(isa)), engine::Backend::serial, 1});
      for (const std::size_t chunk : {std::size_t{40}, std::size_t{7}, std::size_t{1}}) {
        Sequence sequence = model.sequence(tokens.size());
        check_same(
            expected, run(model, tokens, chunk, sequence),
            shape.name + ", " + model.kernels().name + ", chunks of " + std::to_string(chunk));
      }
    }
  }
}

namespace {

std::atomic<std::size_t> products{0};

}  // namespace

BOOST_AUTO_TEST_CASE(a_model_runs_on_the_table_it_is_handed) {
  const tests::TemporaryFolder folder;
  const Shape shape;
  tests::write_checkpoint(folder.path(), shape);
  simd::Kernels counted = simd::kernels("scalar");
  counted.product = [](const simd::Product& product) noexcept {
    ++products;
    simd::kernels("scalar").product(product);
  };
  engine::RunOptions options{"", engine::Backend::serial, 1};
  Model own = Model::load(folder.path(), options);
  options.kernels = &counted;
  const auto tokens = tests::random_tokens(20, shape.vocab, 3);
  Sequence sequence = own.sequence(20);
  const auto expected = run(own, tokens, 20, sequence);
  BOOST_TEST(products == 0u);
  Model loaded = Model::load(folder.path(), options);
  Model shared = own.share(options);
  for (Model* model : {&loaded, &shared}) {
    products = 0;
    BOOST_TEST(&model->kernels() == &counted);
    Sequence other = model->sequence(20);
    check_same(expected, run(*model, tokens, 20, other), "a table handed over");
    // Four products in a layer at least, and the logits.
    BOOST_TEST(products > 4 * shape.layers);
  }
}

BOOST_AUTO_TEST_CASE(a_fork_goes_on_as_the_original_would) {
  const tests::TemporaryFolder folder;
  Shape shape;
  tests::write_checkpoint(folder.path(), shape);
  Model model = Model::load(folder.path(), {"", engine::Backend::serial, 1});
  const auto tokens = tests::random_tokens(50, shape.vocab, 3);
  Sequence whole = model.sequence(50);
  const auto expected = run(model, tokens, 50, whole);
  Sequence base = model.sequence(50);
  const std::vector<std::int32_t> head(tokens.begin(), tokens.begin() + 21);
  const std::vector<std::int32_t> tail(tokens.begin() + 21, tokens.end());
  run(model, head, 21, base);
  for (int times = 0; times < 2; ++times) {
    Sequence fork = base.fork();
    const auto found = run(model, tail, 13, fork);
    check_same({expected.begin() + 21 * static_cast<std::ptrdiff_t>(shape.vocab), expected.end()},
               found, "fork");
    BOOST_CHECK_EQUAL(base.position, 21u);
  }
}

BOOST_AUTO_TEST_CASE(what_cannot_enter_is_refused_before_anything_changes) {
  const tests::TemporaryFolder folder;
  Shape shape;
  shape.max_positions = 16;
  tests::write_checkpoint(folder.path(), shape);
  Model model = Model::load(folder.path(), {"", engine::Backend::serial, 1});
  std::vector<float> logits(shape.vocab);
  const auto message = [&](std::vector<std::int32_t> tokens, std::size_t capacity) {
    Sequence sequence = model.sequence(capacity);
    Step step{&sequence, tokens, LogitRows::last, logits.data()};
    try {
      model.forward({&step, 1});
    } catch (const engine::Error& error) {
      BOOST_CHECK_EQUAL(sequence.position, 0u);
      BOOST_CHECK_EQUAL(sequence.cache.length(0, 0), 0u);
      return std::string(error.what());
    }
    return std::string();
  };
  BOOST_CHECK_EQUAL(message({1, 61}, 16),
                    "tokens: token 1 is outside the vocabulary (expected 0 to 60, found 61)");
  BOOST_CHECK_EQUAL(message({-1}, 16),
                    "tokens: token 0 is outside the vocabulary (expected 0 to 60, found -1)");
  BOOST_CHECK_EQUAL(message(std::vector<std::int32_t>(17, 0), 32),
                    "tokens: longer than the context of the model (expected at most 16 tokens, "
                    "found 17)");
  BOOST_CHECK_EQUAL(message({}, 16), "tokens: no tokens");
  // Capacities are whole panels, so 16 is the least.
  shape.max_positions = 64;
  tests::write_checkpoint(folder.path(), shape);
  model = Model::load(folder.path(), {"", engine::Backend::serial, 1});
  BOOST_CHECK_EQUAL(message(std::vector<std::int32_t>(17, 0), 16),
                    "tokens: the cache is too small (expected 17 slots in layer 0, found 16)");
}

BOOST_AUTO_TEST_CASE(the_first_value_that_is_not_finite_is_named_and_others_go_on) {
  // Token 5 has a spike where only the keys of layer 1 look, with a weight that makes it infinite.
  constexpr std::int32_t spiky = 5;
  Shape shape;
  shape.layers = 2;
  const std::size_t hidden = shape.hidden();
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape,
                          [&](const std::string& name, std::vector<float>& values) {
                            if (name == "gpt_neox.embed_in.weight")
                              values[spiky * hidden + 9] = 1000.0f;
                            if (name == "gpt_neox.layers.1.input_layernorm.weight")
                              values[9] = 1.0f;
                            // The square of a norm overflows above 1.8e19: only a normalized value above 4 gets there.
                            if (name == "gpt_neox.layers.1.attention.query_key_value.weight") {
                              values[shape.head_dim * hidden + 9] = 0x1p62f;
                            }
                          });
  Model model = Model::load(folder.path(), {"", engine::Backend::tbb, 2});
  const std::vector<std::int32_t> poisoned = {1, 2, 3, 4, spiky, 6, 7};
  const std::vector<std::int32_t> clean = {1, 2, 3, 4, 8, 6, 7};
  const auto run_both = [&](std::size_t chunk, std::vector<float>& bad, std::vector<float>& good) {
    Sequence first = model.sequence(16);
    Sequence second = model.sequence(16);
    bad.assign(7 * shape.vocab, 0.0f);
    good.assign(7 * shape.vocab, 0.0f);
    std::optional<engine::NonFinite> failure;
    for (std::size_t at = 0; at < 7; at += chunk) {
      const std::size_t count = std::min(chunk, 7 - at);
      std::vector<Step> steps;
      if (!failure) {
        steps.push_back({&first, std::span(poisoned).subspan(at, count), LogitRows::all,
                         bad.data() + at * shape.vocab});
      }
      steps.push_back({&second, std::span(clean).subspan(at, count), LogitRows::all,
                       good.data() + at * shape.vocab});
      const bool ok = model.forward(steps);
      BOOST_CHECK_EQUAL(ok, !steps.front().failure.has_value());
      if (!ok) {
        failure = steps.front().failure;
        failure->token += at;
        BOOST_CHECK(first.stopped);
        BOOST_CHECK_THROW(model.forward({steps.data(), 1}), engine::Error);
      }
    }
    BOOST_REQUIRE(failure);
    BOOST_CHECK_EQUAL(engine::describe(*failure), "token 4: layer 1, key norm is not finite");
    BOOST_CHECK_EQUAL(first.position, 4u);
    BOOST_CHECK(!second.stopped);
    BOOST_CHECK_EQUAL(second.position, 7u);
  };
  std::vector<float> bad, good, bad_single, good_single;
  run_both(7, bad, good);
  run_both(1, bad_single, good_single);
  bad.resize(4 * shape.vocab);
  bad_single.resize(4 * shape.vocab);
  check_same(bad_single, bad, "tokens before the failure");
  check_same(good_single, good, "the other sequence");
}

BOOST_AUTO_TEST_CASE(what_no_logits_that_are_asked_for_depend_on_stops_nothing) {
  // Only the output of the last layer overflows, and only for one token in the middle. Watching the
  // attention, which makes the pass compute that output, changes nothing.
  constexpr std::int32_t spiky = 5;
  Shape shape;
  shape.layers = 1;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape,
                          [&](const std::string& name, std::vector<float>& values) {
                            if (name == "gpt_neox.embed_in.weight")
                              values[spiky * shape.hidden() + 9] = 0x1.8p127f;
                            if (name == "gpt_neox.layers.0.attention.dense.bias")
                              values[9] = 0x1.8p127f;
                          });
  Model model = Model::load(folder.path(), {"", engine::Backend::tbb, 2});
  const std::vector<std::int32_t> tokens = {1, 2, spiky, 3};
  std::vector<float> logits(shape.vocab);
  struct Nobody : engine::AttentionWatcher {
    void see(std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, const float*,
             std::size_t) noexcept override {}
  } nobody;
  for (engine::AttentionWatcher* watcher : {static_cast<engine::AttentionWatcher*>(nullptr),
                                            static_cast<engine::AttentionWatcher*>(&nobody)}) {
    for (const LogitRows rows : {LogitRows::none, LogitRows::last}) {
      Sequence sequence = model.sequence(16);
      sequence.watcher = watcher;
      Step step{&sequence, tokens, rows, logits.data()};
      BOOST_CHECK(model.forward({&step, 1}));
    }
    Sequence sequence = model.sequence(16);
    sequence.watcher = watcher;
    std::vector<float> all(tokens.size() * shape.vocab);
    Step step{&sequence, tokens, LogitRows::all, all.data()};
    BOOST_CHECK(!model.forward({&step, 1}));
    BOOST_REQUIRE(step.failure);
    BOOST_CHECK_EQUAL(engine::describe(*step.failure), "token 2: final_layer_norm is not finite");
  }
}

BOOST_AUTO_TEST_CASE(a_product_deeper_than_wide_has_room) {
  // A shape whose shallower product needs more scratch than its deeper one, in a full row block.
  Shape shape;
  shape.layers = 1;
  shape.heads = 12;
  shape.head_dim = 112;
  shape.intermediate = 2240;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape);
  Model model = Model::load(folder.path(), {"", engine::Backend::serial, 1});
  const auto tokens = tests::random_tokens(96, shape.vocab, 3);
  Sequence whole = model.sequence(96);
  Sequence single = model.sequence(96);
  check_same(run(model, tokens, 1, single), run(model, tokens, 96, whole), "96 rows");
}

BOOST_AUTO_TEST_CASE(a_sequence_of_another_model_is_refused) {
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), Shape{});
  Model model = Model::load(folder.path(), {"", engine::Backend::serial, 1});
  const std::vector<std::int32_t> tokens = {1};
  std::vector<float> logits(Shape{}.vocab);
  Sequence other({2, 2, 32}, 16);
  Sequence mine = model.sequence(16);
  for (Step step : {Step{&other, tokens, LogitRows::last, logits.data()},
                    Step{&mine, tokens, LogitRows::last, nullptr},
                    Step{nullptr, tokens, LogitRows::last, logits.data()}}) {
    BOOST_CHECK_THROW(model.forward({&step, 1}), engine::Error);
  }
}

BOOST_AUTO_TEST_CASE(weights_that_are_not_finite_are_named) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    for (const char* name : {"gpt_neox.layers.1.mlp.dense_h_to_4h.weight",
                             "gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.bias"}) {
      const tests::TemporaryFolder folder;
      tests::write_checkpoint(folder.path(), Shape{},
                              [&](const std::string& tensor, std::vector<float>& values) {
                                if (tensor == name) values[3] = bad;
                              });
      BOOST_CHECK_EXCEPTION(Model::load(folder.path(), {"", engine::Backend::tbb, 2}),
                            engine::Error, [&](const engine::Error& error) {
                              return std::string(error.what()).find(name) != std::string::npos;
                            });
    }
  }
}
