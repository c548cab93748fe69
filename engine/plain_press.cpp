// SPDX-License-Identifier: Apache-2.0
#include "engine/plain_press.hpp"

#include <algorithm>
#include <cmath>

#include "engine/sampler.hpp"
#include "simd/scalar/ieee.hpp"

namespace neoxref::engine {
namespace {

template <class Real>
Real length(const std::vector<Real>& x) {
  const auto component = [&](std::size_t i) { return x[i]; };
  return std::sqrt(simd::scalar::dot(x.size(), component, component));
}

template <class Real>
std::vector<Real> score_all(const Press& press, const PlainHead<Real>& head,
                            const PlainPlace<Real>& place) {
  const std::size_t slots = head.keys.size();
  std::vector<Real> scores(slots);
  const auto draw = [&](std::size_t slot, std::size_t cut) {
    const auto word = philox(
        {static_cast<std::uint32_t>(head.positions[slot]), static_cast<std::uint32_t>(place.layer),
         static_cast<std::uint32_t>(place.head), static_cast<std::uint32_t>(cut)},
        {static_cast<std::uint32_t>(press.seed), static_cast<std::uint32_t>(press.seed >> 32)})[0];
    return static_cast<Real>(word / 256);
  };
  std::vector<double> mean(slots > 0 ? head.keys[0].size() : 0);
  for (std::size_t slot = 0; slot < slots; ++slot) {
    for (std::size_t d = 0; d < mean.size(); ++d) {
      if (head.norms[slot] != 0) {
        mean[d] += static_cast<double>(head.keys[slot][d]) / static_cast<double>(head.norms[slot]);
      }
    }
  }
  for (std::size_t slot = 0; slot < slots; ++slot) {
    const std::vector<Real>& key = head.keys[slot];
    const auto turning = key.begin() + static_cast<std::ptrdiff_t>(place.rotary_dims);
    switch (press.score) {
      case Score::knorm:
        scores[slot] = -head.norms[slot];
        break;
      case Score::knorm_high:
        scores[slot] = head.norms[slot];
        break;
      case Score::knorm_rot:
        scores[slot] = -length(std::vector<Real>(key.begin(), turning));
        break;
      case Score::knorm_pass:
        scores[slot] = -length(std::vector<Real>(turning, key.end()));
        break;
      case Score::knorm_centered: {
        std::vector<Real> centered = key;
        for (std::size_t d = place.rotary_dims; d < key.size() && !place.key_bias.empty(); ++d) {
          centered[d] = key[d] - place.key_bias[d];
        }
        scores[slot] = -length(centered);
        break;
      }
      case Score::vnorm:
        scores[slot] = length(head.values[slot]);
        break;
      case Score::vk_ratio:
        scores[slot] =
            length(head.values[slot]) == 0 ? Real{0} : length(head.values[slot]) / head.norms[slot];
        break;
      case Score::recent:
        scores[slot] = static_cast<Real>(slot);
        break;
      case Score::keydiff: {
        double product = 0.0;
        for (std::size_t d = 0; d < key.size(); ++d) {
          product += static_cast<double>(key[d]) * mean[d];
        }
        const auto norm = static_cast<double>(head.norms[slot]);
        scores[slot] = norm == 0.0 ? Real{0} : static_cast<Real>(-(product / norm));
        break;
      }
      case Score::random:
        scores[slot] = draw(slot, 0);
        break;
      case Score::random_fresh:
        scores[slot] = draw(slot, place.cuts + 1);
        break;
    }
  }
  return scores;
}

}  // namespace

template <class Real>
std::vector<std::size_t> kept_slots(const Press& press, const PlainHead<Real>& head,
                                    const PlainPlace<Real>& place) {
  const std::size_t slots = head.keys.size();
  const std::vector<Real> scores = score_all(press, head, place);
  const std::size_t budget =
      press.slots > 0 ? std::min(press.slots, slots) : press.keep_ratio.of(slots);
  std::vector<std::size_t> kept;
  std::vector<std::size_t> others;
  for (std::size_t slot = 0; slot < slots; ++slot) {
    const bool is_protected = slot < press.sinks || slots - slot <= press.recent;
    (is_protected ? kept : others).push_back(slot);
  }
  std::stable_sort(others.begin(), others.end(),
                   [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  for (const std::size_t slot : others) {
    if (kept.size() < budget) kept.push_back(slot);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

template std::vector<std::size_t> kept_slots(const Press&, const PlainHead<float>&,
                                             const PlainPlace<float>&);
template std::vector<std::size_t> kept_slots(const Press&, const PlainHead<double>&,
                                             const PlainPlace<double>&);

}  // namespace neoxref::engine
