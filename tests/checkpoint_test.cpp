// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE checkpoint
#include "engine/checkpoint.hpp"

#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine/error.hpp"
#include "tests/folder.hpp"

namespace {

using namespace neoxref::engine;
namespace fs = std::filesystem;
using neoxref::tests::source_dir;
using neoxref::tests::TemporaryFolder;
using nlohmann::json;

void write_text(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

struct Tensor {
  std::vector<std::uint64_t> shape;
  std::string dtype = "F16";
  char fill = 0;
};
using Tensors = std::map<std::string, Tensor>;

void write_safetensors(const fs::path& path, const Tensors& tensors) {
  json header = json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    std::size_t size = tensor.dtype == "F32" ? 4 : tensor.dtype == "U8" ? 1 : 2;
    for (const auto length : tensor.shape) size *= length;
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + size}}};
    data += std::string(size, tensor.fill);
  }
  const std::string text = header.dump();
  const std::uint64_t length = text.size();
  std::string prefix(8, '\0');
  std::memcpy(prefix.data(), &length, 8);
  write_text(path, prefix + text + data);
}

const json small_config = {{"model_type", "gpt_neox"},      {"hidden_size", 8},
                           {"num_hidden_layers", 2},        {"num_attention_heads", 2},
                           {"intermediate_size", 12},       {"vocab_size", 5},
                           {"max_position_embeddings", 16}, {"rotary_pct", 0.5}};

/// The 28 tensors of small_config, written out by hand.
Tensors small_tensors() {
  Tensors tensors = {{"gpt_neox.embed_in.weight", {{5, 8}}},
                     {"gpt_neox.final_layer_norm.weight", {{8}}},
                     {"gpt_neox.final_layer_norm.bias", {{8}}},
                     {"embed_out.weight", {{5, 8}}}};
  for (const std::string layer : {"gpt_neox.layers.0.", "gpt_neox.layers.1."}) {
    tensors[layer + "input_layernorm.weight"] = {{8}};
    tensors[layer + "input_layernorm.bias"] = {{8}};
    tensors[layer + "post_attention_layernorm.weight"] = {{8}};
    tensors[layer + "post_attention_layernorm.bias"] = {{8}};
    tensors[layer + "attention.query_key_value.weight"] = {{24, 8}};
    tensors[layer + "attention.query_key_value.bias"] = {{24}};
    tensors[layer + "attention.dense.weight"] = {{8, 8}};
    tensors[layer + "attention.dense.bias"] = {{8}};
    tensors[layer + "mlp.dense_h_to_4h.weight"] = {{12, 8}};
    tensors[layer + "mlp.dense_h_to_4h.bias"] = {{12}};
    tensors[layer + "mlp.dense_4h_to_h.weight"] = {{8, 12}};
    tensors[layer + "mlp.dense_4h_to_h.bias"] = {{8}};
  }
  return tensors;
}

json with(json document, const std::string& field, const json& value) {
  document[field] = value;
  return document;
}

void write_model(const fs::path& folder, const json& config, const Tensors& tensors) {
  write_text(folder / "config.json", config.dump());
  write_safetensors(folder / "model.safetensors", tensors);
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

void check_open_refused(const fs::path& folder, const std::string& place, const std::string& part) {
  const std::string message = refusal([&] { Checkpoint::open(folder); });
  BOOST_CHECK_MESSAGE(message.starts_with(folder.native() + place),
                      "'" << message << "', wanted " << place);
  BOOST_CHECK_MESSAGE(message.find(part) != message.npos, "'" << message << "' lacks " << part);
}

/// Opens small_config's model after `change`, which must be refused.
void check_refused(const std::function<void(json&, Tensors&)>& change, const std::string& part,
                   const std::string& place = "/model.safetensors: tensor '") {
  const TemporaryFolder folder;
  json config = small_config;
  Tensors tensors = small_tensors();
  change(config, tensors);
  write_model(folder.path(), config, tensors);
  check_open_refused(folder.path(), place, part);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_whole_checkpoint_in_every_float_dtype) {
  for (const char* dtype : {"F32", "F16", "BF16"}) {
    const TemporaryFolder folder;
    Tensors tensors = small_tensors();
    for (auto& [name, tensor] : tensors) tensor.dtype = dtype;
    write_model(folder.path(), small_config, tensors);
    Checkpoint opened = Checkpoint::open(folder.path());
    const Checkpoint checkpoint = std::move(opened);
    BOOST_CHECK_EQUAL(checkpoint.config().rotary_dims, 2U);
    BOOST_CHECK_EQUAL(checkpoint.files().size(), 1U);
    for (const auto& [name, tensor] : tensors) {
      BOOST_CHECK(checkpoint.tensor(name).shape == tensor.shape);
      BOOST_CHECK_EQUAL(checkpoint.tensor(name).dtype, dtype);
    }
    BOOST_CHECK_EQUAL(&checkpoint.tensor(Weight::mlp_down_weight, 1),
                      &checkpoint.tensor("gpt_neox.layers.1.mlp.dense_4h_to_h.weight"));
    BOOST_CHECK(refusal([&] { checkpoint.tensor(Weight::qkv_bias, 2); }).find("layers.2") !=
                std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(required_tensors_are_the_list_written_by_hand) {
  const auto check = [](const json& document, Tensors wanted) {
    for (const TensorSpec& spec : required_tensors(parse_config(document.dump(), "x"))) {
      const auto found = wanted.find(spec.name);
      BOOST_REQUIRE_MESSAGE(found != wanted.end(), spec.name);
      BOOST_CHECK(found->second.shape == spec.shape);
      wanted.erase(found);
    }
    BOOST_CHECK(wanted.empty());
  };
  Tensors tensors = small_tensors();
  check(small_config, tensors);
  for (const char* layer : {"gpt_neox.layers.0.", "gpt_neox.layers.1."}) {
    tensors.erase(std::string(layer) + "attention.query_key_value.bias");
    tensors.erase(std::string(layer) + "attention.dense.bias");
  }
  check(with(small_config, "attention_bias", false), tensors);
  tensors.erase("embed_out.weight");
  check(with(with(small_config, "attention_bias", false), "tie_word_embeddings", true), tensors);
}

BOOST_AUTO_TEST_CASE(the_embedded_default_opens_and_is_finite) {
  const Checkpoint checkpoint = Checkpoint::open(source_dir() / "datasets" / "mini");
  const auto specs = required_tensors(checkpoint.config());
  BOOST_CHECK_EQUAL(specs.size(), 76U);
  for (const TensorSpec& spec : specs) check_finite(checkpoint.tensor(spec.name));
}

BOOST_AUTO_TEST_CASE(a_foreign_checkpoint) {
  const fs::path data = source_dir() / ".." / "shared" / "data" / "models" / "tiny_gptneox";
  if (!fs::exists(data)) {
    std::cout << "SKIP a_foreign_checkpoint: the optional data is not there\n";
    return;
  }
  const TemporaryFolder folder;
  fs::copy(data / "tiny_gptneox_config.json", folder.path() / "config.json");
  // A link, as in the Hub cache.
  fs::create_symlink(fs::canonical(data / "tiny_gptneox.safetensors"),
                     folder.path() / "model.safetensors");
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  BOOST_CHECK(weight_dtype(checkpoint.tensor(Weight::embed_in)) == neoxref::simd::Dtype::f32);
  BOOST_CHECK(checkpoint.tensor(Weight::mlp_up_weight, 1).shape ==
              (std::vector<std::uint64_t>{24, 16}));
}

BOOST_AUTO_TEST_CASE(tensors_that_do_not_fit_the_config) {
  const std::string dense = "gpt_neox.layers.1.attention.dense.weight";
  check_refused([&](json&, Tensors& t) { t.erase(dense); }, "is missing (expected [8, 8])",
                ": tensor '" + dense);
  check_refused(
      [&](json&, Tensors& t) {
        t[dense].shape = {8, 9};
      },
      "(expected [8, 8], found [8, 9])");
  check_refused([&](json&, Tensors& t) { t[dense].shape = {64}; }, "found [64]");
  check_refused(
      [&](json&, Tensors& t) {
        t[dense] = {{8, 8}, "I16"};
      },
      "expected F32, F16 or BF16, found I16");
  check_refused([](json&, Tensors& t) { t["extra.weight"] = {{1}}; }, "is not a tensor of");
  check_refused([](json& c, Tensors&) { c["num_hidden_layers"] = 1; }, "'gpt_neox.layers.1.");
  check_refused([](json& c, Tensors&) { c["num_hidden_layers"] = 3; }, "layers.2.", ": tensor '");
  check_refused([](json& c, Tensors&) { c["attention_bias"] = false; }, "dense.bias");
  check_refused([](json& c, Tensors&) { c["intermediate_size"] = 16; }, "expected [16");
  check_refused([](json& c, Tensors&) { c["vocab_size"] = 6; }, "expected [6, 8]");
  check_refused([](json&, Tensors& t) { t.erase("embed_out.weight"); }, "is missing",
                ": tensor 'embed_out.weight'");
  check_refused([](json&, Tensors& t) { t["lm_head.weight"] = {{5, 8}}; }, "is the same weight");
}

BOOST_AUTO_TEST_CASE(buffers_of_old_checkpoints_are_ignored) {
  const TemporaryFolder folder;
  Tensors tensors = small_tensors();
  for (const std::string layer : {"gpt_neox.layers.0.", "gpt_neox.layers.1."}) {
    tensors[layer + "attention.bias"] = {{1, 1, 16, 16}, "U8"};
    tensors[layer + "attention.masked_bias"] = {{}, "F32"};
    tensors[layer + "attention.rotary_emb.inv_freq"] = {{1}, "F32"};
  }
  tensors["gpt_neox.rotary_emb.inv_freq"] = {{1}, "F32"};
  write_model(folder.path(), small_config, tensors);
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  BOOST_CHECK(!refusal([&] { checkpoint.tensor("gpt_neox.layers.0.attention.bias"); }).empty());
  for (const char* name :
       {"gpt_neox.layers.2.attention.bias", "gpt_neox.layers.00.attention.bias",
        "gpt_neox.layers..attention.bias", "gpt_neox.layers.-1.attention.bias",
        "gpt_neox.layers.99999999999999999999.attention.bias", "gpt_neox.layers.0",
        "gpt_neox.layers.0.attention.bias.bias", "attention.bias", ""}) {
    check_refused([&](json&, Tensors& t) { t[name] = {{1}}; }, "is not a tensor of");
  }
}

BOOST_AUTO_TEST_CASE(tied_embeddings) {
  const json tied = with(small_config, "tie_word_embeddings", true);
  Tensors tensors = small_tensors();
  {
    const TemporaryFolder folder;
    write_model(folder.path(), tied, tensors);
    const Checkpoint both = Checkpoint::open(folder.path());
    BOOST_CHECK_EQUAL(&both.tensor(Weight::embed_out), &both.tensor(Weight::embed_in));
  }
  tensors.erase("embed_out.weight");
  const TemporaryFolder folder;
  write_model(folder.path(), tied, tensors);
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  BOOST_CHECK_EQUAL(&checkpoint.tensor(Weight::embed_out), &checkpoint.tensor(Weight::embed_in));

  const auto tie = [](json& c) { c["tie_word_embeddings"] = true; };
  check_refused([&](json& c, Tensors& t) { tie(c), t["embed_out.weight"].fill = 1; }, "differs");
  check_refused([&](json& c, Tensors& t) { tie(c), t["embed_out.weight"].dtype = "BF16"; },
                "differs");
  check_refused(
      [&](json& c, Tensors& t) {
        tie(c), t["embed_out.weight"].shape = {8, 5};
      },
      "contradicts");
}

BOOST_AUTO_TEST_CASE(the_later_name_of_embed_out) {
  const TemporaryFolder folder;
  Tensors tensors = small_tensors();
  tensors.erase("embed_out.weight");
  tensors["lm_head.weight"] = {{5, 8}};
  write_model(folder.path(), small_config, tensors);
  BOOST_CHECK_EQUAL(Checkpoint::open(folder.path()).tensor(Weight::embed_out).name,
                    "lm_head.weight");
}

BOOST_AUTO_TEST_CASE(shards) {
  const TemporaryFolder folder;
  const fs::path index = folder.path() / "model.safetensors.index.json";
  const std::string names[] = {"model-00001-of-00002.safetensors",
                               "model-00002-of-00002.safetensors"};
  Tensors parts[2];
  json map = json::object();
  for (const auto& [name, tensor] : small_tensors()) {
    const std::size_t part = map.size() % 2;
    parts[part][name] = tensor;
    map[name] = names[part];
  }
  const auto write_all = [&](const json& weight_map) {
    write_text(folder.path() / "config.json", small_config.dump());
    write_safetensors(folder.path() / names[0], parts[0]);
    write_safetensors(folder.path() / names[1], parts[1]);
    write_text(index, json{{"metadata", {{"total_size", 1}}}, {"weight_map", weight_map}}.dump());
  };
  const auto check_index_refused = [&](const std::string& part) {
    check_open_refused(folder.path(), "/model.safetensors.index.json: ", part);
  };
  write_all(map);
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  BOOST_CHECK_EQUAL(checkpoint.files().size(), 2U);
  for (const auto& [name, shard] : map.items()) {
    BOOST_CHECK_EQUAL(checkpoint.tensor(name).file->path().filename(), shard.get<std::string>());
  }

  const std::string moved = parts[0].begin()->first;
  write_all(with(map, moved, names[1]));
  check_open_refused(folder.path(), "/" + names[0], "does not look for this tensor");
  write_all(with(map, "gpt_neox.absent", names[1]));
  check_index_refused("the shard lacks this tensor (expected it in " + names[1]);
  for (const char* escape : {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "",
                             ".safetensors", "a\\b.safetensors", "model.bin"}) {
    write_all(with(map, moved, escape));
    check_index_refused("does not name a shard");
  }
  write_all(with(map, moved, std::string("a\0.safetensors", 14)));
  check_index_refused("does not name a shard");
  write_all(with(map, moved, 1));
  check_index_refused("the name of a shard");
  write_all(with(map, moved, "model-00003-of-00003.safetensors"));
  check_open_refused(folder.path(), "/model-0000", "");
  write_all(json::array());
  check_index_refused("an object of tensor names");
  write_text(index, R"({"weight_map":{},"extra":1})");
  check_index_refused("not a field of an index");
  write_text(index, R"({"weight_map":{"a":"x.safetensors","a":"y.safetensors"}})");
  check_index_refused("appears twice");
  write_text(index, R"({"weight_map":{}})");
  check_open_refused(folder.path(), ": tensor 'gpt_neox.embed_in.weight'", "is missing");

  write_all(map);
  fs::remove(folder.path() / names[1]);
  check_open_refused(folder.path(), "/" + names[1], "No such file");
  parts[1][moved] = parts[0][moved];
  write_all(map);
  check_open_refused(folder.path(), "/" + names[1], "does not look for this tensor");
}

BOOST_AUTO_TEST_CASE(folders_that_are_no_checkpoint) {
  const TemporaryFolder folder;
  check_open_refused(folder.path() / "absent", "", "found nothing");
  check_open_refused(folder.path(), "/config.json", "No such file");
  write_text(folder.path() / "config.json", small_config.dump());
  check_open_refused(folder.path() / "config.json", "", "found a file");
  check_open_refused(folder.path(), "", "model.safetensors or model.safetensors.index.json");
  write_text(folder.path() / "pytorch_model.bin", "x");
  check_open_refused(folder.path(), "", "made in this folder by: python3 -c 'import glob");
  check_open_refused(folder.path(), "", "\"model.safetensors\", {\"format\": \"pt\"})')");
  fs::create_symlink("nowhere", folder.path() / "model.safetensors");
  check_open_refused(folder.path(), "/model.safetensors", "No such file");
}

namespace {

/// Every position of a tensor longer than a block and a tail, at odd addresses, with one element
/// bad.
template <class Bits>
void check_every_position(const std::string& dtype, const std::vector<Bits>& fine,
                          const std::vector<std::pair<Bits, const char*>>& bad) {
  constexpr std::size_t elements = 4 * 4096 / sizeof(Bits) / 2 + 13;
  std::vector<std::byte> storage(elements * sizeof(Bits) + 1);
  TensorView tensor;
  tensor.name = "w";
  tensor.dtype = dtype;
  tensor.shape = {elements};
  tensor.bytes = std::span(storage).subspan(1);
  const auto set = [&](std::size_t index, Bits bits) {
    std::memcpy(storage.data() + 1 + index * sizeof(Bits), &bits, sizeof(Bits));
  };
  for (std::size_t i = 0; i < elements; ++i) set(i, fine[i % fine.size()]);
  BOOST_CHECK_NO_THROW(check_finite(tensor));
  for (std::size_t i = 0; i < elements; i += i < 20 || i + 40 > elements ? 1 : 37) {
    const auto& [bits, name] = bad[i % bad.size()];
    set(i, bits);
    set(elements - 1, bad.front().first);
    const bool last = i == elements - 1;
    const std::string found = last ? bad.front().second : name;
    BOOST_REQUIRE_EQUAL(refusal([&] { check_finite(tensor); }),
                        "tensor 'w': element " + std::to_string(i) +
                            " is not finite (expected finite weights, found " + found + ")");
    set(i, fine[i % fine.size()]);
    set(elements - 1, fine[(elements - 1) % fine.size()]);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(values_that_are_not_finite) {
  check_every_position<std::uint32_t>(
      "F32", {0, 0x80000000, 0x7f7fffff, 0xff7fffff, 1, 0x3f800000, 0x007fffff},
      {{0x7f800000, "infinity"},
       {0xff800000, "-infinity"},
       {0x7f800001, "NaN"},
       {0xffffffff, "NaN"},
       {0x7fc00000, "NaN"}});
  check_every_position<std::uint16_t>(
      "F16", {0, 0x8000, 0x7bff, 0xfbff, 1, 0x3c00, 0x03ff},
      {{0x7c00, "infinity"}, {0xfc00, "-infinity"}, {0x7c01, "NaN"}, {0xffff, "NaN"}});
  check_every_position<std::uint16_t>(
      "BF16", {0, 0x8000, 0x7f7f, 0xff7f, 1, 0x3f80, 0x007f, 0x7c00},
      {{0x7f80, "infinity"}, {0xff80, "-infinity"}, {0x7f81, "NaN"}, {0xffff, "NaN"}});
  TensorView tensor;
  tensor.name = "w";
  tensor.dtype = "F64";
  BOOST_CHECK(refusal([&] { check_finite(tensor); }).find("found F64") != std::string::npos);
  tensor.dtype = "F32";
  BOOST_CHECK_NO_THROW(check_finite(tensor));
}

BOOST_AUTO_TEST_CASE(every_sixteen_bit_pattern) {
  for (const char* dtype : {"F16", "BF16"}) {
    const std::uint32_t exponent = std::string(dtype) == "F16" ? 0x7c00 : 0x7f80;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      // A block of 4 KiB and one element: the pattern is once in each.
      std::vector<std::uint16_t> values(2049, 0);
      values[bits % 2 == 0 ? 1000 : 2048] = static_cast<std::uint16_t>(bits);
      TensorView tensor;
      tensor.dtype = dtype;
      tensor.bytes = std::as_bytes(std::span(values));
      const bool finite = (bits & exponent) != exponent;
      BOOST_REQUIRE_EQUAL(refusal([&] { check_finite(tensor); }).empty(), finite);
    }
  }
}
