// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "eval/envelope.hpp"
#include "eval/units.hpp"

namespace neoxref::eval {

/// What a tensor was measured with. They are never mixed: a ratio to a bound above 1 is proof that the
/// backend is not of the profile; a ratio to an envelope is evidence.
enum class Yardstick : std::uint8_t { bound, envelope, none };
/// "bound", "envelope", "none".
std::string_view yardstick_name(Yardstick yardstick);

/// Largest RMS error over envelope RMS that passes: above what the runs of an envelope and honest
/// backends show (docs/bounds.md).
inline constexpr double envelope_limit = 3.0;

struct Verdict {
  Yardstick yardstick = Yardstick::none;
  double ratio = 0.0;  ///< own error / bound, or RMS error / envelope RMS
  bool passes = true;  ///< ratio <= 1, or <= envelope_limit; nothing to measure with passes nothing
};

/// By the bound where every element has one; else by the envelope, where that is given and has measured
/// the tensor; else yardstick none, which does not pass.
Verdict judge(const UnitSummary& summary, const EnvelopeOfTensor* envelope);

}  // namespace neoxref::eval
