// SPDX-License-Identifier: Apache-2.0
#include "engine/weights.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "simd/scalar/ieee.hpp"

namespace neoxref::engine {
namespace {

std::size_t element_size(simd::Dtype dtype) {
  return dtype == simd::Dtype::f32 ? 4 : 2;
}

/// [elements], exact; for the vectors, which are short.
std::vector<float> widened(const TensorView& tensor) {
  check_finite(tensor);
  const simd::Dtype dtype = weight_dtype(tensor);
  std::vector<float> values(tensor.elements());
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint16_t half = 0;
    switch (dtype) {
      case simd::Dtype::f32:
        std::memcpy(&values[i], tensor.bytes.data() + 4 * i, 4);
        break;
      case simd::Dtype::f16:
        std::memcpy(&half, tensor.bytes.data() + 2 * i, 2);
        values[i] = simd::scalar::widen_f16(half);
        break;
      case simd::Dtype::bf16:
        std::memcpy(&half, tensor.bytes.data() + 2 * i, 2);
        values[i] = simd::scalar::widen_bf16(half);
        break;
    }
  }
  return values;
}

/// One matrix on its way from the file into its panels.
struct Packing {
  const TensorView* source;
  Linear* target;
  std::uint32_t first_item;  ///< of its panels, counted over all matrices
  std::size_t panels_per_item;
  std::size_t at;  ///< of the target in the pages of the weights, bytes
};

/// Weights of a model that a last-level cache keeps from one token to the next.
constexpr std::size_t most_cached_bytes = std::size_t{8} << 20;

/// Columns of a panel that are moved at a time: 16 rows of this many stay in the first-level cache.
constexpr std::size_t tile = 256;
/// Bytes of the file that one item reads. Its pages are let go when it is done, all but those that it
/// shares with its neighbours.
constexpr std::size_t item_bytes = std::size_t{1} << 20;

std::size_t source_row(const Linear& target, std::size_t panel) {
  const std::size_t first = panel * simd::lanes;
  return first / target.group_stride() * target.group_outputs + first % target.group_stride();
}

/// Rows of the source that lie in a panel.
std::size_t rows_in(const Linear& target, std::size_t panel) {
  return std::min(simd::lanes, target.group_outputs - panel * simd::lanes % target.group_stride());
}

/// [16 rows][tile], as a run of the file has them.
template <class Element>
using Rows = Element[simd::lanes][tile];
/// [words of a column][tile]
using Columns = std::uint64_t[8][tile];

/// words[r][k] = rows[2 r][k] below rows[2 r + 1][k]. Compilers make vectors of this; of copying
/// element by element to where a panel wants them they do not.
template <class Element, class Word>
void interleave(const Element (*rows)[tile], Word (*words)[tile], std::size_t count,
                std::size_t columns) {
  constexpr int width = 8 * sizeof(Element);
  for (std::size_t r = 0; r < count; ++r) {
    for (std::size_t k = 0; k < columns; ++k) {
      const Word low = rows[2 * r][k];
      const Word high = rows[2 * r + 1][k];
      words[r][k] = low | high << width;
    }
  }
}

std::size_t interleave(const Rows<std::uint32_t>& rows, Columns& words, std::size_t columns) {
  interleave(rows, words, 8, columns);
  return 8;
}

std::size_t interleave(const Rows<std::uint16_t>& rows, Columns& words, std::size_t columns) {
  std::uint32_t pairs[8][tile];
  interleave(rows, pairs, 8, columns);
  interleave(pairs, words, 4, columns);
  return 4;
}

template <class Element>
void pack_panel(const TensorView& source, Linear& target, std::size_t panel) {
  const std::size_t depth = target.inputs;
  const std::size_t rows = rows_in(target, panel);
  const std::byte* from = source.bytes.data() + source_row(target, panel) * depth * sizeof(Element);
  std::byte* to = target.packed + panel * simd::lanes * depth * sizeof(Element);
  Rows<Element> now = {};
  Columns words;
  for (std::size_t start = 0; start < depth; start += tile) {
    const std::size_t count = std::min(tile, depth - start);
    for (std::size_t row = 0; row < rows; ++row) {
      std::memcpy(now[row], from + (row * depth + start) * sizeof(Element),
                  count * sizeof(Element));
    }
    const std::size_t height = interleave(now, words, count);
    for (std::size_t k = 0; k < count; ++k) {
      for (std::size_t w = 0; w < height; ++w, to += 8) std::memcpy(to, &words[w][k], 8);
    }
  }
}

struct PackingJob {
  std::vector<Packing> matrices;
  const TensorView* embedding = nullptr;  ///< stays in the file
  std::atomic<bool> bad{false};

  /// Looks at bytes of a tensor; which one is bad is found out afterwards.
  void check(const TensorView& tensor, std::size_t first, std::size_t count) noexcept {
    try {
      check_finite(tensor, first, count);
    } catch (...) {
      bad = true;
    }
  }
};

void let_go(const TensorView& tensor, std::size_t first, std::size_t count) noexcept {
  if (tensor.file != nullptr) tensor.file->dont_need(tensor.bytes.subspan(first, count));
}

void pack_item(void* context, std::uint32_t, std::uint32_t item, std::size_t) noexcept {
  auto& job = *static_cast<PackingJob*>(context);
  const auto after = std::upper_bound(
      job.matrices.begin(), job.matrices.end(), item,
      [](std::uint32_t number, const Packing& packing) { return number < packing.first_item; });
  const Packing& packing = *(after - 1);
  const Linear& target = *packing.target;
  const std::size_t first = (item - packing.first_item) * packing.panels_per_item;
  const std::size_t last =
      std::min(target.outputs() / simd::lanes, first + packing.panels_per_item) - 1;
  const std::size_t row_bytes = target.inputs * element_size(target.dtype);
  const std::size_t begin = source_row(target, first) * row_bytes;
  const std::size_t end = (source_row(target, last) + rows_in(target, last)) * row_bytes;
  job.check(*packing.source, begin, end - begin);
  for (std::size_t panel = first; panel <= last; ++panel) {
    if (target.dtype == simd::Dtype::f32) {
      pack_panel<std::uint32_t>(*packing.source, *packing.target, panel);
    } else {
      pack_panel<std::uint16_t>(*packing.source, *packing.target, panel);
    }
  }
  let_go(*packing.source, begin, end - begin);
}

void check_embedding(void* context, std::uint32_t, std::uint32_t item, std::size_t) noexcept {
  auto& job = *static_cast<PackingJob*>(context);
  const std::size_t begin = item * item_bytes;
  const std::size_t count = std::min(item_bytes, job.embedding->bytes.size() - begin);
  job.check(*job.embedding, begin, count);
  let_go(*job.embedding, begin, count);
}

/// The largest bit pattern without its sign: the order of magnitudes is that of the bits.
template <class Bits>
Bits largest_bits(const Linear& linear, Bits magnitude) {
  const auto* values = reinterpret_cast<const Bits*>(linear.packed);
  const std::size_t count = linear.outputs() * linear.inputs;
  Bits largest = 0;
  for (std::size_t i = 0; i < count; ++i) {
    largest = std::max(largest, static_cast<Bits>(values[i] & magnitude));
  }
  return largest;
}

}  // namespace

simd::Panels Linear::panels(std::size_t first) const {
  return {packed + first * inputs * element_size(dtype), dtype, simd::lanes, inputs * simd::lanes,
          from_memory};
}

Weights Weights::pack(const Checkpoint& checkpoint, Team& team) {
  const Config& config = checkpoint.config();
  Weights weights;
  weights.hidden_ = config.hidden;
  PackingJob job;
  std::uint32_t items = 0;
  std::size_t bytes = 0;

  const auto norm = [&](Weight gamma, Weight beta, std::size_t layer) {
    return Norm{widened(checkpoint.tensor(gamma, layer)), widened(checkpoint.tensor(beta, layer))};
  };
  const auto linear = [&](Linear& target, Weight matrix, const Weight* bias, std::size_t layer,
                          std::size_t groups) {
    const TensorView& source = checkpoint.tensor(matrix, layer);
    target.dtype = weight_dtype(source);
    target.inputs = source.shape[1];
    target.groups = groups;
    target.group_outputs = source.shape[0] / groups;
    const std::size_t panels = target.outputs() / simd::lanes;
    const std::size_t panel_bytes = simd::lanes * target.inputs * element_size(target.dtype);
    const std::size_t per_item = std::max<std::size_t>(1, item_bytes / panel_bytes);
    job.matrices.push_back({&source, &target, items, per_item, bytes});
    bytes += simd::round_up(target.outputs() * target.inputs * element_size(target.dtype), 64);
    items += static_cast<std::uint32_t>((panels + per_item - 1) / per_item);
    if (bias == nullptr || !checkpoint.has(*bias)) return;
    const std::vector<float> values = widened(checkpoint.tensor(*bias, layer));
    target.bias.assign(target.outputs(), 0.0f);
    for (std::size_t i = 0; i < values.size(); ++i) {
      target.bias[i / target.group_outputs * target.group_stride() + i % target.group_outputs] =
          values[i];
    }
  };

  weights.layers.resize(config.layers);
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    LayerWeights& to = weights.layers[layer];
    to.input_layernorm = norm(Weight::input_norm_weight, Weight::input_norm_bias, layer);
    to.post_attention_layernorm = norm(Weight::post_norm_weight, Weight::post_norm_bias, layer);
    constexpr Weight qkv_bias = Weight::qkv_bias;
    constexpr Weight dense_bias = Weight::dense_bias;
    constexpr Weight up_bias = Weight::mlp_up_bias;
    constexpr Weight down_bias = Weight::mlp_down_bias;
    linear(to.query_key_value, Weight::qkv_weight, &qkv_bias, layer, config.heads);
    linear(to.dense, Weight::dense_weight, &dense_bias, layer, 1);
    linear(to.dense_h_to_4h, Weight::mlp_up_weight, &up_bias, layer, 1);
    linear(to.dense_4h_to_h, Weight::mlp_down_weight, &down_bias, layer, 1);
  }
  weights.final_layer_norm = norm(Weight::final_norm_weight, Weight::final_norm_bias, 0);
  linear(weights.embed_out, Weight::embed_out, nullptr, 0, 1);

  weights.pages_ = Pages(bytes, Pages::Use::whole);
  weights.pages_.prefer_large();
  for (const Packing& packing : job.matrices) {
    packing.target->packed = weights.pages_.data() + packing.at;
    packing.target->from_memory = bytes > most_cached_bytes;
  }

  const TensorView& embed_in = checkpoint.tensor(Weight::embed_in);
  job.embedding = &embed_in;
  weights.embed_in_ = embed_in.bytes;
  weights.embed_dtype_ = weight_dtype(embed_in);

  const std::size_t parts = (embed_in.bytes.size() + item_bytes - 1) / item_bytes;
  const Phase phases[] = {{static_cast<std::uint32_t>(parts), check_embedding}, {items, pack_item}};
  team.run(phases, &job);
  if (job.bad) {
    for (const Packing& packing : job.matrices) check_finite(*packing.source);
    check_finite(embed_in);
  }
  return weights;
}

void Weights::embed(const simd::Kernels& kernels, std::size_t token, float* out) const {
  const std::size_t size = hidden_ * element_size(embed_dtype_);
  const std::byte* row = embed_in_.data() + token * size;
  if (embed_dtype_ == simd::Dtype::f32) {
    std::memcpy(out, row, size);
    return;
  }
  // The format promises no alignment, so the row is copied before it is read as 16-bit numbers.
  constexpr std::size_t at_once = 512;
  std::uint16_t halves[at_once];
  for (std::size_t start = 0; start < hidden_; start += at_once) {
    const std::size_t count = std::min(at_once, hidden_ - start);
    std::memcpy(halves, row + start * 2, count * 2);
    kernels.widen(embed_dtype_, halves, out + start, count);
  }
}

float largest_magnitude(const Linear& linear) {
  switch (linear.dtype) {
    case simd::Dtype::f16:
      return simd::scalar::widen_f16(largest_bits<std::uint16_t>(linear, 0x7fff));
    case simd::Dtype::bf16:
      return simd::scalar::widen_bf16(largest_bits<std::uint16_t>(linear, 0x7fff));
    case simd::Dtype::f32:
      break;
  }
  return std::bit_cast<float>(largest_bits<std::uint32_t>(linear, 0x7fffffff));
}

}  // namespace neoxref::engine
