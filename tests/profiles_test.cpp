// SPDX-License-Identifier: Apache-2.0
// Profiles: what is shipped, files read strictly, rounding to each format.
#define BOOST_TEST_MODULE profiles
#include "eval/profiles.hpp"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <string>

#include "engine/error.hpp"
#include "eval/synth.hpp"
#include "simd/scalar/ieee.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using eval::Format;

std::string problem(const std::string& text) {
  try {
    (void)eval::parse_profile(text, "p.json");
  } catch (const engine::Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

BOOST_AUTO_TEST_CASE(shipped_profiles_come_back_from_their_files) {
  for (const std::string_view name : eval::shipped_profiles()) {
    const eval::Profile profile = eval::shipped_profile(name);
    const std::string text = eval::profile_text(profile);
    BOOST_CHECK_EQUAL(profile.name, name);
    BOOST_CHECK_EQUAL(eval::profile_text(eval::parse_profile(text, "p.json")), text);
  }
  BOOST_CHECK_EQUAL(eval::shipped_profiles().size(), 6u);
  BOOST_CHECK_THROW(eval::shipped_profile("f64"), engine::Error);
  BOOST_CHECK_THROW(eval::read_profile("/nowhere/p.json"), engine::Error);
}

BOOST_AUTO_TEST_CASE(a_file_names_a_base_and_what_is_different) {
  const auto profile = eval::parse_profile(
      R"({"name": "mine", "base": "bf16-acc32", "storage": {"default": "f16", "embed_out": "f32"},
          "functions": {"exp": 4}, "flushed": [], "layer_norm": "two_pass"})",
      "p.json");
  BOOST_CHECK_EQUAL(profile.name, "mine");
  BOOST_CHECK(profile.operands == Format::bf16);
  BOOST_CHECK(profile.stored(engine::Tensor::dense) == Format::f16);
  BOOST_CHECK(profile.stored(engine::Tensor::embed_out) == Format::f32);
  BOOST_CHECK_EQUAL(profile.functions.exp, 4.0);
  BOOST_CHECK(profile.flushed.empty());
  BOOST_CHECK(profile.layer_norm == eval::LayerNormForm::two_pass);
}

BOOST_AUTO_TEST_CASE(bad_files_are_refused_in_one_line) {
  for (const std::string text : {"",
                                 "[]",
                                 "{}",
                                 R"({"name": ""})",
                                 R"({"name": "a", "base": "f64"})",
                                 R"({"name": "a", "operand": "f32"})",
                                 R"({"name": "a", "operands": "f8"})",
                                 R"({"name": "a", "operands": 16})",
                                 R"({"name": "a", "accumulator": "bf16"})",
                                 R"({"name": "a", "scores": "kld16"})",
                                 R"({"name": "a", "storage": {"logits": "f32"}})",
                                 R"({"name": "a", "storage": {"dense": "kld16"}})",
                                 R"({"name": "a", "storage": 3})",
                                 R"({"name": "a", "functions": {"exp": 0.1}})",
                                 R"({"name": "a", "functions": {"cos": 1}})",
                                 R"({"name": "a", "flushed": "f32"})",
                                 R"({"name": "a", "flushed": ["f64"]})",
                                 R"({"name": "a", "layer_norm": "three_pass"})",
                                 R"({"name": "a", "softmax_block": 0})",
                                 R"({"name": "a", "name": "b"})"}) {
    const std::string found = problem(text);
    BOOST_TEST_CONTEXT(text) {
      BOOST_CHECK(found.starts_with("p.json"));
      BOOST_CHECK(found.find('\n') == std::string::npos);
    }
  }
}

BOOST_AUTO_TEST_CASE(rounding_is_that_of_the_formats) {
  tests::Numbers numbers(5);
  for (int i = 0; i < 20000; ++i) {
    const auto power = static_cast<double>(numbers.below(60)) - 40.0;
    const float x = numbers.symmetric() * static_cast<float>(std::exp2(power));
    const auto wide = static_cast<double>(x);
    BOOST_REQUIRE_EQUAL(eval::round_to(Format::f32, wide), wide);
    BOOST_REQUIRE_EQUAL(eval::round_to(Format::bf16, wide),
                        static_cast<double>(simd::scalar::widen_bf16(eval::to_bf16(x))));
    BOOST_REQUIRE_EQUAL(eval::round_to(Format::f16, wide),
                        static_cast<double>(simd::scalar::widen_f16(eval::to_f16(x))));
    const double tf32 = eval::round_to(Format::tf32, wide);
    BOOST_REQUIRE_LE(std::abs(tf32 - wide), 0x1p-11 * std::abs(wide) + 0x1p-137);
    BOOST_REQUIRE_EQUAL(eval::round_to(Format::tf32, tf32), tf32);
  }
  BOOST_CHECK_EQUAL(eval::round_to(Format::f16, 65519.0), 65504.0);
  BOOST_CHECK_EQUAL(eval::round_to(Format::f16, -65520.0),
                    -std::numeric_limits<double>::infinity());
  BOOST_CHECK(eval::fits(Format::bf16, Format::f32) && eval::fits(Format::f16, Format::tf32));
  BOOST_CHECK(!eval::fits(Format::bf16, Format::f16) && !eval::fits(Format::f32, Format::tf32));
}
