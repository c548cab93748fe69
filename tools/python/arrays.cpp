// SPDX-License-Identifier: Apache-2.0
// What the library does inside a model, on arrays from anywhere.
#include <algorithm>
#include <string>

#include "engine/buffer.hpp"
#include "engine/error.hpp"
#include "engine/selection.hpp"
#include "eval/digest.hpp"
#include "eval/perplexity.hpp"
#include "simd/float_environment.hpp"
#include "tools/python/bindings.hpp"

namespace neoxref::python {
namespace {

using engine::Error;

/// nll of tokens [n] under logits [n, vocab]: [n].
Floats nll(const Floats& logits, const Ids& tokens) {
  const auto vocab = static_cast<std::size_t>(logits.shape(1));
  const std::span<const std::int32_t> ids = view(tokens);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && static_cast<std::size_t>(ids[i]) < vocab) continue;
    throw Error("tokens", "token " + std::to_string(i) + " is outside the vocabulary",
                "0 to " + std::to_string(vocab - 1), std::to_string(ids[i]));
  }
  const simd::Kernels& kernels = simd::kernels(std::string_view{});
  Floats result = make_array<float>({ids.size()});
  float* const out = result.mutable_data();
  const float* const rows = logits.data();
  const py::gil_scoped_release released;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    out[i] = eval::nll(kernels, {rows + i * vocab, vocab}, ids[i]);
  }
  return result;
}

/// A cache that holds `keys`, `values` [heads, slots, head_dim] and `positions` [heads, slots] as
/// its layer `layer`.
engine::KvCache cache_of(const Floats& keys, const Floats& values, const Ids& positions,
                         std::size_t layer) {
  const auto heads = static_cast<std::size_t>(keys.shape(0));
  const auto slots = static_cast<std::size_t>(keys.shape(1));
  const auto head_dim = static_cast<std::size_t>(keys.shape(2));
  engine::KvCache cache({layer + 1, heads, head_dim}, std::max<std::size_t>(slots, 1));
  const simd::Kernels& kernels = simd::kernels(std::string_view{});
  const simd::FloatEnvironment environment;
  for (std::size_t head = 0; head < heads; ++head) {
    const std::size_t start = head * slots;
    kernels.store_keys(keys.data() + start * head_dim, head_dim, slots, head_dim,
                       cache.keys(layer, head), 0);
    if (!kernels.key_norms(cache.keys(layer, head), head_dim, 0, slots, cache.norms(layer, head))) {
      throw Error("keys", "a norm is not finite in head " + std::to_string(head));
    }
    for (std::size_t slot = 0; slot < slots; ++slot) {
      std::copy_n(values.data() + (start + slot) * head_dim, head_dim,
                  cache.values(layer, head) + slot * cache.value_stride());
    }
    std::copy_n(positions.data() + start, slots, cache.positions(layer, head));
    cache.set_length(layer, head, slots);
  }
  return cache;
}

/// |k| of keys [heads, slots, head_dim]: [heads, slots], the contract's sqrt(dot(k, k)).
Floats key_norms(const Floats& keys) {
  const auto heads = static_cast<std::size_t>(keys.shape(0));
  const auto slots = static_cast<std::size_t>(keys.shape(1));
  const auto head_dim = static_cast<std::size_t>(keys.shape(2));
  Floats norms = make_array<float>({heads, slots});
  float* const out = norms.mutable_data();
  const float* const rows = keys.data();
  const py::gil_scoped_release released;
  const simd::Kernels& kernels = simd::kernels(std::string_view{});
  const simd::FloatEnvironment environment;
  engine::Buffer<float> panels(simd::round_up(std::max<std::size_t>(slots, 1), simd::lanes) *
                               head_dim);
  for (std::size_t head = 0; head < heads; ++head) {
    kernels.store_keys(rows + head * slots * head_dim, head_dim, slots, head_dim, panels.data(), 0);
    if (!kernels.key_norms(panels.data(), head_dim, 0, slots, out + head * slots)) {
      throw Error("keys", "a norm is not finite in head " + std::to_string(head));
    }
  }
  return norms;
}

/// The press's score of each slot: [heads, slots]. key_bias [heads, head_dim] and attention [heads,
/// queries, slots], query i being the token of slot i, are empty where there are none.
Floats scores(const engine::Press& press, const Floats& keys, const Floats& values,
              const Ids& positions, std::size_t layer, std::size_t rotary_dims,
              const Floats& key_bias, const Floats& attention, std::size_t cuts) {
  const auto heads = static_cast<std::size_t>(keys.shape(0));
  const auto slots = static_cast<std::size_t>(keys.shape(1));
  const auto head_dim = static_cast<std::size_t>(keys.shape(2));
  Floats result = make_array<float>({heads, slots});
  float* const out = result.mutable_data();
  const py::gil_scoped_release released;
  const engine::KvCache cache = cache_of(keys, values, positions, layer);
  const simd::FloatEnvironment environment;
  if (press.score == engine::Score::own) {
    engine::score_layer(*press.own, cache, layer, slots, out);
    return result;
  }
  const engine::Extras extras = press.extras(rotary_dims);
  engine::Attended attended(cache.shape(), cache.capacity(), extras.attention_sums,
                            extras.attention_window);
  const bool by_attention = extras.attention_sums || extras.attention_window > 0;
  if (by_attention && attention.size() > 0) {
    for (std::size_t head = 0; head < heads; ++head) {
      attended.see(layer, head, 0, slots, 1, attention.data() + head * slots * slots, slots);
    }
  }
  std::vector<double> work(std::max(head_dim, slots));
  for (std::size_t head = 0; head < heads; ++head) {
    const float* const bias = key_bias.size() > 0 ? key_bias.data() + head * head_dim : nullptr;
    engine::score_slots(press,
                        {&cache, by_attention ? &attended : nullptr, layer, head, slots,
                         rotary_dims, bias, cuts, slots},
                        work.data(), out + head * slots);
  }
  return result;
}

/// The slots that a cut to `keep` leaves, ascending: [heads, keep]. scores [heads, slots].
Slots select(const Floats& ranked, std::size_t keep, std::size_t sinks, std::size_t recent) {
  const auto heads = static_cast<std::size_t>(ranked.shape(0));
  const auto slots = static_cast<std::size_t>(ranked.shape(1));
  const std::span<const float> all = view(ranked);
  const auto bad = std::find_if(all.begin(), all.end(), [](float x) { return !(x == x); });
  if (bad != all.end()) {
    const auto at = static_cast<std::size_t>(bad - all.begin());
    throw Error("scores", "slot " + std::to_string(at % slots) + " of head " +
                              std::to_string(at / slots) + " is NaN");
  }
  if (keep > slots || (sinks + recent > keep && keep < slots)) {
    throw Error("keep", "not usable", "sinks + recent to " + std::to_string(slots),
                std::to_string(keep));
  }
  Slots result = make_array<std::int64_t>({heads, keep});
  std::vector<std::uint64_t> ranking(slots);
  std::vector<std::uint32_t> kept(slots);
  for (std::size_t head = 0; head < heads; ++head) {
    engine::select_highest(all.data() + head * slots, slots, keep, sinks, recent, ranking.data(),
                           kept.data());
    std::copy_n(kept.begin(), keep, result.mutable_data() + head * keep);
  }
  return result;
}

}  // namespace

void bind_arrays(py::module_& module) {
  py::class_<eval::Digest>(module, "Digest")
      .def(py::init<>())
      .def("add", [](eval::Digest& digest, const Floats& values) { digest.add(view(values)); })
      .def("hex", &eval::Digest::hex);
  module.def("nll", &nll);
  module.def("key_norms", &key_norms);
  module.def("scores", &scores);
  module.def("select", &select);
  module.def("kept_of_ratio", [](const std::string& text, std::size_t length) {
    return engine::KeepRatio::parse(text).of(length);
  });
}

}  // namespace neoxref::python
