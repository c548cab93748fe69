// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cmath>

#include "eval/compare.hpp"
#include "simd/kernels.hpp"

namespace neoxref::eval {
namespace {

bool all_bfloat16(const Matrix& matrix) {
  return std::all_of(matrix.values.begin(), matrix.values.end(), [](float value) {
    return (std::bit_cast<std::uint32_t>(value) & 0xffffu) == 0;
  });
}

/// Numbers of float16 have 11 significant bits, and below 2^-14 are multiples of 2^-24.
bool all_float16(const Matrix& matrix) {
  return std::all_of(matrix.values.begin(), matrix.values.end(), [](float value) {
    if (!std::isfinite(value)) return true;
    if (std::fabs(value) > 65504.0f) return false;
    const float scaled = value * 0x1p24f;
    if (std::fabs(value) < 0x1p-14f) return scaled == std::floor(scaled);
    return (std::bit_cast<std::uint32_t>(value) & 0x1fffu) == 0;
  });
}

}  // namespace

std::string fitting_profile(const ForeignFile& file, const ForeignSource& other) {
  const Bindings& bindings = other.bindings();
  // One tensor in the middle of the model tells: it has gone through every kind of operation.
  const Binding* chosen = nullptr;
  for (const Binding& each : bindings.tensors) {
    if (chosen == nullptr || each.id.tensor == engine::Tensor::layer_output) chosen = &each;
  }
  if (chosen == nullptr) return "f32";
  if (chosen->log_probabilities_from) return "kld16";
  const ForeignType type = file.arrays[chosen->array].type;
  if (type == ForeignType::bf16) return "bf16-acc32";
  if (type == ForeignType::f16) return "f16-acc32";
  const Matrix matrix = other.find(chosen->id, chosen->part).matrix;
  if (all_bfloat16(matrix)) return "bf16-acc32";
  return all_float16(matrix) ? "f16-acc32" : "f32";
}

}  // namespace neoxref::eval
