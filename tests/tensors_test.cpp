// SPDX-License-Identifier: Apache-2.0
// Who watches a forward pass sees what the oracle records, bit for bit, each value once; and changes no
// bit of the logits.
#define BOOST_TEST_MODULE tensors
#include <algorithm>
#include <atomic>
#include <boost/test/unit_test.hpp>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/model.hpp"
#include "engine/oracle.hpp"
#include "engine/tensors.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using engine::Backend;
using engine::LogitRows;
using engine::Model;
using engine::Sequence;
using engine::Step;
using engine::Tensor;
using engine::TensorId;
using tests::Shape;
using Record = engine::Oracle<float>::Record;

std::vector<TensorId> all_tensors(const engine::Config& config) {
  std::vector<TensorId> all = {{Tensor::embed_in}};
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    for (const Tensor tensor : engine::layer_tensors) all.push_back({tensor, layer});
  }
  all.push_back({Tensor::final_layer_norm});
  all.push_back({Tensor::embed_out});
  return all;
}

/// Puts the pieces together and counts how often each value came.
class Assembly : public engine::TensorWatcher {
public:
  struct Whole {
    std::size_t width;
    std::vector<float> values;
    std::vector<int> times;
  };

  Assembly(const engine::Config& config, std::size_t tokens, const std::vector<TensorId>& wanted) {
    for (const TensorId& id : wanted) {
      const std::size_t width = engine::tensor_width(id.tensor, config);
      wholes_[id] = {width, std::vector<float>(tokens * width), std::vector<int>(tokens * width)};
    }
  }

  bool wants(const TensorId& id) const noexcept override { return wholes_.count(id) > 0; }

  void see(const TensorId& id, std::size_t first_token, std::size_t rows, std::size_t first_column,
           std::size_t columns, const float* values, std::size_t stride) noexcept override {
    const auto found = wholes_.find(id);
    if (found == wholes_.end()) {
      ++strays;
      return;
    }
    Whole& whole = found->second;
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t column = 0; column < columns; ++column) {
        const std::size_t at = (first_token + row) * whole.width + first_column + column;
        whole.values[at] = values[row * stride + column];
        ++whole.times[at];
      }
    }
  }

  void check(const Record& expected, const std::string& what) const {
    for (const auto& [id, whole] : wholes_) {
      const std::string name = engine::tensor_name(id);
      const std::vector<float>& values = expected.at(name);
      BOOST_REQUIRE_EQUAL(values.size(), whole.values.size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (whole.times[i] == 1 && tests::same_bits(values[i], whole.values[i])) continue;
        BOOST_ERROR(what << ": " << name << ", token " << i / whole.width << ", channel "
                         << i % whole.width << ": came " << whole.times[i] << " times, oracle "
                         << std::hexfloat << values[i] << ", seen " << whole.values[i]);
        break;
      }
    }
    BOOST_CHECK_EQUAL(strays.load(), 0);
  }

  std::atomic<int> strays{0};

private:
  std::map<TensorId, Whole> wholes_;
};

struct Way {
  std::string isa;
  Backend backend = Backend::serial;
  std::size_t threads = 1;
  std::size_t chunk = 0;  ///< 0: all tokens
  bool company = false;
};

std::vector<Way> ways() {
  std::vector<Way> all;
  for (const simd::Isa isa : simd::usable_isas()) {
    const std::string name(simd::isa_name(isa));
    all.push_back({name});
    all.push_back({name, Backend::serial, 1, 7, true});
  }
  const std::string best(simd::isa_name(simd::usable_isas().back()));
  for (const std::size_t threads : {2u, 3u, 7u}) {
    all.push_back({best, engine::built_backends().front(), threads});
    all.push_back({best, engine::built_backends().front(), threads, 1});
    all.push_back({best, engine::built_backends().front(), threads, 5, true});
  }
  return all;
}

/// Logits [tokens, vocab] of the sequence, alone or between two others that are watched too.
std::vector<float> run(Model& model, const std::vector<std::int32_t>& tokens, const Way& way,
                       engine::TensorWatcher* watcher, const std::optional<engine::Press>& press) {
  const std::size_t vocab = model.config().vocab;
  std::vector<float> logits(tokens.size() * vocab);
  Sequence sequence = model.sequence(tokens.size(), press);
  sequence.tensors = watcher;
  const auto others = tests::random_tokens(tokens.size(), vocab, 99);
  Sequence before = model.sequence(tokens.size());
  Sequence behind = model.sequence(tokens.size());
  Assembly elsewhere(model.config(), tokens.size(), all_tensors(model.config()));
  before.tensors = &elsewhere;
  std::vector<float> other_logits(2 * tokens.size() * vocab);
  const std::size_t chunk = way.chunk == 0 ? tokens.size() : way.chunk;
  for (std::size_t first = 0; first < tokens.size(); first += chunk) {
    const std::size_t count = std::min(chunk, tokens.size() - first);
    std::vector<Step> steps = {{&sequence, std::span(tokens).subspan(first, count), LogitRows::all,
                                logits.data() + first * vocab}};
    if (way.company) {
      const Step one{&before, std::span(others).subspan(first, count), LogitRows::last,
                     other_logits.data()};
      const Step two{&behind, std::span(others).subspan(first, count), LogitRows::all,
                     other_logits.data() + tokens.size() * vocab};
      steps.insert(steps.begin(), one);
      steps.push_back(two);
    }
    BOOST_REQUIRE(model.forward(steps));
  }
  return logits;
}

void check_model(const std::filesystem::path& folder, const std::string& name, std::size_t count,
                 const std::vector<Way>& over, const std::optional<engine::Press>& press = {}) {
  engine::Oracle<float> oracle(engine::Checkpoint::open(folder));
  if (press) oracle.set_press(*press);
  const engine::Config config = engine::read_config(folder / "config.json");
  const auto tokens = tests::random_tokens(count, config.vocab, 7);
  Record record;
  for (const std::int32_t token : tokens) oracle.forward(token, &record);
  // Every tensor of the record is one that a watcher can ask for, and the other way round.
  BOOST_REQUIRE_EQUAL(record.size(), all_tensors(config).size());
  for (const Way& way : over) {
    Model model = Model::load(folder, {way.isa, way.backend, way.threads});
    const std::string what = name + ", " + way.isa + ", " + std::to_string(way.threads) +
                             " threads, chunks of " + std::to_string(way.chunk) +
                             (way.company ? ", in company" : "");
    Assembly all(config, tokens.size(), all_tensors(config));
    const auto watched = run(model, tokens, way, &all, press);
    all.check(record, what);
    const auto unwatched = run(model, tokens, way, nullptr, press);
    BOOST_CHECK_MESSAGE(
        std::equal(watched.begin(), watched.end(), unwatched.begin(), tests::same_bits),
        what << ": watching changed the logits");
    Assembly some(config, tokens.size(), {{Tensor::context, config.layers - 1}, {Tensor::act, 0}});
    const auto partly = run(model, tokens, way, &some, press);
    some.check(record, what + ", two tensors");
    BOOST_CHECK_MESSAGE(
        std::equal(partly.begin(), partly.end(), unwatched.begin(), tests::same_bits),
        what << ": watching some changed the logits");
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(names_and_ids_are_one) {
  Shape shape;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape);
  const engine::Config config = engine::read_config(folder.path() / "config.json");
  std::size_t order = 0;
  for (const TensorId& id : all_tensors(config)) {
    BOOST_CHECK_EQUAL(engine::execution_order(id, config), order++);
    BOOST_CHECK(engine::tensor_from_name(engine::tensor_name(id)) == id);
  }
  for (const char* name : {"", "gpt_neox.layers.", "gpt_neox.layers.x", "gpt_neox.layers.01",
                           "gpt_neox.layers.1.", "gpt_neox.layers.-1", "embed_out.weight"}) {
    BOOST_CHECK_MESSAGE(!engine::tensor_from_name(name), name);
  }
}

BOOST_AUTO_TEST_CASE(watchers_of_random_models_see_the_oracle) {
  std::vector<Shape> shapes(6);
  shapes[0].name = "parallel";
  shapes[1].name = "sequential";
  shapes[1].parallel_residual = false;
  shapes[2].name = "no rotary, no bias, tied";
  shapes[2].rotary_pct = 0.0;
  shapes[2].attention_bias = false;
  shapes[2].tied = true;
  shapes[3].name = "odd extents, sequential";
  shapes[3].parallel_residual = false;
  shapes[3].heads = 3;
  shapes[3].head_dim = 20;
  shapes[3].rotary_pct = 0.5;
  shapes[3].intermediate = 37;
  shapes[3].vocab = 33;
  shapes[4].name = "one layer, bfloat16";
  shapes[4].layers = 1;
  shapes[4].dtype = simd::Dtype::bf16;
  // Wide enough that every phase has several items a row for few threads.
  shapes[5].name = "wide";
  shapes[5].heads = 8;
  shapes[5].intermediate = 600;
  shapes[5].vocab = 700;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    shapes[i].seed = i + 1;
    const tests::TemporaryFolder folder;
    tests::write_checkpoint(folder.path(), shapes[i]);
    check_model(folder.path(), shapes[i].name, 40, ways());
  }
}

BOOST_AUTO_TEST_CASE(watchers_see_the_oracle_where_a_press_cuts) {
  Shape shape;
  shape.layers = 3;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), shape);
  engine::Press press;
  press.budget.keep_ratio = engine::KeepRatio::parse("0.5");
  press.prune_after = 8;
  for (const engine::Positions positions :
       {engine::Positions::original, engine::Positions::rerotate}) {
    press.positions = positions;
    press.skip_layers.clear();
    if (positions == engine::Positions::original) press.skip_layers = {0};
    check_model(folder.path(), "press", 40, ways(), press);
  }
}

BOOST_AUTO_TEST_CASE(watchers_of_mini_see_the_oracle) {
  const std::string best(simd::isa_name(simd::usable_isas().back()));
  check_model(tests::source_dir() / "datasets/mini", "mini", 24,
              {{best},
               {best, engine::built_backends().front(), 2},
               {best, engine::built_backends().front(), 3, 5, true}});
}
