// SPDX-License-Identifier: Apache-2.0
// Goldens: digests that nothing but the numbers can change, tensors made again, and the first place that
// differs.
#define BOOST_TEST_MODULE goldens
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>

#include "engine/oracle.hpp"
#include "eval/golden_run.hpp"
#include "tests/goldens_subject.hpp"

using namespace neoxref;
using namespace neoxref::tests;

BOOST_AUTO_TEST_CASE(digests_are_those_of_the_oracle) {
  // By the definition alone: rows, then the digest of their digests.
  for (const bool parallel : {true, false}) {
    const Subject subject([&](Shape& shape) { shape.parallel_residual = parallel; });
    engine::Oracle<float> oracle(engine::Checkpoint::open(subject.folder.path()));
    engine::Oracle<float>::Record record;
    for (const std::int32_t token : subject.tokens) oracle.forward(token, &record);
    GoldenOptions options;
    options.all_leaves = true;
    const Golden golden = subject.make(options);
    std::size_t compared = 0;
    for (const TensorDigest& entry : golden.tensors) {
      const auto found = record.find(entry.name);
      if (found == record.end()) continue;
      ++compared;
      const std::size_t width = entry.shape.back();
      eval::Digest whole;
      for (std::size_t row = 0; row < subject.tokens.size(); ++row) {
        eval::Digest leaf;
        leaf.add(std::span(found->second).subspan(row * width, width));
        const std::string hex = leaf.hex();
        std::vector<std::byte> bytes;
        for (std::size_t i = 0; i < 32; i += 2) {
          bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
        }
        whole.add_bytes(bytes);
        BOOST_CHECK_EQUAL(entry.leaves.at(row), std::stoull(hex.substr(0, 16), nullptr, 16));
      }
      BOOST_CHECK_MESSAGE(whole.hex() == eval::digest_text(entry.digest), entry.name);
    }
    BOOST_CHECK_EQUAL(compared, record.size());
    BOOST_CHECK_EQUAL(golden.tensors.size(), record.size() + 4 * subject.shape.layers);
  }
}

BOOST_AUTO_TEST_CASE(nothing_but_the_numbers_changes_a_digest) {
  for (const bool wide : {false, true}) {
    const Subject subject([&](Shape& shape) {
      // Wide enough that rows come in pieces, from several threads.
      if (wide) shape.heads = 8, shape.intermediate = 700, shape.vocab = 700;
    });
    for (const bool pressed : {false, true}) {
      eval::GoldenRecipe recipe{"subject", std::string(64, '0'), {}, subject.tokens, {}, 0};
      if (pressed) recipe.press = half(8);
      eval::RunRequest request;
      request.all_leaves = true;
      Model base = subject.load();
      const auto expected = eval::run_recipe(base, recipe, request);
      std::vector<engine::RunOptions> ways;
      for (const simd::Isa isa : simd::usable_isas()) {
        ways.push_back({std::string(simd::isa_name(isa)), Backend::serial, 1});
      }
      for (const Backend backend : engine::built_backends()) {
        for (const std::size_t threads : {2u, 7u}) ways.push_back({"", backend, threads});
      }
      for (const engine::RunOptions& way : ways) {
        Model model = subject.load(way);
        BOOST_CHECK_MESSAGE(
            same_digests(expected, eval::run_recipe(model, recipe, request)),
            way.isa << " " << engine::backend_name(way.backend) << " " << way.threads);
        // With every tensor copied out, and with two of them.
        for (const bool all : {true, false}) {
          eval::RunRequest keeping = request;
          std::vector<std::vector<float>> kept;
          keeping.keep = [&](const eval::NamedTensor& tensor) -> void* {
            if (!all && tensor.name != "gpt_neox.layers.1.mlp.act" && tensor.name != "embed_out") {
              return nullptr;
            }
            return kept.emplace_back(tensor.rows() * tensor.row_values()).data();
          };
          if (all) {
            keeping.extras = {"gpt_neox.layers.0.attention.scores",
                              "gpt_neox.layers.0.attention.probabilities", "rotary.cos"};
          }
          auto found = eval::run_recipe(model, recipe, keeping);
          found.resize(expected.size());
          BOOST_CHECK(same_digests(expected, found));
          BOOST_CHECK_EQUAL(kept.size(), all ? expected.size() + 3 : 2);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(tensors_come_back_on_demand) {
  const Subject subject;
  const tests::TemporaryFolder place;
  engine::Oracle<float> oracle(engine::Checkpoint::open(subject.folder.path()));
  engine::Oracle<float>::Record record;
  for (const std::int32_t token : subject.tokens) oracle.forward(token, &record);
  Model model = subject.load({"", engine::built_backends().front(), 2});
  for (const char* stored : {"none", "layers", "all"}) {
    GoldenOptions options;
    options.folder = place.path() / stored;
    options.stored = {stored};
    const Golden golden = subject.make(options);
    const auto source = eval::golden_source(model, golden);
    BOOST_CHECK(!source->has({engine::Tensor::act, subject.shape.layers}));
    BOOST_CHECK(!source->get({engine::Tensor::act, subject.shape.layers}));
    for (const auto& [name, expected] : record) {
      const auto id = engine::tensor_from_name(name);
      BOOST_REQUIRE(id && source->has(*id));
      const auto matrix = source->get(*id);
      BOOST_REQUIRE(matrix);
      BOOST_CHECK_EQUAL(matrix->rows, subject.tokens.size());
      BOOST_CHECK(std::equal(expected.begin(), expected.end(), matrix->values.begin(),
                             matrix->values.end(), tests::same_bits));
      BOOST_CHECK(source->find(name).floats == matrix->values);
    }
    const auto keys = source->find("past_key_values.1.key");
    BOOST_CHECK((keys.tensor.shape == std::vector<std::uint64_t>{1, subject.shape.heads,
                                                                 subject.tokens.size(),
                                                                 subject.shape.head_dim}));
    const std::vector<float>& rotary_k = record.at("gpt_neox.layers.1.attention.rotary_k");
    const std::size_t head_dim = subject.shape.head_dim;
    for (std::size_t i = 0; i < keys.floats.size(); ++i) {
      const std::size_t head = i / head_dim / subject.tokens.size();
      const std::size_t token = i / head_dim % subject.tokens.size();
      BOOST_CHECK_EQUAL(keys.floats[i],
                        rotary_k[token * subject.shape.hidden() + head * head_dim + i % head_dim]);
    }
    const auto positions = source->find("past_key_values.1.position");
    BOOST_CHECK_EQUAL(positions.integers.at(subject.tokens.size() + 3), 3);
    BOOST_CHECK(message([&] { source->find("gpt_neox.layers.*"); }).find("not the name of one") !=
                std::string::npos);
    BOOST_CHECK(message([&] { source->find("nonsense"); }).find("no such tensor") !=
                std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(scores_and_probabilities_are_those_of_the_contract) {
  // softmax(scores), and scores from the rotated queries and keys, by plain loops.
  for (const bool pressed : {false, true}) {
    const Subject subject;
    Model model = subject.load({"", engine::built_backends().front(), 3});
    std::optional<engine::Press> press;
    if (pressed) press = half(8);
    const auto recipe = eval::make_recipe(model, "subject", subject.tokens, press);
    const auto source = eval::golden_source(model, eval::make_golden(model, recipe, {}));
    const std::string name = "gpt_neox.layers.1.attention.";
    const auto scores = source->find(name + "scores").floats;
    const auto probabilities = source->find(name + "probabilities").floats;
    const auto queries = source->find(name + "rotary_q").floats;
    const auto keys = source->find(name + "rotary_k").floats;
    const std::size_t count = subject.tokens.size();
    const std::size_t head_dim = subject.shape.head_dim;
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    std::size_t hidden = 0;
    for (std::size_t head = 0; head < subject.shape.heads; ++head) {
      for (std::size_t query = 0; query < count; ++query) {
        const float* const row = scores.data() + (head * count + query) * count;
        const float* const given = probabilities.data() + (head * count + query) * count;
        double sum = 0;
        for (std::size_t key = 0; key < count; ++key) {
          sum += given[key];
          if (std::isinf(row[key])) {
            ++hidden;
            BOOST_CHECK(row[key] < 0 && given[key] == 0.0f);
            BOOST_CHECK(key > query || pressed);
            continue;
          }
          BOOST_CHECK(key <= query);
          float dot = 0.0f;  // one block: head_dim is below 64
          for (std::size_t d = 0; d < head_dim; ++d) {
            const std::size_t at = head * head_dim + d;
            dot = std::fma(queries[query * subject.shape.hidden() + at],
                           keys[key * subject.shape.hidden() + at], dot);
          }
          BOOST_CHECK_EQUAL(row[key], dot * scale);
        }
        BOOST_CHECK_CLOSE(sum, 1.0, 1e-4);
      }
    }
    const std::size_t causal = subject.shape.heads * count * (count - 1) / 2;
    BOOST_CHECK(pressed ? hidden > causal : hidden == causal);
  }
}

BOOST_AUTO_TEST_CASE(a_bit_in_a_weight_is_found_where_it_works) {
  // Under another model's SHA-256, as if the file had been that one's.
  struct Case {
    const char* weight;
    std::size_t at;
    const char* name;  ///< of the first tensor that differs
    bool all_tokens;
  };
  constexpr std::int32_t token = 5;
  const Subject subject;
  const std::size_t hidden = subject.shape.hidden();
  const Case cases[] = {
      {"gpt_neox.embed_in.weight", token * hidden + 3, "gpt_neox.embed_in", false},
      // A value of head 0: a query's would leave the first token, which sees itself only, as it was.
      {"gpt_neox.layers.1.attention.query_key_value.bias", 39,
       "gpt_neox.layers.1.attention.query_key_value", true},
      {"gpt_neox.layers.2.mlp.dense_4h_to_h.bias", 9, "gpt_neox.layers.2.mlp.dense_4h_to_h", true},
      {"gpt_neox.final_layer_norm.bias", 1, "gpt_neox.final_layer_norm", true}};
  std::vector<std::int32_t> tokens(30, 1);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i % 5);
  tokens[13] = tokens[20] = token;
  for (const Case& test : cases) {
    const Subject spoiled({}, [&](const std::string& name, std::vector<float>& values) {
      if (name == test.weight) values[test.at] += 0.25f;
    });
    Model good = subject.load();
    Model bad = spoiled.load();
    for (const char* stored : {"none", "all"}) {
      for (const bool all_leaves : {false, true}) {
        const tests::TemporaryFolder place;
        GoldenOptions options;
        options.folder = place.path() / "golden";
        options.stored = {stored};
        options.all_leaves = all_leaves;
        eval::GoldenRecipe recipe = eval::make_recipe(good, "good", tokens);
        recipe.sha256 = eval::make_recipe(bad, "bad", tokens).sha256;
        const Golden golden = eval::make_golden(good, recipe, options);
        const auto verification = eval::verify_golden(bad, golden);
        BOOST_REQUIRE(!verification.same());
        const eval::GoldenDifference& first = verification.differences.front();
        BOOST_CHECK_EQUAL(first.name, test.name);
        const std::size_t row = test.all_tokens ? 0 : 13;
        const bool is_stored = std::string_view(stored) == "all";
        BOOST_CHECK_EQUAL(first.row.has_value(), all_leaves || is_stored);
        if (first.row) BOOST_CHECK_EQUAL(*first.row, row);
        if (all_leaves) BOOST_CHECK_EQUAL(*first.rows_differing, test.all_tokens ? 30u : 2u);
        BOOST_CHECK_EQUAL(first.value.has_value(), is_stored);
        if (is_stored) {
          BOOST_CHECK_EQUAL(first.value->channel, test.all_tokens ? test.at : test.at % hidden);
          BOOST_CHECK(first.value->expected != first.value->found);
        }
        const bool layer_behind = std::string_view(test.name) != "gpt_neox.final_layer_norm";
        if (!first.row) {
          BOOST_CHECK_EQUAL(verification.token_behind.has_value(), layer_behind);
          if (layer_behind) BOOST_CHECK_EQUAL(*verification.token_behind, row);
        }
        // A tensor before it is still given; it is not.
        const auto source = eval::golden_source(bad, golden);
        if (is_stored) continue;
        BOOST_CHECK(message([&] { source->find(test.name); }).find("other bits") !=
                    std::string::npos);
        if (test.all_tokens) BOOST_CHECK_NO_THROW(source->find("gpt_neox.embed_in"));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_cut_at_the_end_of_the_prompt_is_part_of_the_recipe) {
  const Subject subject;
  Model model = subject.load();
  engine::Press press = half(8);
  press.trigger = engine::Trigger::after_prompt;
  const auto early = eval::make_recipe(model, "subject", subject.tokens, press, 10);
  const auto late = eval::make_recipe(model, "subject", subject.tokens, press, 20);
  const tests::TemporaryFolder place;
  GoldenOptions options;
  options.folder = place.path() / "golden";
  const Golden golden = eval::make_golden(model, early, options);
  BOOST_CHECK_EQUAL(golden.find("past_key_values.0.key")->shape[2], 40u);
  BOOST_CHECK_EQUAL(golden.find("past_key_values.1.key")->shape[2], 35u);
  BOOST_CHECK(eval::verify_golden(model, Golden::read(options.folder)).same());
  BOOST_CHECK(!same_digests(golden.tensors, eval::make_golden(model, late, {}).tensors));
}
