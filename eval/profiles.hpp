// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "engine/tensors.hpp"

namespace neoxref::eval {

/// How numbers are held. kld16 is the sixteen-bit logit base of llama.cpp (log-probabilities on an even
/// grid from the row's largest down to 16 below it); it can only be the storage of embed_out.
enum class Format : std::uint8_t { f32, tf32, bf16, f16, kld16 };
/// nearest: to nearest. truncate: to either neighbour, as adders of matrix units do that align all
/// terms with the largest and drop what falls below.
enum class Rounding : std::uint8_t { nearest, truncate };
/// two_pass: the mean, then the mean of squared differences. one_pass: E[x^2] - E[x]^2.
enum class LayerNormForm : std::uint8_t { two_pass, one_pass };

/// "f32", "tf32", "bf16", "f16", "kld16".
std::string_view format_name(Format format);
/// Rounding to nearest: |RN(x) - x| <= unit |x| + least / 2 for |x| <= largest. Not for kld16.
struct FormatLimits {
  double unit;          ///< 2^-p for p bits of significand
  double least;         ///< smallest subnormal number
  double least_normal;  ///< smallest normal number
  double largest;       ///< largest finite number
};
const FormatLimits& format_limits(Format format);
/// RN of x in the format, subnormal numbers kept; too large becomes infinite. Not for kld16.
double round_to(Format format, double x);
/// Every number of `narrow` is one of `wide`.
bool fits(Format narrow, Format wide);

/// What is known of how a backend computes: all that a bound or an envelope assumes (docs/bounds.md).
struct Profile {
  std::string name;

  // Products: linear layers, scores, weighted values.
  Format operands = Format::f32;  ///< that both factors are rounded to
  Rounding operand_rounding = Rounding::nearest;
  Format accumulator = Format::f32;  ///< f32 or f16; sums in any order and blocking, fused or not
  Rounding accumulator_rounding = Rounding::nearest;
  bool folded_weights =
      false;  ///< gains and biases of norms may be multiplied into the next product

  // Between products.
  Format pointwise = Format::f32;  ///< each step of rotary and residual
  Format internal = Format::f32;   ///< inside LayerNorm, softmax and activation
  LayerNormForm layer_norm = LayerNormForm::two_pass;
  bool online_softmax = false;     ///< sums are scaled anew when the maximum grows
  std::size_t softmax_block = 16;  ///< least slots between two such scalings

  /// What each tensor is stored as, by engine::Tensor, and the three that have no name there.
  std::array<Format, 14> storage{};
  Format scores = Format::f32;
  Format probabilities = Format::f32;
  Format rotary_table = Format::f32;
  /// What the file holds may be narrower than what the backend went on with.
  Format dump = Format::f32;

  /// Errors of functions in units in the last place of `internal`; 0.5 is correct rounding. gelu and
  /// silu stand for the tanh, erf or exp inside.
  struct Functions {
    double exp = 2.0;
    double gelu = 8.0;  ///< an erf of five coefficients is off by so much
    double tanh = 2.0;
    double silu = 2.0;
    double rsqrt = 2.0;
    double cos_sin = 2.0;
    double power = 0.5;  ///< of the rotary frequencies: 0.5 gives angles within 3 u
  } functions;

  /// Formats whose subnormal numbers may be taken for zero, as operands and as results.
  std::set<Format> flushed;

  Format stored(engine::Tensor tensor) const { return storage[static_cast<std::size_t>(tensor)]; }
};

/// f32, tf32, bf16-acc32, f16-acc32, bf16-flash, kld16.
std::span<const std::string_view> shipped_profiles();
/// Errors: Error for an unknown name, naming those there are.
Profile shipped_profile(std::string_view name);

/// Reads a profile file (docs/bounds.md, "Profiles"): a JSON object that names a shipped profile as
/// "base" and what is different. Errors: Error for unknown fields, names and values.
Profile parse_profile(std::string_view text, std::string_view where);
/// A shipped name, or the path of a profile file (anything that ends in ".json").
Profile read_profile(const std::string& name_or_path);
/// The file that parse_profile reads back as this profile: every field.
std::string profile_text(const Profile& profile);

}  // namespace neoxref::eval
