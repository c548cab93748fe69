// SPDX-License-Identifier: Apache-2.0
#include "tests/checkpoints.hpp"

#include <bit>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace neoxref::tests {

using Json = nlohmann::ordered_json;

std::uint64_t Numbers::next() {
  // splitmix64
  std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

float Numbers::symmetric() {
  const auto bits = static_cast<std::int32_t>(next() >> 40) - (1 << 23);
  return (static_cast<float>(bits) + 0.5f) * 0x1p-23f;
}

namespace {

/// Eight significant bits, and exponents that float16 has: exact in all three dtypes.
float coarse(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x) & 0xffff0000u;
  const float cut = std::bit_cast<float>(bits);
  return cut < 0x1p-14f && cut > -0x1p-14f ? 0.0f : cut;
}

/// Exact for the values that coarse() gives.
std::uint16_t narrow_f16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t exponent = (bits >> 23) & 0xffu;
  if (exponent == 0) return static_cast<std::uint16_t>(sign);
  if (exponent < 113 || exponent > 142) throw std::runtime_error("not a float16 value");
  return static_cast<std::uint16_t>(sign | ((exponent - 112) << 10) | ((bits >> 13) & 0x3ffu));
}

std::string encode(const std::vector<float>& values, simd::Dtype dtype) {
  std::string bytes;
  for (const float value : values) {
    if (dtype == simd::Dtype::f32) {
      char raw[4];
      std::memcpy(raw, &value, 4);
      bytes.append(raw, 4);
    } else {
      const std::uint16_t half =
          dtype == simd::Dtype::f16
              ? narrow_f16(value)
              : static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
      bytes += static_cast<char>(half & 0xff);
      bytes += static_cast<char>(half >> 8);
    }
  }
  return bytes;
}

void add_tensor(Json& header, std::string& data, const engine::TensorSpec& spec, const char* dtype,
                const std::string& bytes) {
  header[spec.name] = {{"dtype", dtype},
                       {"shape", spec.shape},
                       {"data_offsets", {data.size(), data.size() + bytes.size()}}};
  data += bytes;
}

void write_safetensors(const std::filesystem::path& path, const Json& header,
                       const std::string& data) {
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), 8);
  file << text << data;
  if (!file.flush()) throw std::runtime_error("checkpoint not written");
}

std::vector<float> values_of(const engine::TensorSpec& spec, const Shape& shape,
                             std::size_t number) {
  std::size_t count = 1;
  for (const std::uint64_t extent : spec.shape) count *= extent;
  Numbers numbers(shape.seed * 1000003 + number);
  const bool vector = spec.shape.size() == 1;
  const bool gamma = spec.name.find("norm.weight") != std::string::npos;
  // Matrices are scaled so that a product has about the size of its input.
  float scale = 0.25f;
  if (!vector) {
    scale = 2.0f;
    for (std::size_t n = 4; n < spec.shape[1]; n *= 4) scale *= 0.5f;
  }
  std::vector<float> values(count);
  for (float& value : values) {
    value = coarse((gamma ? 1.0f : 0.0f) + scale * numbers.symmetric());
  }
  if (gamma) values[number % count] = 4.0f;
  return values;
}

}  // namespace

void write_checkpoint(const std::filesystem::path& folder, const Shape& shape, const Edit& edit) {
  const Json config{{"model_type", "gpt_neox"},
                    {"hidden_size", shape.hidden()},
                    {"num_hidden_layers", shape.layers},
                    {"num_attention_heads", shape.heads},
                    {"intermediate_size", shape.intermediate},
                    {"vocab_size", shape.vocab},
                    {"max_position_embeddings", shape.max_positions},
                    {"rotary_pct", shape.rotary_pct},
                    {"rotary_emb_base", shape.rotary_base},
                    {"layer_norm_eps", 1e-5},
                    {"hidden_act", shape.activation},
                    {"use_parallel_residual", shape.parallel_residual},
                    {"attention_bias", shape.attention_bias},
                    {"tie_word_embeddings", shape.tied},
                    {"bos_token_id", 0},
                    {"eos_token_id", 0}};
  std::ofstream(folder / "config.json") << config.dump(1);
  static constexpr const char* names[] = {"F32", "F16", "BF16"};
  Json header = Json::object();
  std::string data;
  std::size_t number = 0;
  for (const engine::TensorSpec& spec :
       engine::required_tensors(engine::read_config(folder / "config.json"))) {
    std::vector<float> values = values_of(spec, shape, number++);
    if (edit) edit(spec.name, values);
    add_tensor(header, data, spec, names[static_cast<std::size_t>(shape.dtype)],
               encode(values, shape.dtype));
  }
  write_safetensors(folder / "model.safetensors", header, data);
}

void write_widened(const std::filesystem::path& from, const std::filesystem::path& to) {
  const engine::Checkpoint checkpoint = engine::Checkpoint::open(from);
  std::filesystem::copy_file(from / "config.json", to / "config.json");
  const simd::Kernels& kernels = simd::kernels(simd::Isa::scalar);
  Json header = Json::object();
  std::string data;
  for (const engine::TensorSpec& spec : engine::required_tensors(checkpoint.config())) {
    const engine::TensorView& tensor = checkpoint.tensor(spec.name);
    std::vector<float> values(tensor.elements());
    kernels.widen(engine::weight_dtype(tensor), tensor.bytes.data(), values.data(), values.size());
    add_tensor(header, data, spec, "F32", encode(values, simd::Dtype::f32));
  }
  write_safetensors(to / "model.safetensors", header, data);
}

std::vector<std::int32_t> random_tokens(std::size_t n, std::size_t vocab, std::uint64_t seed) {
  Numbers numbers(seed);
  std::vector<std::int32_t> tokens(n);
  for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(numbers.below(vocab));
  return tokens;
}

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (a != a && b != b);
}

}  // namespace neoxref::tests
