// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

/// Numbers, not models: the kernels that every output bit goes through, one table per instruction
/// set. The table of Isa::scalar defines each result (docs/contract.md as plain loops); every other
/// table must give the same bits. No kernel allocates, throws or reads a global.
namespace neoxref::simd {

/// zen4 is avx512 with other products of 16-bit weights, for a processor that does one 512-bit fma a
/// cycle, not two. It runs wherever avx512 does; docs/design.md says where it is taken for the best.
enum class Isa : std::uint8_t { scalar, avx2, avx512, zen4, neon };
enum class Dtype : std::uint8_t { f32, f16, bf16 };

/// Correctly rounded functions of one binary32 argument (docs/contract.md, "Functions").
/// gelu_tanh is gelu_new and gelu_pytorch_tanh; gelu_fast is the same with the decimal 0.7978845608.
enum class Function : std::uint8_t {
  exp,
  log,
  tanh,
  silu,
  gelu,
  gelu_tanh,
  gelu_fast,
  quick_gelu,
  relu,
  sin,
  cos
};

/// Lanes of the layouts: weights, key panels and lane sums all come in groups of 16.
inline constexpr std::size_t lanes = 16;
/// Length of a block of `dot`: the partial sum of each block is added in block order.
inline constexpr std::size_t dot_block = 64;

/// Where element k of a row lies behind its first, the row's blocks of 64 beginning `block` floats apart.
constexpr std::size_t in_blocks(std::size_t k, std::size_t block) {
  return k / dot_block * block + k % dot_block;
}

constexpr std::size_t round_up(std::size_t n, std::size_t unit) {
  return (n + unit - 1) / unit * unit;
}

/// The right-hand side of a product. Element (k, n) is data[(n / 16) * panel + k * step + n % 16].
/// Weights are packed with step 16 and panel depth * 16; the values of a head are read in place with
/// step = value stride and panel 16. The last panel is padded: all its 16 columns can be read.
/// from_memory  whether they are too many to stay in a cache: read in their order then, which memory
///              answers fastest, else several panels side by side, whose chains hide each other's latency.
struct Panels {
  const void* data;
  Dtype dtype;
  std::size_t step;
  std::size_t panel;
  bool from_memory = false;
};

/// output[m, n] = dot(input[m, :], weights[:, n]) + bias[n], the addition only where bias is given.
/// input [rows, depth], element (m, k) at input + m * input_stride + k / 64 * input_block + k % 64;
///           output [rows, outputs] likewise; no overlap. A block of 64 makes it rows one after the
///           other. A stride of 64 makes it blocks of columns, [depth / 64][rows][64], which is how tiles
///           read it: other input of more than four rows is copied first. Blocks of output begin at
///           outputs 0, 64 and so on.
/// scratch   product_scratch() floats, 64-byte aligned, owned by the calling worker.
/// unused    of every `period` outputs nobody reads the first `unused`: they may stay as they were.
struct Product {
  std::size_t rows;
  std::size_t depth;
  std::size_t outputs;
  const float* input;
  std::size_t input_stride;
  Panels weights;
  const float* bias;
  float* output;
  std::size_t output_stride;
  float* scratch;
  std::size_t unused = 0;
  std::size_t period = 1;
  std::size_t input_block = dot_block;
  std::size_t output_block = dot_block;
};

/// Attention of consecutive queries of one head over its cache.
/// Query i sees the slots 0 .. first_slots + i - 1 (its own slot is the last of them).
/// query   [queries, head_dim], row i at query + i * query_stride.
/// keys    panels [slots/16][head_dim][16]; every float of a panel in use is finite.
/// values  [slots, value_stride], value_stride a multiple of 16, columns past head_dim are zero.
/// scale   above 0.
/// output  [queries, head_dim], row i at output + i * output_stride.
/// scratch attention_scratch(queries, slots, head_dim) floats, 64-byte aligned.
/// weights null, or out: the softmax itself, RN32(e_j / Z), row i at weights + i * weights_stride,
///         as many as query i sees.
struct Attention {
  std::size_t queries;
  std::size_t first_slots;
  std::size_t head_dim;
  const float* query;
  std::size_t query_stride;
  const float* keys;
  const float* values;
  std::size_t value_stride;
  float scale;
  float* output;
  std::size_t output_stride;
  float* scratch;
  float* weights = nullptr;
  std::size_t weights_stride = 0;
};

struct MaxAndSum {
  float max;  ///< largest element; NaN if any element is NaN
  float sum;  ///< RN32(lane_sum(exp(x - max)))
};

struct Kernels {
  Isa isa;
  const char* name;

  /// See Product. Order: blocks of 64 along depth, fma ascending in each, sums added in block order.
  void (*product)(const Product&) noexcept;

  /// See Attention. Order: scores by dot over head_dim, then softmax and the weighted values by dot
  /// over the slots; the sum of exponentials is a lane_sum.
  void (*attention)(const Attention&) noexcept;

  /// y = LayerNorm(x) over n elements, element k at y + k / 64 * y_block + k % 64; with blocks of 64, x
  /// and y may be the same memory.
  /// Returns false when a lane sum is not finite (then y holds whatever follows from that).
  bool (*layer_norm)(const float* x, std::size_t n, const float* gamma, const float* beta,
                     float eps, float* y, std::size_t y_block) noexcept;

  /// Turns the pairs (i, i + rotary_dims/2) of x in place; cos, sin [rotary_dims/2].
  void (*rotate)(float* x, const float* cos, const float* sin, std::size_t rotary_dims) noexcept;

  /// Writes `count` keys into panels [slots/16][head_dim][16] from slot first_slot on.
  /// key [count, head_dim], row i at key + i * key_stride.
  void (*store_keys)(const float* key, std::size_t key_stride, std::size_t count,
                     std::size_t head_dim, float* panels, std::size_t first_slot) noexcept;

  /// norms[s] = sqrt(dot(k_s, k_s)) for s in [first_slot, first_slot + count), k_s read from panels.
  /// Returns false when one of them is not finite.
  bool (*key_norms)(const float* panels, std::size_t head_dim, std::size_t first_slot,
                    std::size_t count, float* norms) noexcept;

  /// Moves slot kept[j] to slot j, in place, for j in [0, count); kept ascends, so kept[j] >= j.
  void (*compact_keys)(float* panels, std::size_t head_dim, const std::uint32_t* kept,
                       std::size_t count) noexcept;
  void (*compact_rows)(float* rows, std::size_t stride, const std::uint32_t* kept,
                       std::size_t count) noexcept;

  /// out[i] = function(in[i]); in and out may be the same memory.
  void (*map)(Function function, const float* in, float* out, std::size_t n) noexcept;

  /// out[i] = (a[i] + b[i]) + c[i];  out may be a, b or c.
  void (*add3)(const float* a, const float* b, const float* c, float* out, std::size_t n) noexcept;
  /// out[i] = a[i] + b[i];  out may be a or b.
  void (*add)(const float* a, const float* b, float* out, std::size_t n) noexcept;

  /// Exact conversion of n values of dtype to binary32.
  void (*widen)(Dtype dtype, const void* in, float* out, std::size_t n) noexcept;

  /// max and RN32(lane_sum(exp(x - max))) of n >= 1 elements: the two sums of a token's nll.
  MaxAndSum (*max_and_sum)(const float* x, std::size_t n) noexcept;

  /// lane_sum(weights * (a - b)) over n elements, all of it in binary64.
  double (*weighted_difference)(const float* weights, const float* a, const float* b,
                                std::size_t n) noexcept;

  /// True when every one of the n elements is finite.
  bool (*all_finite)(const float* x, std::size_t n) noexcept;
};

/// Floats of scratch that a product or an attention call needs, on any instruction set. What a product
/// needs grows with its rows, but not always with its depth. in_blocks: its input_stride is 64.
std::size_t product_scratch(std::size_t rows, std::size_t depth, bool in_blocks = false);
std::size_t attention_scratch(std::size_t queries, std::size_t slots, std::size_t head_dim);

/// Instruction sets that were built in, and of those the ones this CPU runs, the best for it last.
std::span<const Isa> built_isas();
std::span<const Isa> usable_isas();

/// "scalar", "avx2", "avx512", "zen4", "neon".
std::string_view isa_name(Isa isa);

/// The table of one instruction set.
/// Errors: std::invalid_argument when it was not built or this CPU lacks it.
const Kernels& kernels(Isa isa);

/// The table for a name; an empty name means the environment variable NEOXREF_ISA, and when that is
/// unset or empty too, the best usable one.
/// Errors: std::invalid_argument for an unknown, not built or unsupported name. No silent fallback.
const Kernels& kernels(std::string_view name);

/// One float of a Function, by the scalar definition.
float evaluate(Function function, float x) noexcept;
/// Correctly rounded x^y for x > 0, finite arguments (load time only: the rotary table).
float pow(float x, float y) noexcept;

}  // namespace neoxref::simd
