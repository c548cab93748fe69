// SPDX-License-Identifier: Apache-2.0
#include "engine/plain_press.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <type_traits>

#include "engine/sampler.hpp"
#include "simd/scalar/ieee.hpp"

namespace neoxref::engine {
namespace {

template <class Real>
Real length(const std::vector<Real>& x) {
  const auto component = [&](std::size_t i) { return x[i]; };
  return std::sqrt(simd::scalar::dot(x.size(), component, component));
}

/// What the last `window` tokens gave a slot, or all of them, in their order.
template <class Real>
double drawn(const PlainHead<Real>& head, std::size_t slot, std::size_t window) {
  double sum = 0.0;
  for (std::size_t t = head.attention.size() - std::min(window, head.attention.size());
       t < head.attention.size(); ++t) {
    if (slot < head.attention[t].size()) sum += static_cast<double>(head.attention[t][slot]);
  }
  return sum;
}

template <class Real>
std::vector<Real> score_own(const OwnScore& own, const std::vector<PlainHead<Real>>& heads,
                            const PlainPlace<Real>& place, std::size_t wanted) {
  const std::size_t slots = heads[0].keys.size();
  const std::size_t head_dim = heads[0].keys[0].size();
  std::vector<float> keys;
  std::vector<float> values;
  std::vector<float> norms;
  std::vector<std::int32_t> positions;
  const auto narrow = [](Real x) { return static_cast<float>(x); };
  for (const PlainHead<Real>& head : heads) {
    for (std::size_t slot = 0; slot < slots; ++slot) {
      std::transform(head.keys[slot].begin(), head.keys[slot].end(), std::back_inserter(keys),
                     narrow);
      std::transform(head.values[slot].begin(), head.values[slot].end(), std::back_inserter(values),
                     narrow);
      norms.push_back(narrow(head.norms[slot]));
      positions.push_back(head.positions[slot]);
    }
  }
  std::vector<float> scores(heads.size() * slots);
  own.score({place.layer, heads.size(), slots, head_dim, keys, values, norms, positions}, scores);
  const auto first = scores.begin() + static_cast<std::ptrdiff_t>(wanted * slots);
  return {first, first + static_cast<std::ptrdiff_t>(slots)};
}

template <class Real>
std::vector<Real> score_all(const Press& press, const std::vector<PlainHead<Real>>& heads,
                            std::size_t index, const PlainPlace<Real>& place) {
  if (press.score == Score::own) return score_own(*press.own, heads, place, index);
  const PlainHead<Real>& head = heads[index];
  const std::size_t slots = head.keys.size();
  const std::size_t tokens = head.attention.size();
  const auto age = [&](std::size_t slot) {
    return tokens - static_cast<std::size_t>(head.positions[slot]);
  };
  std::vector<Real> scores(slots);
  const auto draw = [&](std::size_t slot, std::size_t cut) {
    const auto word = philox(
        {static_cast<std::uint32_t>(head.positions[slot]), static_cast<std::uint32_t>(place.layer),
         static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(cut)},
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
          centered[d] = key[d] - place.key_bias[index][d];
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
      case Score::observed:
        scores[slot] =
            static_cast<Real>(drawn(head, slot, tokens) / static_cast<double>(age(slot)));
        break;
      case Score::observed_sum:
        scores[slot] = static_cast<Real>(drawn(head, slot, tokens));
        break;
      case Score::tova: {
        double sum = 0.0;
        for (const PlainHead<Real>& each : heads) sum += drawn(each, slot, 1);
        scores[slot] = static_cast<Real>(sum / static_cast<double>(heads.size()));
        if (age(slot) == 1) scores[slot] = 2;
        break;
      }
      case Score::snapkv: {
        const std::size_t window = std::min(press.window, tokens);
        double sum = 0.0;
        for (std::size_t near = 0; near < slots; ++near) {
          const std::size_t distance = near > slot ? near - slot : slot - near;
          if (distance <= press.pool / 2 && age(near) > window) sum += drawn(head, near, window);
        }
        scores[slot] = static_cast<Real>(sum / static_cast<double>(window * press.pool));
        if (age(slot) <= window) scores[slot] = 2;
        break;
      }
      case Score::own:
        break;
    }
  }
  return scores;
}

}  // namespace

template <class Real>
PlainHead<Real> PlainHead<Real>::only(const std::vector<std::size_t>& kept) const {
  const auto pick = [&](const auto& of_slots) {
    std::remove_cvref_t<decltype(of_slots)> left;
    for (const std::size_t slot : kept) left.push_back(of_slots[slot]);
    return left;
  };
  PlainHead left{pick(keys), pick(raw), pick(values), pick(norms), pick(positions), {}};
  for (std::vector<Real> given : attention) {
    given.resize(keys.size());
    left.attention.push_back(pick(given));
  }
  return left;
}

template struct PlainHead<float>;
template struct PlainHead<double>;

template <class Real>
std::vector<std::vector<std::size_t>> kept_slots(const Press& press,
                                                 const std::vector<PlainHead<Real>>& heads,
                                                 const PlainPlace<Real>& place) {
  std::vector<std::vector<std::size_t>> kept_of_heads;
  for (std::size_t head = 0; head < heads.size(); ++head) {
    const std::size_t slots = heads[head].keys.size();
    const std::vector<Real> scores = score_all(press, heads, head, place);
    const Budget& budget = press.budget_of(place.layer);
    const std::size_t room =
        budget.slots > 0 ? std::min(budget.slots, slots) : budget.keep_ratio.of(slots);
    std::vector<std::size_t> kept;
    std::vector<std::size_t> others;
    for (std::size_t slot = 0; slot < slots; ++slot) {
      const bool is_protected = slot < press.sinks || slots - slot <= press.recent;
      (is_protected ? kept : others).push_back(slot);
    }
    std::stable_sort(others.begin(), others.end(),
                     [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    for (const std::size_t slot : others) {
      if (kept.size() < room) kept.push_back(slot);
    }
    std::sort(kept.begin(), kept.end());
    if (press.order == Order::score && kept.size() < slots) {
      std::stable_sort(kept.begin(), kept.end(),
                       [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    }
    kept_of_heads.push_back(std::move(kept));
  }
  return kept_of_heads;
}

template std::vector<std::vector<std::size_t>> kept_slots(const Press&,
                                                          const std::vector<PlainHead<float>>&,
                                                          const PlainPlace<float>&);
template std::vector<std::vector<std::size_t>> kept_slots(const Press&,
                                                          const std::vector<PlainHead<double>>&,
                                                          const PlainPlace<double>&);

}  // namespace neoxref::engine
