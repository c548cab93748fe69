// SPDX-License-Identifier: Apache-2.0
// Folders of goldens: read as they were made, and refused when they were changed, damaged, or do not
// belong to the model.
#define BOOST_TEST_MODULE golden_files
#include <boost/test/unit_test.hpp>
#include <nlohmann/json.hpp>

#include "tests/goldens_subject.hpp"

using namespace neoxref;
using namespace neoxref::tests;

namespace {

/// The file with its seal made anew, as someone would who changes it on purpose.
void seal_again(const fs::path& path, const nlohmann::ordered_json& document) {
  std::string text = "{";
  for (const auto& [name, value] : document.items()) {
    if (name == "seal") continue;
    text += "\n  \"" + name + "\": " + value.dump() + ",";
  }
  const std::string seal = eval::bytes_digest(std::as_bytes(std::span(text)));
  write(path, text + "\n  \"seal\": \"" + seal + "\"\n}\n");
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_golden_is_read_as_it_was_made) {
  const Subject subject;
  const tests::TemporaryFolder place;
  for (const bool pressed : {false, true}) {
    const fs::path folder = place.path() / "golden";
    Model model = subject.load();
    std::optional<engine::Press> press;
    if (pressed) press = half(8);
    const auto recipe = eval::make_recipe(model, "subject", subject.tokens, press);
    GoldenOptions options;
    options.tool = "test 1";
    options.folder = folder;
    options.stored = {"all", "*.attention.scores", "rotary.sin"};
    const Golden made = eval::make_golden(model, recipe, options);
    const Golden golden = Golden::read(folder);
    BOOST_CHECK(same_digests(golden.tensors, made.tensors));
    BOOST_CHECK_EQUAL(golden.text(), read(folder / "golden.json"));
    BOOST_CHECK_EQUAL(golden.tool, "test 1");
    BOOST_CHECK(golden.recipe.tokens == subject.tokens);
    BOOST_CHECK_EQUAL(golden.recipe.press.has_value(), pressed);
    if (pressed) BOOST_CHECK_EQUAL(golden.recipe.press->text(), press->text());
    BOOST_CHECK(eval::verify_golden(model, golden).same());
    // The same recipe without storing anything: the same digests, in front.
    options.stored.clear();
    const Golden bare = eval::make_golden(model, recipe, options);
    BOOST_CHECK(bare.file == nullptr);
    BOOST_CHECK(!fs::exists(folder / "tensors.safetensors"));
    BOOST_REQUIRE_LT(bare.tensors.size(), golden.tensors.size());
    BOOST_CHECK(std::equal(
        bare.tensors.begin(), bare.tensors.end(), golden.tensors.begin(),
        [](const auto& a, const auto& b) { return a.name == b.name && a.digest == b.digest; }));
    BOOST_CHECK_EQUAL(std::distance(fs::directory_iterator(place.path()), {}), 1);
  }
}

BOOST_AUTO_TEST_CASE(changed_files_are_refused) {
  const Subject subject;
  const tests::TemporaryFolder place;
  const fs::path folder = place.path() / "golden";
  GoldenOptions options;
  options.folder = folder;
  options.stored = {"layers"};
  subject.make(options);
  const fs::path path = folder / "golden.json";
  const std::string good = read(path);
  const auto document = nlohmann::ordered_json::parse(good);
  const auto refusal = [&] { return message([&] { Golden::read(folder); }); };
  // Any byte: the seal, or what it guards.
  for (std::size_t at = 0; at < good.size(); at += 97) {
    std::string bad = good;
    bad[at] = bad[at] == 'a' ? 'b' : 'a';
    write(path, bad);
    BOOST_CHECK_MESSAGE(refusal() != "no error", "byte " << at);
  }
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, good.size() / 2, good.size() - 3}) {
    write(path, good.substr(0, size));
    BOOST_CHECK(refusal() != "no error");
  }
  // Each field away, and each of another type, with a fitting seal.
  for (const auto& [name, value] : document.items()) {
    if (name == "seal") continue;
    auto without = document;
    without.erase(name);
    seal_again(path, without);
    BOOST_CHECK_MESSAGE(refusal().find(name) != std::string::npos, name << ": " << refusal());
    auto other = document;
    other[name] = {{"x", 1}};
    seal_again(path, other);
    BOOST_CHECK_MESSAGE(refusal().find(name) != std::string::npos, name << ": " << refusal());
  }
  const auto changed = [&](const std::string& pointer, const nlohmann::json& value) {
    auto other = document;
    other[nlohmann::ordered_json::json_pointer(pointer)] = value;
    seal_again(path, other);
    return refusal();
  };
  const auto says = [](const std::string& text, const std::string& part) {
    BOOST_CHECK_MESSAGE(text.find(part) != std::string::npos, text);
  };
  says(changed("/contract", "NX-F32/2"), "expected NX-F32/1, found NX-F32/2");
  says(changed("/format", "neoxref-golden/9"), "neoxref-golden/9");
  says(changed("/unknown", 1), "unknown");
  says(changed("/model/sha256", "abc"), "64 hexadecimal digits");
  says(changed("/model/config/hidden_size", 33), "hidden_size");
  says(changed("/model/config/num_hidden_layers", 2), "digests");
  says(changed("/model/config/layer_norm_eps", "x"), "layer_norm_eps");
  says(changed("/model/extra", 1), "extra");
  says(changed("/tokens/3", 61), "vocabulary");
  says(changed("/tokens/3", -1), "tokens");
  says(changed("/tokens", nlohmann::json::array()), "tokens");
  says(changed("/prompt_tokens", 40), "prompt_tokens");
  says(changed("/press", nlohmann::json::object()), "press");
  says(changed("/leaves", "all"), "another number of leaves");
  says(changed("/digests/0/name", "x"), "not in the order of a run");
  says(changed("/digests/0/shape/1", 41), "another type or shape");
  says(changed("/digests/0/dtype", "F16"), "another type or shape");
  says(changed("/digests/0/digest", "00"), "32 hexadecimal digits");
  says(changed("/digests/0/leaves", "0123456789abcdef"), "another number of leaves");
  says(changed("/digests/11/leaves", "0123"), "16 hexadecimal digits");
  says(changed("/stored/0", "gpt_neox.embed_in"), "missing");
  says(changed("/stored", nlohmann::json::array({"embed_out"})), "other tensors");
  // A digest that was changed on purpose does not fit the run.
  Model model = subject.load();
  changed("/digests/5/digest", std::string(32, '0'));
  const auto verification = eval::verify_golden(model, Golden::read(folder));
  BOOST_REQUIRE_EQUAL(verification.differences.size(), 1u);
  BOOST_CHECK_EQUAL(verification.differences[0].name, document["digests"][5]["name"]);
  // So does a token.
  auto other = document;
  other["tokens"][17] = (document["tokens"][17].get<int>() + 1) % 61;
  seal_again(path, other);
  const auto token = eval::verify_golden(model, Golden::read(folder));
  BOOST_REQUIRE(!token.same());
  BOOST_CHECK_EQUAL(token.differences[0].name, "gpt_neox.embed_in");
  BOOST_CHECK(!token.differences[0].row);
  BOOST_REQUIRE(token.token_behind);
  BOOST_CHECK_EQUAL(*token.token_behind, 17u);

  // The tensors: cut short, away, or a bit turned.
  write(path, good);
  const fs::path tensors = folder / "tensors.safetensors";
  const std::string values = read(tensors);
  write(tensors, values.substr(0, values.size() - 4));
  BOOST_CHECK(refusal().find("tensors.safetensors") != std::string::npos);
  std::string turned = values;
  turned[turned.size() - 5] = static_cast<char>(turned[turned.size() - 5] ^ 1);
  write(tensors, turned);
  says(message([&] { eval::verify_golden(model, Golden::read(folder)); }), "the file is damaged");
  says(message([&] {
         eval::golden_source(model, Golden::read(folder))->get({engine::Tensor::embed_out});
       }),
       "the file is damaged");
  fs::remove(tensors);
  BOOST_CHECK(refusal().find("tensors.safetensors") != std::string::npos);
  fs::remove(path);
  says(refusal(), "is no golden");
}

BOOST_AUTO_TEST_CASE(another_model_is_refused_with_both_shown) {
  const Subject subject;
  const Subject other([](Shape& shape) { shape.seed = 2; });
  const Golden golden = subject.make();
  Model model = other.load();
  for (const auto& text : {message([&] { eval::verify_golden(model, golden); }),
                           message([&] { eval::golden_source(model, golden); })}) {
    BOOST_CHECK_MESSAGE(text.find(golden.recipe.sha256) != std::string::npos, text);
    BOOST_CHECK_MESSAGE(
        text.find(eval::make_recipe(model, "other", {1}).sha256) != std::string::npos, text);
  }
  // The same weights under another config.
  const fs::path config = subject.folder.path() / "config.json";
  const std::string text = read(config);
  auto document = nlohmann::json::parse(text);
  document["layer_norm_eps"] = 1e-6;
  write(config, document.dump());
  Model changed = subject.load();
  BOOST_CHECK(message([&] {
                eval::verify_golden(changed, golden);
              }).find("layer_norm_eps (expected 1e-05, found 1e-06)") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_a_golden_is_refused) {
  const Subject subject;
  Model model = subject.load();
  const auto recipe = [&](std::vector<std::int32_t> tokens,
                          const std::optional<engine::Press>& press = {}, std::size_t prompt = 0) {
    return message([&] { eval::make_recipe(model, "subject", std::move(tokens), press, prompt); });
  };
  BOOST_CHECK(recipe({}).find("tokens: none") == 0);
  BOOST_CHECK(recipe({1, 61}).find("token 1 is outside the vocabulary") != std::string::npos);
  BOOST_CHECK(recipe(std::vector<std::int32_t>(129, 1)).find("context") != std::string::npos);
  engine::Press press = half(8);
  BOOST_CHECK(recipe({1, 2}, press, 1).find("prompt_tokens") == 0);
  press.trigger = engine::Trigger::after_prompt;
  BOOST_CHECK(recipe({1, 2}, press, 0).find("prompt_tokens") == 0);
  BOOST_CHECK(recipe({1, 2}, press, 2).find("prompt_tokens") == 0);
  BOOST_CHECK_EQUAL(recipe({1, 2}, press, 1), "no error");

  // A folder with something else stays as it is; so does a golden whose run failed.
  const tests::TemporaryFolder place;
  write(place.path() / "notes.txt", "mine");
  GoldenOptions options;
  options.folder = place.path();
  BOOST_CHECK(message([&] { subject.make(options); }).find("notes.txt") != std::string::npos);
  BOOST_CHECK_EQUAL(std::distance(fs::directory_iterator(place.path()), {}), 1);
  options.folder = place.path() / "golden/";
  subject.make(options);
  const std::string before = read(place.path() / "golden/golden.json");
  options.stored = {"nonsense"};
  BOOST_CHECK(message([&] { subject.make(options); }).find("nonsense") != std::string::npos);
  BOOST_CHECK_EQUAL(read(place.path() / "golden/golden.json"), before);
  options.folder.clear();
  options.stored = {"all"};
  BOOST_CHECK(message([&] { subject.make(options); }).find("a folder for the golden") !=
              std::string::npos);
  BOOST_CHECK_EQUAL(std::distance(fs::directory_iterator(place.path()), {}), 2);
}
