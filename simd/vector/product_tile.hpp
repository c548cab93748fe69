// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "simd/kernels.hpp"
#include "simd/vector/freed.hpp"
#include "simd/vector/lanes.hpp"
#include "simd/vector/scratch.hpp"

/// Register tiles of a product: lanes run over outputs, so an output's chain of fma is the same in
/// every tile and on every instruction set.
namespace neoxref::simd::NEOXREF_ISA {
namespace {

#if defined(__AVX512F__)
inline constexpr std::size_t tile_rows = 12;
inline constexpr std::size_t tile_panels = 2;
inline constexpr std::size_t tall_tile_rows = 24;  ///< of one panel
#else
// Two (AVX2) or four (NEON) registers a panel: 12 of 16, or 24 of 32, hold sums.
inline constexpr std::size_t tile_rows = 6;
inline constexpr std::size_t tile_panels = 1;
inline constexpr std::size_t tall_tile_rows = tile_rows;
#endif

static_assert(tile_rows <= max_tile_rows && tile_panels * lanes <= max_group_columns);

/// An address to fetch from: a number, because it may lie past the end of what is there.
template <class T>
std::uintptr_t address(const T* data, std::size_t offset = 0) {
  return reinterpret_cast<std::uintptr_t>(data) + offset * sizeof(T);
}

inline void fetch(std::uintptr_t from) {
  __builtin_prefetch(reinterpret_cast<const void*>(from));
}

/// The type of a packed weight that is not binary32 is a bit pattern that `load` widens.
template <class Weight>
struct WeightView {
  const Weight* data;
  std::size_t step;
  std::size_t panel;
};

/// The sums of a tile as bare registers, [rows][panels][parts32]: gcc 12 keeps an array of f32x16
/// in memory beside its registers, an array of these it does not.
template <std::size_t rows, std::size_t panels>
struct TileSums {
  static constexpr std::size_t width = panels * parts32;
  Native32::register_type at[rows * width];
};

/// Rows of input that the streaming kernel takes at a time, and panels of weights from a cache.
inline constexpr std::size_t stream_rows = 4;
inline constexpr std::size_t stream_panels = 4;

/// Steps of depth that weights are fetched before their use where the processor's own fetching ahead does
/// not suffice.
inline constexpr std::size_t steps_ahead = 128;

inline constexpr auto nothing = [](auto&&...) {};

/// The sums of one block: `count` steps of fma from +0 (freed: from what the sums are), ascending.
/// Calls each_step(w) at every step, whose weights are at w, and keep(p, k, weights) for each panel p.
template <std::size_t rows, std::size_t panels, class Weight, class EachStep, class Keep>
NEOXREF_INLINE void block_sums(TileSums<rows, panels>& sums, const float* input,
                               std::size_t input_stride, const WeightView<Weight>& weights,
                               std::size_t count, EachStep&& each_step, Keep&& keep) {
  constexpr std::size_t width = TileSums<rows, panels>::width;
  // The chains of few rows of one panel leave the processor waiting, unless it sees the next block's:
  // that takes few instructions a step.
  constexpr std::size_t unrolled = panels == 1 && rows <= stream_rows ? 4 : 1;
  if constexpr (!freed) repeat<rows * width>([&](auto i) { sums.at[i] = Native32(0.0f); });
  const Weight* w = weights.data;
  const auto step = [&](std::size_t k) NEOXREF_INLINED {
    each_step(w);
    Native32::register_type column[width];
    repeat<panels>([&](auto p) {
      const f32x16 panel = load(w + p * weights.panel);
      keep(p, k, panel);
      repeat<parts32>([&](auto q) { column[p * parts32 + q] = panel.part[q]; });
    });
    w += weights.step;
    repeat<rows>([&](auto r) {
      const Native32 x(input[r * input_stride + k]);
      repeat<width>([&](auto i) {
        sums.at[r * width + i] = fma_native(x, column[i], sums.at[r * width + i]);
      });
    });
  };
  std::size_t k = 0;
  if constexpr (unrolled > 1) {
    for (; k + unrolled <= count; k += unrolled) {
      repeat<unrolled>([&](auto u) NEOXREF_INLINED { step(k + u); });
    }
  }
  for (; k < count; ++k) step(k);
}

/// f(r, i, sum) for register i of row r, whose first column is i * Native32::size.
template <std::size_t rows, std::size_t panels, class F>
NEOXREF_INLINE void each_sum(TileSums<rows, panels>& sums, F&& f) {
  constexpr std::size_t width = TileSums<rows, panels>::width;
  repeat<rows>([&](auto r) { repeat<width>([&](auto i) { f(r, i, sums.at[r * width + i]); }); });
}

/// packed [depth / 64][rows][64]: a block of a tile is contiguous, whatever the input's stride.
/// Row by row, so that the processor sees where the input goes on.
inline void pack(const float* input, std::size_t input_stride, std::size_t input_block,
                 std::size_t rows, std::size_t depth, float* packed) noexcept {
  for (std::size_t r = 0; r < rows; ++r) {
    const float* from = input + r * input_stride;
    float* to = packed + r * dot_block;
    std::size_t left = depth;
    for (; left >= dot_block; left -= dot_block) {
      repeat<dot_block / lanes>(
          [&](auto i) NEOXREF_INLINED { store(to + i * lanes, load(from + i * lanes)); });
      from += input_block;
      to += rows * dot_block;
    }
    for (std::size_t k = 0; k < left; k += lanes) {
      store_up_to(to + k, load_up_to(from + k, left - k), left - k);
    }
  }
}

/// Where the finished outputs of a tile go.
struct Destination {
  float* output;
  std::size_t stride;
  std::size_t columns;  ///< outputs from here on; a tile writes no more than these
  const float* bias;    ///< of the first column, or null
};

/// output = sums, plus bias, where a tile has all its columns.
template <std::size_t rows, std::size_t panels>
NEOXREF_INLINE void store_whole(TileSums<rows, panels>& sums, const Destination& to) {
  constexpr std::size_t size = Native32::size;
  if (to.bias != nullptr) {
    each_sum(sums, [&](auto, auto i, auto& sum) {
      sum = Native32(sum) + Native32::load_unaligned(to.bias + i * size);
    });
  }
  each_sum(sums, [&](auto r, auto i, auto& sum) {
    Native32(sum).store_unaligned(to.output + r * to.stride + i * size);
  });
}

/// output = totals [rows][columns], plus bias.
inline void finish(const float* totals, std::size_t totals_stride, std::size_t rows,
                   const Destination& to) noexcept {
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t n = 0; n < to.columns; n += lanes) {
      const std::size_t width = to.columns - n;
      f32x16 v = load(totals + r * totals_stride + n);
      if (to.bias != nullptr) v = v + load_up_to(to.bias + n, width);
      store_up_to(to.output + r * to.stride + n, v, width);
    }
  }
}

/// Blocks of depth of one tile.
struct TileStep {
  const float* input;  ///< [blocks][rows][dot_block]
  std::size_t count;   ///< steps of depth, at least 1; only the last block may be short
  float* totals;       ///< [rows][panels][lanes], the sums of the blocks so far
  bool first;
  bool last;
  std::size_t input_block = 0;  ///< floats from one block of the input to the next
  std::uintptr_t ahead = 0;     ///< memory to fetch meanwhile: so many bytes a step of depth,
  std::size_t ahead_step = 0;
  std::size_t ahead_block = 0;  ///< and from one block to the next
  float* widened = nullptr;     ///< [panels][widened_panel / lanes][lanes], where a tile that keeps
  std::size_t widened_panel = 0;  ///< its weights puts them
};

template <std::size_t rows, std::size_t panels, class Weight, bool keeps>
void tile_step(const TileStep& step, const WeightView<Weight>& weights,
               const Destination& to) noexcept {
  constexpr std::size_t size = Native32::size;
  // Copies: the stores below could be stores to what these references refer to.
  float* const totals = step.totals;
  const auto total = [&](auto r, auto i) { return totals + (r * panels * parts32 + i) * size; };
  const float* input = step.input;
  const std::size_t input_block = step.input_block;
  const std::size_t ahead_step = step.ahead_step;
  const std::size_t ahead_block = step.ahead_block;
  std::uintptr_t ahead = step.ahead;
  float* widened = step.widened;
  const std::size_t widened_panel = step.widened_panel;
  WeightView<Weight> block = weights;
  std::size_t left = step.count;
  bool first = step.first;
  const bool last = step.last;
  const bool straight_out = last && to.columns >= panels * lanes;
  if (straight_out) {
    repeat<rows>([&](auto r) {
      repeat<panels>([&](auto p) { __builtin_prefetch(to.output + r * to.stride + p * lanes, 1); });
    });
  }
  TileSums<rows, panels> sums;
  if constexpr (freed) {
    each_sum(sums, [&](auto r, auto i, auto& sum) {
      sum = first ? Native32(0.0f) : Native32::load_unaligned(total(r, i));
    });
  }
  while (true) {
    const std::size_t count = left < dot_block ? left : dot_block;
    std::uintptr_t line = ahead;
    block_sums(
        sums, input, dot_block, block, count,
        [&](auto) {
          fetch(line);
          line += ahead_step;
        },
        [&](auto p, std::size_t k, const f32x16& panel) NEOXREF_INLINED {
          if constexpr (keeps) store(widened + p * widened_panel + k * lanes, panel);
        });
    ahead += ahead_block;
    if constexpr (keeps) widened += dot_block * lanes;
    if (freed) {
    } else if (first) {
      each_sum(sums, [&](auto, auto, auto& sum) { sum = Native32(0.0f) + Native32(sum); });
    } else {
      each_sum(sums, [&](auto r, auto i, auto& sum) {
        sum = Native32::load_unaligned(total(r, i)) + Native32(sum);
      });
    }
    left -= count;
    if (left == 0) break;
    if constexpr (!freed) {
      each_sum(sums,
               [&](auto r, auto i, auto& sum) { Native32(sum).store_unaligned(total(r, i)); });
    }
    first = false;
    input += input_block;
    block.data += dot_block * block.step;
  }
  if (straight_out) {
    store_whole(sums, Destination(to));
    return;
  }
  each_sum(sums, [&](auto r, auto i, auto& sum) { Native32(sum).store_unaligned(total(r, i)); });
  if (last) finish(totals, panels * lanes, rows, to);
}

template <class Weight>
using TileFunction = void (*)(const TileStep&, const WeightView<Weight>&,
                              const Destination&) noexcept;

template <std::size_t panels, class Weight, bool keeps, std::size_t... row>
constexpr auto tiles_of(std::index_sequence<row...>) {
  return std::array<TileFunction<Weight>, sizeof...(row)>{
      &tile_step<row + 1, panels, Weight, keeps>...};
}

/// tile_functions<panels, Weight>[rows - 1]
template <std::size_t panels, class Weight>
inline constexpr auto tile_functions =
    tiles_of<panels, Weight, false>(std::make_index_sequence<tile_rows>{});

/// The same for tiles that leave their weights, widened, to those that follow.
template <std::size_t panels, class Weight>
inline constexpr auto keeping_tile_functions =
    tiles_of<panels, Weight, true>(std::make_index_sequence<tile_rows>{});

/// Tiles of one panel, of up to tall_tile_rows.
template <class Weight>
inline constexpr auto tall_tile_functions =
    tiles_of<1, Weight, false>(std::make_index_sequence<tall_tile_rows>{});

/// Where a tile that takes all of depth finds its input.
struct DeepInput {
  const float* data;
  std::size_t stride;  ///< floats from a row to the next
  std::size_t block;   ///< floats from a block of depth to the next
};

/// All of depth: weights are read in the order of memory within each panel, and nothing goes through
/// scratch. Calls each_block(x, left) before every block of input, which is at x, `left` steps from the
/// end, and each_step(w) as block_sums does.
template <std::size_t rows, std::size_t panels, class Weight, class EachBlock, class EachStep>
NEOXREF_INLINE void all_of_depth(DeepInput input, std::size_t depth,
                                 const WeightView<Weight>& weights, const Destination& to,
                                 EachBlock&& each_block, EachStep&& each_step) {
  TileSums<rows, panels> totals;
  each_sum(totals, [](auto, auto, auto& total) { total = Native32(0.0f); });
  const float* x = input.data;
  WeightView<Weight> block = weights;
  for (std::size_t left = depth; left > 0;) {
    const std::size_t count = left < dot_block ? left : dot_block;
    each_block(x, left);
    if constexpr (freed) {
      block_sums(totals, x, input.stride, block, count, each_step, nothing);
    } else {
      TileSums<rows, panels> sums;
      block_sums(sums, x, input.stride, block, count, each_step, nothing);
      repeat<rows * TileSums<rows, panels>::width>(
          [&](auto i) { totals.at[i] = Native32(totals.at[i]) + Native32(sums.at[i]); });
    }
    left -= count;
    if (left == 0) break;
    x += input.block;
    block.data += dot_block * block.step;
  }
  const Destination out = to;
  if (out.columns >= panels * lanes) {
    store_whole(totals, out);
    return;
  }
  repeat<rows>([&](auto r) {
    repeat<panels>([&](auto p) {
      f32x16 v;
      repeat<parts32>([&](auto q) { v.part[q] = totals.at[(r * panels + p) * parts32 + q]; });
      const std::size_t width = out.columns - p * lanes;
      if (out.bias != nullptr) v = v + load_up_to(out.bias + p * lanes, width);
      store_up_to(out.output + r * out.stride + p * lanes, v, width);
    });
  });
}

/// For few rows: weights are read once. Several panels hide the latency of each other's chains; one by one,
/// weights are read in the order of memory, which answers a quarter to a third faster then. The processor
/// fetches ahead by itself where it sees far enough, up to two rows.
template <std::size_t rows, std::size_t panels, class Weight>
void stream(const DeepInput& input, std::size_t depth, const WeightView<Weight>& weights,
            const Destination& to) noexcept {
  if constexpr (panels > 1 || rows <= 2) {
    all_of_depth<rows, panels>(input, depth, weights, to, nothing, nothing);
  } else {
    const std::size_t ahead = steps_ahead * weights.step;
    all_of_depth<rows, 1>(input, depth, weights, to, nothing,
                          [ahead](const Weight* w) { fetch(address(w, ahead)); });
  }
}

template <class Weight>
using StreamFunction = void (*)(const DeepInput&, std::size_t, const WeightView<Weight>&,
                                const Destination&) noexcept;

template <std::size_t rows, class Weight, std::size_t... panel>
constexpr auto streams_of(std::index_sequence<panel...>) {
  return std::array<StreamFunction<Weight>, sizeof...(panel)>{&stream<rows, panel + 1, Weight>...};
}

/// stream_functions<rows, Weight>[panels - 1]
template <std::size_t rows, class Weight>
inline constexpr auto stream_functions =
    streams_of<rows, Weight>(std::make_index_sequence<stream_panels>{});

#if defined(__AVX512F__)
/// For a processor that does one 512-bit fma a cycle (dispatch.cpp): it has time to load an element of
/// input for every fma and to widen the weights of a panel for every tile, but none for totals that
/// come and go.
/// input  [blocks][rows][64], a block `input_block` floats behind the one before. Each block fetches the
///        next one, the last what begins at `following`.
/// ahead  where `fetches`: bytes from the weights to what is fetched with them.
template <std::size_t rows, class Weight, bool fetches>
void deep_tile(const float* input, std::size_t input_block, const float* following,
               std::size_t depth, const WeightView<Weight>& weights, const Destination& to,
               std::size_t ahead) noexcept {
  std::uintptr_t next = 0;
  all_of_depth<rows, 1>(
      {input, dot_block, input_block}, depth, weights, to,
      [&](const float* x, std::size_t left) {
        next = left > dot_block ? address(x, input_block) : address(following);
      },
      [&](const Weight* w) {
        if constexpr (fetches) fetch(address(w) + ahead);
        // 64 steps for the 64 floats of each row.
        fetch(next);
        next += rows * sizeof(float);
      });
}

template <class Weight>
using DeepTileFunction = void (*)(const float*, std::size_t, const float*, std::size_t,
                                  const WeightView<Weight>&, const Destination&,
                                  std::size_t) noexcept;

template <class Weight, bool fetches, std::size_t... row>
constexpr auto deep_tiles_of(std::index_sequence<row...>) {
  return std::array<DeepTileFunction<Weight>, sizeof...(row)>{
      &deep_tile<row + 1, Weight, fetches>...};
}

/// deep_tile_functions<Weight, fetches>[rows - 1]
template <class Weight, bool fetches>
inline constexpr auto deep_tile_functions =
    deep_tiles_of<Weight, fetches>(std::make_index_sequence<deep_tile_rows>{});
#endif

}  // namespace
}  // namespace neoxref::simd::NEOXREF_ISA
