// SPDX-License-Identifier: Apache-2.0
// The table that defines every result: the contract as plain loops. Written apart from the vector
// kernels on purpose, so that a shared mistake cannot hide.
#include "simd/scalar/kernels.hpp"

#include <limits>

#include "simd/scalar/ieee.hpp"

namespace neoxref::simd::scalar {
namespace {

float element(const Panels& panels, std::size_t k, std::size_t n) {
  const std::size_t index = (n / lanes) * panels.panel + k * panels.step + n % lanes;
  switch (panels.dtype) {
    case Dtype::f16:
      return widen_f16(static_cast<const std::uint16_t*>(panels.data)[index]);
    case Dtype::bf16:
      return widen_bf16(static_cast<const std::uint16_t*>(panels.data)[index]);
    case Dtype::f32:
      break;
  }
  return static_cast<const float*>(panels.data)[index];
}

void product(const Product& p) noexcept {
  for (std::size_t m = 0; m < p.rows; ++m) {
    const float* input = p.input + m * p.input_stride;
    for (std::size_t n = 0; n < p.outputs; ++n) {
      const float sum = dot(
          p.depth, [&](std::size_t k) { return input[in_blocks(k, p.input_block)]; },
          [&](std::size_t k) { return element(p.weights, k, n); });
      p.output[m * p.output_stride + in_blocks(n, p.output_block)] =
          p.bias != nullptr ? sum + p.bias[n] : sum;
    }
  }
}

const float& key(const float* panels, std::size_t head_dim, std::size_t slot, std::size_t d) {
  return panels[(slot / lanes) * head_dim * lanes + d * lanes + slot % lanes];
}
float& key(float* panels, std::size_t head_dim, std::size_t slot, std::size_t d) {
  return panels[(slot / lanes) * head_dim * lanes + d * lanes + slot % lanes];
}

float maximum(const float* x, std::size_t n) {
  float max = x[0];
  for (std::size_t i = 0; i < n; ++i) {
    if (x[i] != x[i]) return std::numeric_limits<float>::quiet_NaN();
    if (x[i] > max) max = x[i];
  }
  return max;
}

void attention(const Attention& a) noexcept {
  float* e = a.scratch;
  for (std::size_t i = 0; i < a.queries; ++i) {
    const float* query = a.query + i * a.query_stride;
    const std::size_t slots = a.first_slots + i;
    for (std::size_t j = 0; j < slots; ++j) {
      const float score = dot(
          a.head_dim, [&](std::size_t d) { return query[d]; },
          [&](std::size_t d) { return key(a.keys, a.head_dim, j, d); });
      e[j] = score * a.scale;
    }
    const float max = maximum(e, slots);
    for (std::size_t j = 0; j < slots; ++j) e[j] = evaluate(Function::exp, e[j] - max);
    const auto z = static_cast<float>(lane_sum(slots, [&](std::size_t j) { return e[j]; }));
    for (std::size_t d = 0; d < a.head_dim; ++d) {
      const float sum = dot(
          slots, [&](std::size_t j) { return e[j]; },
          [&](std::size_t j) { return a.values[j * a.value_stride + d]; });
      a.output[i * a.output_stride + d] = sum / z;
    }
    if (a.weights == nullptr) continue;
    for (std::size_t j = 0; j < slots; ++j) a.weights[i * a.weights_stride + j] = e[j] / z;
  }
}

bool finite(double x) {
  return x - x == 0.0;
}
bool finite(float x) {
  return x - x == 0.0f;
}

bool layer_norm(const float* x, std::size_t n, const float* gamma, const float* beta, float eps,
                float* y, std::size_t y_block) noexcept {
  const auto count = static_cast<double>(n);
  const double sum = lane_sum(n, [&](std::size_t i) { return x[i]; });
  const auto mean = static_cast<float>(sum / count);
  const double squares = lane_sum(n, [&](std::size_t i) {
    const auto d = static_cast<double>(x[i] - mean);
    return d * d;
  });
  const auto variance = static_cast<float>(squares / count);
  const float r = 1.0f / square_root(variance + eps);
  for (std::size_t i = 0; i < n; ++i) {
    y[in_blocks(i, y_block)] = fma((x[i] - mean) * r, gamma[i], beta[i]);
  }
  return finite(sum) && finite(squares);
}

void rotate(float* x, const float* cos, const float* sin, std::size_t rotary_dims) noexcept {
  const std::size_t half = rotary_dims / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const float x1 = x[i];
    const float x2 = x[i + half];
    x[i] = fma(x1, cos[i], -(x2 * sin[i]));
    x[i + half] = fma(x2, cos[i], x1 * sin[i]);
  }
}

void store_keys(const float* keys, std::size_t key_stride, std::size_t count, std::size_t head_dim,
                float* panels, std::size_t first_slot) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      key(panels, head_dim, first_slot + i, d) = keys[i * key_stride + d];
    }
  }
}

bool key_norms(const float* panels, std::size_t head_dim, std::size_t first_slot, std::size_t count,
               float* norms) noexcept {
  bool all = true;
  for (std::size_t slot = first_slot; slot < first_slot + count; ++slot) {
    const auto component = [&](std::size_t d) { return key(panels, head_dim, slot, d); };
    norms[slot] = square_root(dot(head_dim, component, component));
    all = all && finite(norms[slot]);
  }
  return all;
}

void compact_keys(float* panels, std::size_t head_dim, const std::uint32_t* kept,
                  std::size_t count) noexcept {
  for (std::size_t j = 0; j < count; ++j) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      key(panels, head_dim, j, d) = key(panels, head_dim, kept[j], d);
    }
  }
}

void compact_rows(float* rows, std::size_t stride, const std::uint32_t* kept,
                  std::size_t count) noexcept {
  for (std::size_t j = 0; j < count; ++j) {
    for (std::size_t d = 0; d < stride; ++d) rows[j * stride + d] = rows[kept[j] * stride + d];
  }
}

void map(Function function, const float* in, float* out, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) out[i] = evaluate(function, in[i]);
}

void add3(const float* a, const float* b, const float* c, float* out, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) out[i] = (a[i] + b[i]) + c[i];
}

void add(const float* a, const float* b, float* out, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

void widen(Dtype dtype, const void* in, float* out, std::size_t n) noexcept {
  const Panels row{in, dtype, lanes, n};
  for (std::size_t i = 0; i < n; ++i) out[i] = element(row, i / lanes, i % lanes);
}

MaxAndSum max_and_sum(const float* x, std::size_t n) noexcept {
  const float max = maximum(x, n);
  const double sum =
      lane_sum(n, [&](std::size_t i) { return evaluate(Function::exp, x[i] - max); });
  return {max, static_cast<float>(sum)};
}

double weighted_difference(const float* weights, const float* a, const float* b,
                           std::size_t n) noexcept {
  return lane_sum(n, [&](std::size_t i) {
    return static_cast<double>(weights[i]) *
           (static_cast<double>(a[i]) - static_cast<double>(b[i]));
  });
}

bool all_finite(const float* x, std::size_t n) noexcept {
  bool all = true;
  for (std::size_t i = 0; i < n; ++i) all = all && finite(x[i]);
  return all;
}

}  // namespace

const Kernels scalar_table{
    .isa = Isa::scalar,
    .name = "scalar",
    .product = product,
    .attention = attention,
    .layer_norm = layer_norm,
    .rotate = rotate,
    .store_keys = store_keys,
    .key_norms = key_norms,
    .compact_keys = compact_keys,
    .compact_rows = compact_rows,
    .map = map,
    .add3 = add3,
    .add = add,
    .widen = widen,
    .max_and_sum = max_and_sum,
    .weighted_difference = weighted_difference,
    .all_finite = all_finite,
};

}  // namespace neoxref::simd::scalar
