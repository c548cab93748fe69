// SPDX-License-Identifier: Apache-2.0
// Which rows of logits are asked for decides what is computed and when, and no bit: behind its keys and
// values the last layer takes those rows only, and where a press makes short passes they wait.
#define BOOST_TEST_MODULE logit_rows
#include <algorithm>
#include <atomic>
#include <boost/test/unit_test.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using engine::LogitRows;
using engine::Model;
using engine::Sequence;
using engine::Step;
using tests::Shape;

/// The cache is too: tokens after `tokens` show what it holds.
const std::vector<std::int32_t> behind = {3, 1, 4};

void check_row(const std::vector<float>& expected, std::size_t row, const float* found,
               std::size_t vocab, const std::string& what) {
  for (std::size_t i = 0; i < vocab; ++i) {
    if (tests::same_bits(expected[row * vocab + i], found[i])) continue;
    BOOST_ERROR(what << ": row " << row << " differs at " << i);
    return;
  }
}

/// Logits of every token in passes of one token.
std::vector<float> one_by_one(Model& model, Sequence& sequence,
                              const std::vector<std::int32_t>& tokens) {
  const std::size_t vocab = model.config().vocab;
  std::vector<float> logits(tokens.size() * vocab);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    Step step{&sequence, std::span(tokens).subspan(i, 1), LogitRows::all,
              logits.data() + i * vocab};
    BOOST_REQUIRE(model.forward({&step, 1}));
  }
  return logits;
}

std::vector<Shape> shapes() {
  Shape parallel;
  parallel.name = "parallel";
  Shape sequential;
  sequential.name = "sequential";
  sequential.parallel_residual = false;
  Shape single;
  single.name = "one layer";
  single.layers = 1;
  // Whole register tiles of queries, which rows that nobody asks for do without.
  Shape wide;
  wide.name = "wide heads";
  wide.head_dim = 64;
  for (Shape* shape : {&parallel, &sequential, &single, &wide}) shape->max_positions = 512;
  return {parallel, sequential, single, wide};
}

engine::Press often(std::size_t prune_after) {
  engine::Press press;
  press.budget.keep_ratio = engine::KeepRatio::parse("0.7");
  press.prune_after = prune_after;
  press.skip_layers = {};
  return press;
}

}  // namespace

BOOST_AUTO_TEST_CASE(rows_that_nobody_asks_for_change_none_that_somebody_does) {
  for (const Shape& shape : shapes()) {
    const tests::TemporaryFolder folder;
    tests::write_checkpoint(folder.path(), shape);
    Model model = Model::load(folder.path(), {"", engine::Backend::tbb, 2});
    const std::size_t vocab = shape.vocab;
    // More rows than a block has, so that the blocks of the last layer are others than before.
    const auto tokens = tests::random_tokens(230, vocab, 5);
    std::vector<std::int32_t> longer = tokens;
    longer.insert(longer.end(), behind.begin(), behind.end());
    Sequence single = model.sequence(longer.size());
    const std::vector<float> expected = one_by_one(model, single, longer);

    // One sequence that asks for all rows, one for the last and one for none, together.
    Sequence a = model.sequence(longer.size());
    Sequence b = model.sequence(longer.size());
    Sequence c = model.sequence(longer.size());
    std::vector<float> all(tokens.size() * vocab);
    std::vector<float> last(vocab);
    std::vector<Step> steps = {{&a, tokens, LogitRows::all, all.data()},
                               {&b, tokens, LogitRows::last, last.data()},
                               {&c, tokens, LogitRows::none, nullptr}};
    BOOST_REQUIRE(model.forward(steps));
    for (std::size_t row = 0; row < tokens.size(); ++row) {
      check_row(expected, row, all.data() + row * vocab, vocab, shape.name + ", all");
    }
    check_row(expected, tokens.size() - 1, last.data(), vocab, shape.name + ", last");
    for (Sequence* sequence : {&b, &c}) {
      std::vector<float> rest(behind.size() * vocab);
      Step step{sequence, behind, LogitRows::all, rest.data()};
      BOOST_REQUIRE(model.forward({&step, 1}));
      for (std::size_t row = 0; row < behind.size(); ++row) {
        check_row(expected, tokens.size() + row, rest.data() + row * vocab, vocab,
                  shape.name + ", behind");
      }
    }

    // Alone.
    for (const LogitRows rows : {LogitRows::last, LogitRows::none}) {
      Sequence alone = model.sequence(longer.size());
      std::vector<float> found(vocab);
      Step step{&alone, tokens, rows, found.data()};
      BOOST_REQUIRE(model.forward({&step, 1}));
      if (rows == LogitRows::last) {
        check_row(expected, tokens.size() - 1, found.data(), vocab, shape.name + ", alone");
      }
      for (std::size_t layer = 0; layer < shape.layers; ++layer) {
        for (std::size_t head = 0; head < shape.heads; ++head) {
          for (std::size_t slot = 0; slot < tokens.size(); ++slot) {
            BOOST_REQUIRE(tests::same_bits(alone.cache.norms(layer, head)[slot],
                                           single.cache.norms(layer, head)[slot]));
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(rows_that_wait_are_the_same) {
  for (const Shape& shape : shapes()) {
    const tests::TemporaryFolder folder;
    tests::write_checkpoint(folder.path(), shape);
    Model model = Model::load(folder.path(), {"", engine::Backend::tbb, 2});
    const auto tokens = tests::random_tokens(400, shape.vocab, 6);
    // Passes of three tokens and of some thirty; one sequence and two.
    for (const std::size_t prune_after : {std::size_t{10}, std::size_t{100}}) {
      Sequence single = model.sequence(prune_after + 1, often(prune_after));
      const std::vector<float> expected = one_by_one(model, single, tokens);
      for (const std::size_t batch : {std::size_t{1}, std::size_t{2}}) {
        std::vector<Sequence> sequences;
        std::vector<std::vector<float>> logits(batch,
                                               std::vector<float>(tokens.size() * shape.vocab));
        for (std::size_t i = 0; i < batch; ++i) {
          sequences.push_back(model.sequence(prune_after + 1, often(prune_after)));
        }
        std::vector<Step> steps;
        for (std::size_t i = 0; i < batch; ++i) {
          steps.push_back({&sequences[i], tokens, LogitRows::all, logits[i].data()});
        }
        BOOST_REQUIRE(model.forward(steps));
        BOOST_CHECK_GT(sequences[0].cuts.size(), 5u);
        for (std::size_t i = 0; i < batch; ++i) {
          for (std::size_t row = 0; row < tokens.size(); ++row) {
            check_row(expected, row, logits[i].data() + row * shape.vocab, shape.vocab, shape.name);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(rows_that_wait_are_shown_to_nobody_else) {
  // The rows of the first sequence wait while a pass runs in which somebody watches another.
  struct Watcher : engine::TensorWatcher {
    mutable std::atomic<std::size_t> last{0};
    bool wants(const engine::TensorId&) const noexcept override { return true; }
    void see(const engine::TensorId&, std::size_t first_token, std::size_t rows, std::size_t,
             std::size_t, const float*, std::size_t) noexcept override {
      std::size_t seen = last.load();
      while (seen < first_token + rows && !last.compare_exchange_weak(seen, first_token + rows)) {
      }
    }
  } watcher;
  const tests::TemporaryFolder folder;
  Shape shape;
  shape.max_positions = 1024;
  tests::write_checkpoint(folder.path(), shape);
  Model model = Model::load(folder.path(), {"", engine::Backend::tbb, 2});
  const auto tokens = tests::random_tokens(505, shape.vocab, 9);
  const std::span<const std::int32_t> some(tokens.data(), 10);
  Sequence single = model.sequence(10);
  const std::vector<float> expected = one_by_one(model, single, {some.begin(), some.end()});
  Sequence a = model.sequence(10);
  Sequence b = model.sequence(505);
  Sequence c = model.sequence(4);
  c.tensors = &watcher;
  std::vector<float> logits(10 * shape.vocab);
  std::vector<float> others(4 * shape.vocab);
  std::vector<Step> steps = {{&a, some, LogitRows::all, logits.data()},
                             {&b, tokens, LogitRows::none, nullptr},
                             {&c, some.first(4), LogitRows::all, others.data()}};
  BOOST_REQUIRE(model.forward(steps));
  BOOST_CHECK_EQUAL(watcher.last.load(), 4u);
  for (std::size_t row = 0; row < 10; ++row) {
    check_row(expected, row, logits.data() + row * shape.vocab, shape.vocab, "waited");
  }
}

BOOST_AUTO_TEST_CASE(rows_that_are_not_numbers_do_not_wait) {
  // With eps 0, a last output that is the same in all channels has a finite sum and no direction.
  const tests::TemporaryFolder folder;
  const Shape shape;
  tests::write_checkpoint(folder.path(), shape,
                          [&](const std::string& name, std::vector<float>& values) {
                            if (name == "gpt_neox.layers.1.mlp.dense_4h_to_h.bias") {
                              std::fill(values.begin(), values.end(), 0x1p100f);
                            }
                          });
  std::ifstream in(folder.path() / "config.json");
  auto config = nlohmann::json::parse(in);
  config["layer_norm_eps"] = 0.0;
  std::ofstream(folder.path() / "config.json") << config;
  Model model = Model::load(folder.path(), {"", engine::Backend::tbb, 2});
  const auto tokens = tests::random_tokens(80, shape.vocab, 8);
  for (const std::size_t chunk : {std::size_t{1}, tokens.size()}) {
    Sequence sequence = model.sequence(21, often(20));
    std::vector<float> logits(tokens.size() * shape.vocab);
    Step step{&sequence, std::span(tokens).first(chunk), LogitRows::all, logits.data()};
    BOOST_CHECK(!model.forward({&step, 1}));
    BOOST_REQUIRE(step.failure);
    BOOST_CHECK_EQUAL(engine::describe(*step.failure), "token 0: logits is not finite");
  }
}

BOOST_AUTO_TEST_CASE(logits_that_could_overflow_do_not_wait) {
  // A row of the unembedding near the largest float: only the normalized value of one token, and
  // that in the middle of a chunk, takes its logit beyond.
  constexpr std::int32_t spiky = 5;
  constexpr std::size_t at = 37;
  Shape shape;
  const std::size_t hidden = shape.hidden();
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape,
                          [&](const std::string& name, std::vector<float>& values) {
                            if (name == "gpt_neox.embed_in.weight") {
                              values[spiky * hidden + 9] = 1000.0f;
                            }
                            if (name == "gpt_neox.final_layer_norm.weight") values[9] = 1.0f;
                            if (name == "embed_out.weight") values[9] = 0x1p126f;
                          });
  Model model = Model::load(folder.path(), {"", engine::Backend::tbb, 2});
  auto tokens = tests::random_tokens(80, shape.vocab, 8);
  std::replace(tokens.begin(), tokens.end(), spiky, spiky + 1);
  tokens[at] = spiky;
  std::vector<float> expected;
  for (const std::size_t chunk : {std::size_t{1}, tokens.size()}) {
    Sequence sequence = model.sequence(21, often(20));
    std::vector<float> logits(tokens.size() * shape.vocab);
    std::optional<std::size_t> stopped;
    for (std::size_t first = 0; first < tokens.size() && !stopped; first += chunk) {
      Step step{&sequence, std::span(tokens).subspan(first, chunk), LogitRows::all,
                logits.data() + first * shape.vocab};
      if (model.forward({&step, 1})) continue;
      BOOST_CHECK(step.failure->operation == engine::Operation::logits);
      stopped = first + step.failure->token;
    }
    BOOST_REQUIRE(stopped);
    BOOST_CHECK_EQUAL(*stopped, at);
    BOOST_CHECK_EQUAL(sequence.position, at);
    if (expected.empty()) expected = logits;
    for (std::size_t row = 0; row < at; ++row) {
      check_row(expected, row, logits.data() + row * shape.vocab, shape.vocab, "before");
    }
  }
}
