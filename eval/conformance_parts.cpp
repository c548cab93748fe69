// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "engine/model.hpp"
#include "eval/conformance_cases.hpp"
#include "eval/perplexity.hpp"
#include "simd/kernels.hpp"
#include "simd/scalar/ieee.hpp"

namespace neoxref::eval::conformance {
namespace {

const simd::Kernels& scalar() {
  return simd::kernels(simd::Isa::scalar);
}

float dot(std::span<const float> a, std::span<const float> b) {
  return simd::scalar::dot(
      a.size(), [&](std::size_t i) { return a[i]; }, [&](std::size_t i) { return b[i]; });
}

void add(ConformanceKit& kit, const std::string& operation, const std::string& name, Json input,
         Json expected) {
  kit.push_back(
      {operation + "/" + name, "operation", operation, std::move(input), std::move(expected)});
}

[[gnu::noinline]] void add_linear(ConformanceKit& kit) {
  Draws draws(20);
  for (const auto& [inputs, outputs, biased] :
       {std::tuple<std::size_t, std::size_t, bool>{7, 3, true}, {70, 5, true}, {130, 2, false}}) {
    const auto x = draws.symmetric(inputs);
    const auto weight = draws.symmetric(inputs * outputs);
    const auto bias = draws.symmetric(biased ? outputs : 0);
    std::vector<float> y;
    for (std::size_t n = 0; n < outputs; ++n) {
      y.push_back(dot(x, std::span(weight).subspan(n * inputs, inputs)));
      if (biased) y.back() = y.back() + bias[n];
    }
    Json input = {{"x", words(x)}, {"weight", rows(weight, inputs)}};
    if (biased) input["bias"] = words(bias);
    add(kit, "linear", std::to_string(inputs) + (biased ? "" : "-without-bias"), std::move(input),
        {{"y", words(y)}});
  }
}

void add_norms(ConformanceKit& kit) {
  Draws draws(21);
  const auto add_norm = [&](const std::string& name, const std::vector<float>& x, float eps) {
    const auto gamma = draws.symmetric(x.size(), 2.0f);
    const auto beta = draws.symmetric(x.size());
    std::vector<float> y(x.size());
    const bool finite = scalar().layer_norm(x.data(), x.size(), gamma.data(), beta.data(), eps,
                                            y.data(), simd::dot_block);
    Json input = {
        {"x", words(x)}, {"gamma", words(gamma)}, {"beta", words(beta)}, {"eps", word(eps)}};
    Json expected = {{"finite", finite}};
    if (finite) expected["y"] = words(y);
    add(kit, "layer_norm", name, std::move(input), std::move(expected));
  };
  for (const std::size_t n : std::initializer_list<std::size_t>{1, 5, 16, 17, 72, 200}) {
    add_norm(std::to_string(n), draws.symmetric(n, 4.0f), 1e-5f);
  }
  auto outlier = draws.symmetric(64);
  outlier[11] = 300.0f;
  add_norm("outlier", outlier, 1e-5f);
  auto shifted = draws.symmetric(50, 0.01f);
  for (float& each : shifted) each += 1000.0f;
  add_norm("shifted", shifted, 1e-12f);
  add_norm("constant", std::vector<float>(20, 0.7f), 1e-5f);
  auto broken = draws.symmetric(20);
  broken[3] = std::numeric_limits<float>::infinity();
  add_norm("infinite", broken, 1e-5f);
  broken[3] = 0x1.8p127f;  // its square fits in binary64
  add_norm("large", broken, 1e-5f);
  Json keys = Json::array();
  std::vector<float> norms;
  for (const std::size_t width : std::initializer_list<std::size_t>{4, 24, 64, 80}) {
    const auto key = draws.symmetric(width);
    keys.push_back(words(key));
    norms.push_back(simd::scalar::square_root(dot(key, key)));
  }
  add(kit, "key_norm", "widths", {{"keys", keys}}, {{"norms", words(norms)}});
}

[[gnu::noinline]] void add_residuals(ConformanceKit& kit) {
  Draws draws(22);
  const auto attn = draws.wide(48, 120, 130);
  const auto mlp = draws.wide(48, 120, 130);
  const auto x = draws.wide(48, 120, 130);
  std::vector<float> parallel, sequential;
  for (std::size_t i = 0; i < x.size(); ++i) {
    parallel.push_back((attn[i] + mlp[i]) + x[i]);
    const float h = attn[i] + x[i];
    sequential.push_back(mlp[i] + h);
  }
  const Json input = {{"attn", words(attn)}, {"mlp", words(mlp)}, {"x", words(x)}};
  add(kit, "residual_parallel", "mixed", input, {{"y", words(parallel)}});
  add(kit, "residual_sequential", "mixed", input, {{"y", words(sequential)}});
}

[[gnu::noinline]] void add_rotary(ConformanceKit& kit) {
  struct Size {
    std::size_t head_dim;
    const char* text;
    double pct;
  };
  for (const auto& [head_dim, text, pct] :
       {Size{64, "0.25", 0.25}, Size{80, "0.25", 0.25}, Size{100, "0.29", 0.29},
        Size{40, "0.3", 0.3}, Size{20, "1", 1.0}, Size{16, "0", 0.0}}) {
    const auto dims = static_cast<std::uint64_t>(static_cast<double>(head_dim) * pct);
    add(kit, "rotary_dims", std::to_string(head_dim) + "-" + text,
        {{"head_dim", head_dim}, {"rotary_pct", text}}, {{"rotary_dims", dims}});
  }
  Draws draws(23);
  for (const auto& [base, dims, head_dim] :
       {std::tuple<float, std::size_t, std::size_t>{10000.0f, 16, 64},
        {10000.0f, 24, 24},
        {500.0f, 10, 20},
        {1000000.0f, 32, 40}}) {
    engine::Config config;
    config.rotary_base = base;
    config.rotary_dims = dims;
    config.head_dim = head_dim;
    config.max_positions = 4096;
    const engine::RotaryTable table(config, scalar());
    const std::size_t half = table.half;
    std::vector<float> frequencies, cosines, sines;
    Json positions = Json::array();
    for (std::size_t i = 0; i < half; ++i) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(dims);
      frequencies.push_back(1.0f / simd::pow(base, exponent));
    }
    for (const std::size_t position :
         std::initializer_list<std::size_t>{0, 1, 2, 77, 1023, 2047, 4095}) {
      positions.push_back(position);
      for (std::size_t i = 0; i < half; ++i) {
        cosines.push_back(table.cos.data()[position * half + i]);
        sines.push_back(table.sin.data()[position * half + i]);
      }
    }
    const std::string name = std::to_string(static_cast<int>(base)) + "-" + std::to_string(dims);
    add(kit, "rotary_table", name,
        {{"base", word(base)}, {"rotary_dims", dims}, {"positions", positions}},
        {{"inv_freq", words(frequencies)},
         {"cos", rows(cosines, half)},
         {"sin", rows(sines, half)}});
    for (const std::size_t position : std::initializer_list<std::size_t>{0, 3, 2047}) {
      const auto x = draws.symmetric(head_dim);
      auto y = x;
      scalar().rotate(y.data(), table.cos.data() + position * half,
                      table.sin.data() + position * half, dims);
      add(kit, "rotate", name + "-at-" + std::to_string(position),
          {{"x", words(x)}, {"base", word(base)}, {"rotary_dims", dims}, {"position", position}},
          {{"y", words(y)}});
    }
  }
}

void add_attention(ConformanceKit& kit) {
  Draws draws(24);
  for (const auto& [slots, head_dim, scale] :
       {std::tuple<std::size_t, std::size_t, float>{1, 16, 1.0f},
        {5, 20, 4.0f},
        {64, 16, 4.0f},
        {65, 24, 8.0f},
        {140, 8, 1.0f},
        {9, 96, 60.0f}}) {
    const auto query = draws.symmetric(head_dim, scale);
    const auto keys = draws.symmetric(slots * head_dim, scale);
    const auto values = draws.symmetric(slots * head_dim);
    const std::size_t stride = simd::round_up(head_dim, simd::lanes);
    std::vector<float> panels(simd::round_up(slots, simd::lanes) * head_dim);
    std::vector<float> padded(simd::round_up(slots, simd::lanes) * stride);
    std::vector<float> output(stride), weights(slots);
    engine::Buffer<float> scratch(simd::attention_scratch(1, slots, head_dim));
    scalar().store_keys(keys.data(), head_dim, slots, head_dim, panels.data(), 0);
    for (std::size_t j = 0; j < slots; ++j) {
      std::copy_n(values.data() + j * head_dim, head_dim, padded.data() + j * stride);
    }
    const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
    scalar().attention({1, slots, head_dim, query.data(), head_dim, panels.data(), padded.data(),
                        stride, factor, output.data(), stride, scratch.data(), weights.data(),
                        slots});
    output.resize(head_dim);
    add(kit, "attend", std::to_string(slots) + "-slots-of-" + std::to_string(head_dim),
        {{"q", words(query)}, {"keys", rows(keys, head_dim)}, {"values", rows(values, head_dim)}},
        {{"scale", word(factor)}, {"output", words(output)}, {"weights", words(weights)}});
  }
}

void add_likelihoods(ConformanceKit& kit) {
  Draws draws(25);
  for (const auto& [vocab, scale] :
       {std::pair<std::size_t, float>{1, 1.0f}, {50, 10.0f}, {300, 40.0f}, {40, 200.0f}}) {
    const auto logits = draws.symmetric(vocab, scale);
    std::vector<float> losses;
    Json ids = Json::array();
    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t id = draws.below(vocab);
      ids.push_back(id);
      losses.push_back(nll(scalar(), logits, static_cast<std::int32_t>(id)));
    }
    add(kit, "nll", std::to_string(vocab), {{"logits", words(logits)}, {"tokens", ids}},
        {{"nll", words(losses)}});
  }
}

}  // namespace

void add_layers_parts(ConformanceKit& kit) {
  add_linear(kit);
  add_norms(kit);
  add_residuals(kit);
  add_rotary(kit);
  add_attention(kit);
  add_likelihoods(kit);
}

}  // namespace neoxref::eval::conformance
