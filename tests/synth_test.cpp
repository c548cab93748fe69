// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE synth
#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "eval/digest.hpp"
#include "eval/synth.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
namespace fs = std::filesystem;

engine::Config tiny() {
  engine::Config config;
  config.layers = 2;
  config.hidden = 48;
  config.heads = 3;
  config.head_dim = 16;
  config.rotary_dims = 4;
  config.intermediate = 100;
  config.vocab = 61;
  config.eos_token_ids = {0};
  return config;
}

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string logits_digest(const fs::path& folder) {
  engine::Model model = engine::Model::load(folder, {{}, engine::Backend::serial, 1});
  const auto ids = tests::random_tokens(20, model.config().vocab, 5);
  std::vector<float> logits(ids.size() * model.config().vocab);
  engine::Sequence sequence = model.sequence(ids.size());
  engine::Step step{&sequence, ids, engine::LogitRows::all, logits.data()};
  BOOST_REQUIRE(model.forward({&step, 1}));
  eval::Digest digest;
  digest.add(logits);
  return digest.hex();
}

BOOST_AUTO_TEST_CASE(the_same_bytes_on_every_machine) {
  struct Known {
    simd::Dtype dtype;
    const char* file;
    const char* logits;
  };
  const Known known[] = {
      {simd::Dtype::f32, "a03d6161d68773e5a8d9082ab4a2fb57", "172a713afe6cdffce5eeea66b690bea1"},
      {simd::Dtype::f16, "5f2e40816def846352f5225ad05a2dc4", "54ed721ddd582092fc8ab2ed6749f640"},
      {simd::Dtype::bf16, "6c7c5233676e37ea9e96dd26cb02a0a8", "79fc54b1b65826e4321b7f261cdee93d"},
  };
  for (const Known& expected : known) {
    const tests::TemporaryFolder folder;
    eval::SynthOptions options;
    options.seed = 7;
    options.dtype = expected.dtype;
    const auto files = eval::write_synth(tiny(), options, folder.path() / "m");
    BOOST_REQUIRE_EQUAL(files.size(), 2u);
    BOOST_TEST(files[1].name == "model.safetensors");
    BOOST_TEST(files[1].xxh3 == expected.file);
    const std::string bytes = bytes_of(folder.path() / "m" / "model.safetensors");
    BOOST_TEST(files[1].bytes == bytes.size());
    eval::Digest digest;
    digest.add_bytes(std::as_bytes(std::span(bytes)));
    BOOST_TEST(digest.hex() == expected.file);
    BOOST_TEST(logits_digest(folder.path() / "m") == expected.logits);
  }
}

BOOST_AUTO_TEST_CASE(shards_hold_the_same_tensors) {
  const tests::TemporaryFolder folder;
  eval::SynthOptions options;
  eval::write_synth(tiny(), options, folder.path() / "whole");
  options.most_shard_bytes = 20'000;
  const auto files = eval::write_synth(tiny(), options, folder.path() / "parts");
  BOOST_TEST(files.size() > 4u);
  BOOST_TEST(files.back().name == "model.safetensors.index.json");
  const auto whole = engine::Checkpoint::open(folder.path() / "whole");
  const auto parts = engine::Checkpoint::open(folder.path() / "parts");
  BOOST_TEST(parts.files().size() == files.size() - 2);
  for (const engine::TensorSpec& spec : engine::required_tensors(tiny())) {
    const auto a = whole.tensor(spec.name).bytes;
    const auto b = parts.tensor(spec.name).bytes;
    BOOST_TEST(std::equal(a.begin(), a.end(), b.begin(), b.end()), spec.name);
  }
}

BOOST_AUTO_TEST_CASE(a_checkpoint_is_not_written_over) {
  const tests::TemporaryFolder folder;
  const fs::path place = folder.path() / "m";
  eval::SynthOptions options;
  eval::write_synth(tiny(), options, place);
  const std::string before = bytes_of(place / "model.safetensors");
  options.seed = 2;
  BOOST_CHECK_THROW(eval::write_synth(tiny(), options, place), engine::Error);
  BOOST_TEST(bytes_of(place / "model.safetensors") == before);
  options.force = true;
  eval::write_synth(tiny(), options, place / "");
  BOOST_TEST(bytes_of(place / "model.safetensors") != before);
  BOOST_TEST(std::distance(fs::directory_iterator(folder.path()), {}) == 1);
  // What is no checkpoint is not replaced even so.
  fs::create_directory(folder.path() / "letters");
  BOOST_CHECK_THROW(eval::write_synth(tiny(), options, folder.path() / "letters"), engine::Error);
  engine::Config crooked = tiny();
  crooked.heads = 5;
  BOOST_CHECK_THROW(eval::write_synth(crooked, options, folder.path() / "crooked"), engine::Error);
  options.tokenizer = folder.path() / "nowhere.json";
  BOOST_CHECK_THROW(eval::write_synth(tiny(), options, folder.path() / "new"), engine::Error);
  BOOST_TEST(std::distance(fs::directory_iterator(folder.path()), {}) == 2);
}

/// A trained model's are: the largest of a vocabulary lies around 20.
BOOST_AUTO_TEST_CASE(logits_are_of_tens) {
  const tests::TemporaryFolder folder;
  engine::Config config = tiny();
  config.vocab = 5000;
  eval::write_synth(config, {}, folder.path() / "m");
  engine::Model model = engine::Model::load(folder.path() / "m", {{}, engine::Backend::serial, 1});
  const auto ids = tests::random_tokens(20, config.vocab, 5);
  std::vector<float> logits(ids.size() * config.vocab);
  engine::Sequence sequence = model.sequence(ids.size());
  engine::Step step{&sequence, ids, engine::LogitRows::all, logits.data()};
  BOOST_REQUIRE(model.forward({&step, 1}));
  double squares = 0.0;
  double largest = 0.0;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    const std::span row(logits.data() + t * config.vocab, config.vocab);
    for (const float logit : row) squares += static_cast<double>(logit) * logit;
    largest += *std::max_element(row.begin(), row.end());
  }
  BOOST_TEST(std::sqrt(squares / static_cast<double>(logits.size())) == 5.0,
             boost::test_tools::tolerance(0.15));
  BOOST_TEST(largest / static_cast<double>(ids.size()) > 12.0);
  BOOST_TEST(largest / static_cast<double>(ids.size()) < 30.0);
}

BOOST_AUTO_TEST_CASE(values_are_what_the_header_says) {
  engine::Config config = eval::shape_config("pythia-70m");
  const eval::SynthValues values(config, 1);
  BOOST_TEST(values.outliers().size() == 4u);
  std::vector<float> drawn(1 << 16);
  const auto deviation = [&](std::size_t first, std::size_t step, std::size_t count) {
    double sum = 0.0;
    double squares = 0.0;
    for (std::size_t i = 0; i < count; ++i) {
      const double x = drawn[first + i * step];
      sum += x;
      squares += x * x;
    }
    const auto n = static_cast<double>(count);
    return std::sqrt(squares / n - sum / n * sum / n);
  };
  values.fill(3, "gpt_neox.layers.0.mlp.dense_h_to_4h.weight", 512, 0, drawn);
  BOOST_TEST(deviation(0, 1, drawn.size()) == std::sqrt(2.0 / (5.0 * 512.0)),
             boost::test_tools::tolerance(0.02));
  // Columns of the embedding that are outliers are eight times as wide.
  values.fill(0, "gpt_neox.embed_in.weight", 512, 0, drawn);
  const double wide = deviation(values.outliers()[0], 512, 128);
  const double usual = deviation(values.outliers()[0] == 0 ? 1 : 0, 512, 128);
  BOOST_TEST(wide / usual > 4.0);
  // A piece is the same values wherever it begins.
  std::vector<float> piece(101);
  values.fill(0, "gpt_neox.embed_in.weight", 512, 777, piece);
  BOOST_TEST(std::equal(piece.begin(), piece.end(), drawn.begin() + 777));
  BOOST_CHECK_THROW(eval::shape_config("pythia-7b"), engine::Error);
}

BOOST_AUTO_TEST_CASE(narrowing_rounds_to_nearest_even) {
  const simd::Kernels& kernels = simd::kernels(simd::Isa::scalar);
  for (const simd::Dtype dtype : {simd::Dtype::f16, simd::Dtype::bf16}) {
    const auto narrow = dtype == simd::Dtype::f16 ? eval::to_f16 : eval::to_bf16;
    const std::uint32_t infinity = dtype == simd::Dtype::f16 ? 0x7c00 : 0x7f80;
    const auto wide = [&](std::uint32_t bits) {
      const auto stored = static_cast<std::uint16_t>(bits);
      float value = 0.0f;
      kernels.widen(dtype, &stored, &value, 1);
      return value;
    };
    for (std::uint32_t bits = 0; bits + 1 < infinity; ++bits) {
      const float low = wide(bits);
      const float high = wide(bits + 1);
      const auto middle = static_cast<float>((static_cast<double>(low) + high) / 2.0);
      const std::uint32_t even = bits + (bits & 1);
      const bool right = narrow(low) == bits && narrow(-low) == (bits | 0x8000u) &&
                         (middle == low ||
                          (narrow(middle) == even && narrow(std::nextafter(middle, 0.0f)) == bits &&
                           narrow(std::nextafter(middle, 3.4e38f)) == bits + 1));
      BOOST_REQUIRE_MESSAGE(right, "bits " << bits);
    }
    BOOST_TEST(narrow(3.4e38f) == infinity);
  }
}

}  // namespace
