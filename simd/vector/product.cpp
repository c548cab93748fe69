// SPDX-License-Identifier: Apache-2.0
#include "simd/vector/declare.hpp"
#include "simd/vector/product_tile.hpp"
#include "simd/vector/scratch.hpp"

namespace neoxref::simd::NEOXREF_ISA {
namespace {

/// The weights from output n on.
template <class Weight>
WeightView<Weight> view(const Panels& weights, std::size_t n) {
  const auto* data = static_cast<const Weight*>(weights.data);
  return {data + n / lanes * weights.panel, weights.step, weights.panel};
}

/// Panels that are finished together begin at a multiple of their number, so they lie in one block.
static_assert(dot_block % (tile_panels * lanes) == 0 && dot_block % (stream_panels * lanes) == 0);
Destination destination(const Product& p, std::size_t row, std::size_t n) {
  return {p.output + row * p.output_stride + in_blocks(n, p.output_block), p.output_stride,
          p.outputs - n, p.bias == nullptr ? nullptr : p.bias + n};
}

template <std::size_t rows, class Weight>
void stream_all(const Product& p, std::size_t row) noexcept {
  const std::size_t most = p.weights.from_memory ? 1 : stream_panels;
  const DeepInput input{p.input + row * p.input_stride, p.input_stride, p.input_block};
  for (std::size_t n = 0; n < p.outputs; n += most * lanes) {
    const std::size_t panels = round_up(p.outputs - n, lanes) / lanes;
    const std::size_t taken = panels < most ? panels : most;
    stream_functions<rows, Weight>[taken - 1](input, p.depth, view<Weight>(p.weights, n),
                                              destination(p, row, n));
  }
}

template <class Weight>
void few_rows(const Product& p) noexcept {
  for (std::size_t row = 0; row < p.rows; row += stream_rows) {
    switch (p.rows - row) {
      case 1:
        stream_all<1, Weight>(p, row);
        break;
      case 2:
        stream_all<2, Weight>(p, row);
        break;
      case 3:
        stream_all<3, Weight>(p, row);
        break;
      default:
        stream_all<4, Weight>(p, row);
    }
  }
}

/// [depth / 64][rows][64], a block `block` floats behind the one before.
struct TileInput {
  const float* data;
  std::size_t block;

  const float* from(std::size_t start) const { return data + start / dot_block * block; }
};

/// `rows` rows from `row` on, where they lie if they lie so already, else copied to `copy`.
TileInput tile_input(const Product& p, std::size_t row, std::size_t rows, float* copy) {
  const float* input = p.input + row * p.input_stride;
  if (p.input_stride == dot_block) return {input, p.input_block};
  pack(input, p.input_stride, p.input_block, rows, p.depth, copy);
  return {copy, rows * dot_block};
}

/// Blocks of depth that a tile takes before the next tile has its turn: their weights stay in the
/// first-level cache, and the tile's totals come and go once for all of them.
constexpr std::size_t visit = 2;
static_assert(visit * tile_panels * lanes <= max_group_columns);

/// The rows of one chunk against `panels` panels, from `start` for `visit` blocks of depth. The first
/// tile widens the weights for the others.
/// Fetched meanwhile: by the first tiles the weights of the visit after this one, a block each where
/// there are enough of them (a core can wait for few lines at once), else a panel; by the others the
/// input of the tile that follows.
template <std::size_t panels, class Weight>
void visit_tiles(const Product& p, std::size_t rows, std::size_t start, const TileInput& input,
                 float* totals, const WeightView<Weight>& weights, const WeightView<Weight>& next,
                 float* widened, Destination to) noexcept {
  const std::size_t tiles = (rows + tile_rows - 1) / tile_rows;
  const std::size_t base = rows / tiles;
  const std::size_t longer = rows % tiles;
  const std::size_t left = p.depth - start;
  const std::size_t count = left < visit * dot_block ? left : visit * dot_block;
  const float* const next_visit = input.from(count == left ? 0 : start + count);
  constexpr std::size_t widened_panel = visit * dot_block * lanes;
  const std::size_t spread = tiles < visit * panels ? 1 : visit;
  const float* rows_of_tile = input.from(start);
  for (std::size_t t = 0; t < tiles; ++t) {
    const std::size_t height = base + (t < longer ? 1 : 0);
    TileStep step{rows_of_tile, count, totals, start == 0, count == left, input.block};
    rows_of_tile += height * dot_block;
    if (t < spread * panels) {
      step.ahead = address(next.data, t / spread * next.panel + t % spread * dot_block * next.step);
      step.ahead_step = next.step * sizeof(Weight) / spread;
      step.ahead_block = dot_block * step.ahead_step;
    } else {
      step.ahead = address(t + 1 < tiles ? rows_of_tile : next_visit);
      step.ahead_step = height * sizeof(float);
      step.ahead_block = input.block * sizeof(float);
    }
    if constexpr (std::is_same_v<Weight, float>) {
      tile_functions<panels, float>[height - 1](step, weights, to);
    } else if (t == 0) {
      step.widened = widened;
      step.widened_panel = widened_panel;
      keeping_tile_functions<panels, Weight>[height - 1](step, weights, to);
    } else {
      tile_functions<panels, float>[height - 1](step, {widened, lanes, widened_panel}, to);
    }
    totals += height * panels * lanes;
    to.output += height * p.output_stride;
  }
}

template <std::size_t panels, class Weight>
void group(const Product& p, std::size_t row, std::size_t rows, std::size_t n,
           const TileInput& input, float* totals, float* widened) noexcept {
  WeightView<Weight> weights = view<Weight>(p.weights, n);
  const Destination to = destination(p, row, n);
  for (std::size_t start = 0; start < p.depth; start += visit * dot_block) {
    WeightView<Weight> next = weights;
    if (start + visit * dot_block < p.depth) {
      next.data += visit * dot_block * weights.step;
    } else if (n + 2 * panels * lanes <= p.outputs) {
      next = view<Weight>(p.weights, n + panels * lanes);
    }
    visit_tiles<panels>(p, rows, start, input, totals, weights, next, widened, to);
    weights.data += visit * dot_block * weights.step;
  }
}

/// All rows as one tile of one panel, all of depth at once: each weight is read and widened once, in
/// the order of memory, on its way into a register.
template <class Weight>
void tall_tile(const Product& p, std::size_t row, std::size_t rows, const TileInput& input,
               float* totals) noexcept {
  for (std::size_t n = 0; n < p.outputs; n += lanes) {
    if (n % p.period + lanes <= p.unused) continue;
    const WeightView<Weight> weights = view<Weight>(p.weights, n);
    TileStep step{input.data, p.depth, totals, true, true, input.block};
    step.ahead = address(weights.data, steps_ahead * weights.step);
    step.ahead_step = weights.step * sizeof(Weight);
    step.ahead_block = dot_block * step.ahead_step;
    tall_tile_functions<Weight>[rows - 1](step, weights, destination(p, row, n));
  }
}

template <class Weight>
void many_rows(const Product& p) noexcept {
  const std::size_t chunk = even_rows(p.rows, most_chunk_rows(p.rows, p.depth));
  float* totals = p.scratch;
  float* widened = totals + totals_size(chunk);
  float* copy = widened + widened_size;
  for (std::size_t row = 0; row < p.rows; row += chunk) {
    const std::size_t rows = p.rows - row < chunk ? p.rows - row : chunk;
    const TileInput input = tile_input(p, row, rows, copy);
    if (!std::is_same_v<Weight, float> && rows <= tall_tile_rows) {
      tall_tile<Weight>(p, row, rows, input, totals);
      continue;
    }
    std::size_t n = 0;
    for (; n + (tile_panels - 1) * lanes < p.outputs; n += tile_panels * lanes) {
      if (n % p.period + tile_panels * lanes <= p.unused) continue;
      group<tile_panels, Weight>(p, row, rows, n, input, totals, widened);
    }
    if (n < p.outputs) group<1, Weight>(p, row, rows, n, input, totals, widened);
  }
}

#if defined(__AVX512F__)
/// Calls f(first, height) for the deep tiles of `rows` rows.
template <class F>
NEOXREF_INLINE void each_deep_tile(std::size_t rows, F&& f) {
  const std::size_t tiles = (rows + deep_tile_rows - 1) / deep_tile_rows;
  std::size_t first = 0;
  for (std::size_t t = 0; t < tiles; ++t) {
    const std::size_t height = rows / tiles + (t < rows % tiles ? 1 : 0);
    f(first, height);
    first += height;
  }
}

/// One panel after the other against all tiles of a chunk. Every block of a tile fetches its next one, the
/// last block the first one of the tile that follows; the first tile fetches the next panel too.
template <class Weight>
void deep_tiles(const Product& p) noexcept {
  const std::size_t chunk = even_rows(p.rows, most_deep_chunk_rows(p.rows));
  for (std::size_t row = 0; row < p.rows; row += chunk) {
    const std::size_t rows = p.rows - row < chunk ? p.rows - row : chunk;
    const TileInput input = tile_input(p, row, rows, p.scratch);
    for (std::size_t n = 0; n < p.outputs; n += lanes) {
      if (n % p.period + lanes <= p.unused) continue;
      const WeightView<Weight> weights = view<Weight>(p.weights, n);
      const std::size_t ahead =
          address(view<Weight>(p.weights, n + lanes < p.outputs ? n + lanes : 0).data) -
          address(weights.data);
      each_deep_tile(rows, [&](std::size_t first, std::size_t height) {
        const std::size_t following = first + height < rows ? first + height : 0;
        const auto tile = first == 0 ? deep_tile_functions<Weight, true>[height - 1]
                                     : deep_tile_functions<Weight, false>[height - 1];
        tile(input.data + first * dot_block, input.block, input.data + following * dot_block,
             p.depth, weights, destination(p, row + first, n), ahead);
      });
    }
  }
}
#endif

template <bool deep, class Weight>
void product_of(const Product& p) noexcept {
  if (p.rows <= stream_rows || p.depth == 0) return few_rows<Weight>(p);
#if defined(__AVX512F__)
  // Weights of 32 bits come from the caches too slowly to be read once for each tile of one panel. What
  // a tall tile can take all at once is faster so than in two.
  if constexpr (deep && !std::is_same_v<Weight, float>) {
    if (p.rows <= deep_tile_rows || p.rows > tall_tile_rows) return deep_tiles<Weight>(p);
  }
#endif
  many_rows<Weight>(p);
}

template <bool deep>
void product_of_dtype(const Product& p) noexcept {
  switch (p.weights.dtype) {
    case Dtype::f32:
      return product_of<deep, float>(p);
    case Dtype::f16:
      return product_of<deep, f16_bits>(p);
    case Dtype::bf16:
      return product_of<deep, bf16_bits>(p);
  }
}

}  // namespace

void product(const Product& p) noexcept {
  product_of_dtype<false>(p);
}

#if defined(__AVX512F__)
void deep_product(const Product& p) noexcept {
  product_of_dtype<true>(p);
}
#endif

}  // namespace neoxref::simd::NEOXREF_ISA
