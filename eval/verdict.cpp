// SPDX-License-Identifier: Apache-2.0
#include "eval/verdict.hpp"

#include <cmath>
#include <limits>

namespace neoxref::eval {

std::string_view yardstick_name(Yardstick yardstick) {
  switch (yardstick) {
    case Yardstick::bound:
      return "bound";
    case Yardstick::envelope:
      return "envelope";
    case Yardstick::none:
      break;
  }
  return "none";
}

Verdict judge(const UnitSummary& summary, const EnvelopeOfTensor* envelope) {
  Verdict verdict;
  if (summary.without_bound == 0 || summary.over_bound > 0) {
    verdict.yardstick = Yardstick::bound;
    verdict.ratio = summary.largest_ratio;
    verdict.passes = summary.over_bound == 0;
    return verdict;
  }
  if (envelope == nullptr || envelope->other_of_tokens.empty()) {
    verdict.passes = false;
    return verdict;
  }
  verdict.yardstick = Yardstick::envelope;
  verdict.ratio = envelope->rms_other == 0.0 ? 0.0 : envelope->rms_other / envelope->rms;
  if (std::isnan(verdict.ratio)) verdict.ratio = std::numeric_limits<double>::infinity();
  verdict.passes = verdict.ratio <= envelope_limit;
  return verdict;
}

}  // namespace neoxref::eval
