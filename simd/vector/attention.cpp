// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "simd/vector/declare.hpp"
#include "simd/vector/exchange.hpp"
#include "simd/vector/freed.hpp"
#include "simd/vector/functions.hpp"
#include "simd/vector/product_tile.hpp"
#include "simd/vector/scratch.hpp"

namespace neoxref::simd::NEOXREF_ISA {
namespace {

/// One query's scores, in pieces of 64 slots that lie `piece` floats apart.
struct ScoreRow {
  float* data;
  std::size_t piece;

  float* at(std::size_t slot) const { return data + slot / dot_block * piece + slot % dot_block; }
};

#ifdef NEOXREF_PRODUCTS_ONLY
/// For the benchmark of the two products alone (tests/meson.build): scores stay as they are.
float softmax(const ScoreRow&, std::size_t, std::size_t, float) noexcept {
  return 1.0f;
}
#else
/// The largest score of `slots`. A NaN is passed over: its exponential is NaN too, and takes the sum and
/// every output with it.
f32x16 largest(const ScoreRow& row, std::size_t slots) {
  const f32x16 lowest = broadcast(-std::numeric_limits<float>::infinity());
  f32x16 max = lowest;
  for (std::size_t j = 0; j < slots; j += lanes) {
    f32x16 score = load(row.at(j));
    if (slots - j < lanes) score = select(first_lanes(slots - j), score, lowest);
    max = larger(score, max);
  }
  return broadcast(largest_lane(max));
}

/// Scores to exponentials, +0 from `slots` up to `end`. Returns Z.
float softmax(const ScoreRow& row, std::size_t slots, std::size_t end, float factor) noexcept {
  const f32x16 scale = broadcast(factor);
  // Rounding is monotone, so this is the largest of the scaled ones.
  const f32x16 max = largest(row, slots) * scale;
  SumLanes sum = no_sum();
  for (std::size_t j = 0; j < slots; j += lanes) {
    f32x16 e = exp(load(row.at(j)) * scale - max);
    if (slots - j < lanes) e = select(first_lanes(slots - j), e, zero());
    store(row.at(j), e);
    sum = sum + to_sum(e);
  }
  for (std::size_t j = round_up(slots, lanes); j < end; j += lanes) store(row.at(j), zero());
  return static_cast<float>(fold(sum));
}
#endif

void divide_row(float* output, std::size_t n, float z) noexcept {
  const f32x16 divisor = broadcast(z);
  each_sixteen(n, [&](std::size_t i, std::size_t width) NEOXREF_INLINED {
    store_up_to(output + i, divide(load_up_to(output + i, width), divisor), width);
  });
}

/// The exponentials of one query over their sum, where somebody asks for them.
void weigh(const Attention& a, std::size_t query, const ScoreRow& row, float z) noexcept {
  if (a.weights == nullptr) return;
  const std::size_t slots = a.first_slots + query;
  const f32x16 divisor = broadcast(z);
  float* weights = a.weights + query * a.weights_stride;
  each_sixteen(slots, [&](std::size_t j, std::size_t width) NEOXREF_INLINED {
    store_up_to(weights + j, divide(load(row.at(j)), divisor), width);
  });
}

WeightView<float> keys_from(const Attention& a, std::size_t slot) {
  return {a.keys + slot / lanes * lanes * a.head_dim, lanes, lanes * a.head_dim};
}

WeightView<float> values_from(const Attention& a, std::size_t slot, std::size_t d) {
  return {a.values + slot * a.value_stride + d, a.value_stride, lanes};
}

/// Calls f(n, panels) for the panels of `outputs`, at most `most` (a constant) at a time.
template <std::size_t most, class F>
NEOXREF_INLINE void each_group(std::size_t outputs, F&& f) {
  for (std::size_t n = 0; n < outputs; n += most * lanes) {
    const std::size_t panels = round_up(outputs - n, lanes) / lanes;
    f(n, panels < most ? panels : most);
  }
}

void one_query(const Attention& a) noexcept {
  const std::size_t slots = a.first_slots;
  float* scores = a.scratch;
  for (std::size_t n = 0; n < slots; n += lanes) {
    stream<1, 1, float>({a.query, 0, dot_block}, a.head_dim, keys_from(a, n),
                        {scores + n, 0, lanes, nullptr});
  }
  const float z = softmax({scores, dot_block}, slots, slots, a.scale);
  weigh(a, 0, {scores, dot_block}, z);
  each_group<stream_panels>(a.head_dim, [&](std::size_t n, std::size_t panels) {
    const Destination to{a.output + n, 0, a.head_dim - n, nullptr};
    stream_functions<1, float>[panels - 1]({scores, 0, dot_block}, slots, values_from(a, 0, n), to);
  });
  divide_row(a.output, a.head_dim, z);
}

void run_tile(std::size_t rows, std::size_t panels, const TileStep& step,
              const WeightView<float>& weights, const Destination& to) noexcept {
  if (panels == tile_panels) {
    tile_functions<tile_panels, float>[rows - 1](step, weights, to);
  } else {
    tile_functions<1, float>[rows - 1](step, weights, to);
  }
}

/// Slots whose values a tile takes before the next columns have their turn.
constexpr std::size_t slots_at_once = (freed ? 4 : 1) * dot_block;

/// `rows` queries from `first` on, together.
void tile_of_queries(const Attention& a, std::size_t first, std::size_t rows) noexcept {
  const std::size_t end = a.first_slots + first + rows - 1;
  float* packed = a.scratch;
  float* scores = packed + queries_size(rows, a.head_dim);
  float* totals = scores + scores_size(rows, end);
  const std::size_t piece = rows * dot_block;

  pack(a.query + first * a.query_stride, a.query_stride, dot_block, rows, a.head_dim, packed);
  each_group<tile_panels>(end, [&](std::size_t n, std::size_t panels) {
    const Destination to{scores + n / dot_block * piece + n % dot_block, dot_block, panels * lanes,
                         nullptr};
    for (std::size_t start = 0; start < a.head_dim; start += dot_block) {
      const std::size_t left = a.head_dim - start;
      TileStep step{packed + start * rows, left < dot_block ? left : dot_block, totals, start == 0,
                    left <= dot_block};
      step.ahead = address(a.keys, (n + tile_panels * lanes) * a.head_dim + start * lanes);
      step.ahead_step = lanes * sizeof(float);
      WeightView<float> keys = keys_from(a, n);
      keys.data += start * lanes;
      run_tile(rows, panels, step, keys, to);
    }
  });

  float z[max_tile_rows];
  for (std::size_t r = 0; r < rows; ++r) {
    const ScoreRow row{scores + r * dot_block, piece};
    z[r] = softmax(row, a.first_slots + first + r, end, a.scale);
    weigh(a, first + r, row, z[r]);
  }

  float* output = a.output + first * a.output_stride;
  for (std::size_t start = 0; start < end; start += slots_at_once) {
    const std::size_t left = end - start;
    each_group<tile_panels>(a.head_dim, [&](std::size_t n, std::size_t panels) {
      TileStep step{scores + start * rows, left < slots_at_once ? left : slots_at_once,
                    totals + n * rows,     start == 0,
                    left <= slots_at_once, piece};
      step.ahead = address(a.values, (start + slots_at_once) * a.value_stride + n);
      step.ahead_step = a.value_stride * sizeof(float);
      step.ahead_block = dot_block * step.ahead_step;
      const Destination to{output + n, a.output_stride, a.head_dim - n, nullptr};
      run_tile(rows, panels, step, values_from(a, start, n), to);
    });
  }
  for (std::size_t r = 0; r < rows; ++r) divide_row(output + r * a.output_stride, a.head_dim, z[r]);
}

/// True when the tile may give weight +0 to the slots that its earlier queries do not see: 0 times
/// an infinity would be NaN.
bool later_values_finite(const Attention& a, std::size_t first, std::size_t rows) noexcept {
  const std::size_t slot = a.first_slots + first;
  return all_finite(a.values + slot * a.value_stride, (rows - 1) * a.value_stride);
}

}  // namespace

void attention(const Attention& a) noexcept {
  if (a.queries == 1) return one_query(a);
  const std::size_t tiles = (a.queries + tile_rows - 1) / tile_rows;
  const std::size_t base = tiles == 0 ? 0 : a.queries / tiles;
  std::size_t first = 0;
  for (std::size_t t = 0; t < tiles; ++t) {
    const std::size_t rows = base + (t < a.queries % tiles ? 1 : 0);
    if (rows == 1 || later_values_finite(a, first, rows)) {
      tile_of_queries(a, first, rows);
    } else {
      for (std::size_t r = 0; r < rows; ++r) tile_of_queries(a, first + r, 1);
    }
    first += rows;
  }
}

}  // namespace neoxref::simd::NEOXREF_ISA
