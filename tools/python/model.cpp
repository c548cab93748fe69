// SPDX-License-Identifier: Apache-2.0
#include "engine/model.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>

#include "engine/error.hpp"
#include "engine/model_path.hpp"
#include "engine/saved_sequence.hpp"
#include "tools/python/bindings.hpp"

namespace neoxref::python {
namespace {

using engine::Error;

std::shared_ptr<LoadedModel> load(const std::string& folder, const std::string& isa,
                                  const std::string& backend, std::size_t threads) {
  engine::RunOptions options;
  options.isa = isa;
  if (!backend.empty()) options.backend = engine::parse_backend(backend);
  options.threads = threads;
  const py::gil_scoped_release released;
  return std::make_shared<LoadedModel>(engine::Model::load(folder, options));
}

/// A sequence with room for the presses that may be set later beside its own.
std::shared_ptr<HeldSequence> fresh_sequence(const std::shared_ptr<LoadedModel>& owner,
                                             std::size_t capacity,
                                             const std::optional<engine::Press>& press,
                                             const std::vector<engine::Press>& ready_for) {
  const engine::Config& config = owner->model.config();
  engine::Extras extras;
  for (const engine::Press& later : ready_for) {
    later.check(config.layers, config.head_dim, config.rotary_dims);
    extras = extras | later.extras(config.rotary_dims);
  }
  return std::make_shared<HeldSequence>(
      HeldSequence{owner, owner->model.sequence(capacity, press, extras)});
}

py::bytes save(HeldSequence& held) {
  const Turn turn(*held.owner);
  return py::bytes(engine::save_sequence(held.owner->model, held.sequence));
}

std::shared_ptr<HeldSequence> restore(const std::shared_ptr<LoadedModel>& owner,
                                      const py::bytes& saved, const std::string& where,
                                      std::size_t capacity,
                                      const std::optional<engine::Press>& press) {
  const auto bytes = static_cast<std::string_view>(saved);
  return std::make_shared<HeldSequence>(
      HeldSequence{owner, engine::load_sequence(owner->model, std::as_bytes(std::span(bytes)),
                                                where, capacity, press)});
}

/// One forward call: tokens of several sequences. A list of [tokens, vocab], [vocab] or None.
py::list feed(const std::shared_ptr<LoadedModel>& owner,
              const std::vector<HeldSequence*>& sequences, const std::vector<Ids>& tokens,
              engine::LogitRows rows) {
  const std::size_t vocab = owner->model.config().vocab;
  py::list results;
  std::vector<engine::Step> steps(sequences.size());
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (sequences[i]->owner != owner) {
      throw Error("sequences", "sequence " + std::to_string(i) + " belongs to another model");
    }
    steps[i].sequence = &sequences[i]->sequence;
    steps[i].tokens = view(tokens[i]);
    steps[i].rows = rows;
    if (rows == engine::LogitRows::none) {
      results.append(py::none());
      continue;
    }
    Floats logits = rows == engine::LogitRows::all
                        ? make_array<float>({steps[i].tokens.size(), vocab})
                        : make_array<float>({vocab});
    steps[i].logits = logits.mutable_data();
    results.append(std::move(logits));
  }
  const Turn turn(*owner);
  bool finite = true;
  {
    const py::gil_scoped_release released;
    finite = owner->model.forward(steps);
  }
  if (finite) return results;
  const auto stopped =
      std::find_if(steps.begin(), steps.end(), [](const auto& step) { return bool(step.failure); });
  throw Error("forward", engine::describe(*stopped->failure));
}

/// Keys, values, norms and positions of a layer, copied: [heads, slots, ...].
py::tuple layer_arrays(HeldSequence& held, std::size_t layer) {
  const Turn turn(*held.owner);
  const engine::KvCache& cache = held.sequence.cache;
  const engine::CacheShape& shape = cache.shape();
  if (layer >= shape.layers) {
    throw Error("layer", "no such layer", "0 to " + std::to_string(shape.layers - 1),
                std::to_string(layer));
  }
  const std::size_t slots = cache.longest(layer);
  Floats keys = make_array<float>({shape.heads, slots, shape.head_dim});
  Floats values = make_array<float>({shape.heads, slots, shape.head_dim});
  Floats norms = make_array<float>({shape.heads, slots});
  Ids positions = make_array<std::int32_t>({shape.heads, slots});
  for (std::size_t head = 0; head < shape.heads; ++head) {
    if (cache.length(layer, head) != slots) {
      throw Error("cache", "the heads of layer " + std::to_string(layer) +
                               " are not of one length, so they are no array");
    }
    const float* const panels = cache.keys(layer, head);
    const std::size_t start = head * slots;
    for (std::size_t slot = 0; slot < slots; ++slot) {
      float* const key = keys.mutable_data() + (start + slot) * shape.head_dim;
      const float* const lane =
          panels + slot / simd::lanes * shape.head_dim * simd::lanes + slot % simd::lanes;
      for (std::size_t d = 0; d < shape.head_dim; ++d) key[d] = lane[d * simd::lanes];
      std::memcpy(values.mutable_data() + (start + slot) * shape.head_dim,
                  cache.values(layer, head) + slot * cache.value_stride(),
                  shape.head_dim * sizeof(float));
    }
    std::copy_n(cache.norms(layer, head), slots, norms.mutable_data() + start);
    std::copy_n(cache.positions(layer, head), slots, positions.mutable_data() + start);
  }
  return py::make_tuple(keys, values, norms, positions);
}

Slots lengths(HeldSequence& held) {
  const Turn turn(*held.owner);
  const engine::CacheShape& shape = held.sequence.cache.shape();
  Slots result = make_array<std::int64_t>({shape.layers, shape.heads});
  for (std::size_t i = 0; i < shape.layers * shape.heads; ++i) {
    result.mutable_data()[i] =
        static_cast<std::int64_t>(held.sequence.cache.length(i / shape.heads, i % shape.heads));
  }
  return result;
}

py::list cuts(HeldSequence& held) {
  const Turn turn(*held.owner);
  const std::size_t heads = held.sequence.cache.shape().heads;
  py::list list;
  for (const engine::Cut& cut : held.sequence.cuts) {
    py::object dropped = py::none();
    if (!cut.dropped.empty()) {
      Ids array = make_array<std::int32_t>({heads, cut.dropped.size() / heads});
      std::copy(cut.dropped.begin(), cut.dropped.end(), array.mutable_data());
      dropped = array;
    }
    list.append(py::make_tuple(cut.layer, cut.position, cut.before, cut.after, cut.protection_won,
                               dropped));
  }
  return list;
}

void bind_config(py::module_& module) {
  using engine::Config;
  py::class_<Config>(module, "Config")
      .def_readonly("hidden", &Config::hidden)
      .def_readonly("layers", &Config::layers)
      .def_readonly("heads", &Config::heads)
      .def_readonly("head_dim", &Config::head_dim)
      .def_readonly("intermediate", &Config::intermediate)
      .def_readonly("vocab", &Config::vocab)
      .def_readonly("max_positions", &Config::max_positions)
      .def_readonly("rotary_pct", &Config::rotary_pct)
      .def_readonly("rotary_dims", &Config::rotary_dims)
      .def_readonly("rotary_base", &Config::rotary_base)
      .def_readonly("layer_norm_eps", &Config::layer_norm_eps)
      .def_readonly("parallel_residual", &Config::parallel_residual)
      .def_readonly("attention_bias", &Config::attention_bias)
      .def_readonly("tie_word_embeddings", &Config::tie_word_embeddings)
      .def_readonly("bos_token_id", &Config::bos_token_id)
      .def_readonly("eos_token_ids", &Config::eos_token_ids);
}

/// What a member function of the sequence gives, in the model's turn.
template <class Get>
auto in_turn(Get get) {
  return [get](HeldSequence& held) {
    const Turn turn(*held.owner);
    return get(held.sequence);
  };
}

void bind_sequence(py::module_& module) {
  using engine::Sequence;
  py::class_<HeldSequence, std::shared_ptr<HeldSequence>>(module, "Sequence")
      .def_property_readonly("position", in_turn([](Sequence& s) { return s.position; }))
      .def_property_readonly("stopped", in_turn([](Sequence& s) { return s.stopped; }))
      .def_property_readonly("capacity", in_turn([](Sequence& s) { return s.cache.capacity(); }))
      .def_property_readonly("logical_bytes",
                             in_turn([](Sequence& s) { return s.cache.logical_bytes(); }))
      .def_property_readonly("physical_bytes",
                             in_turn([](Sequence& s) { return s.cache.physical_bytes(); }))
      .def_property_readonly("lengths", &lengths)
      .def_property_readonly("cuts", &cuts)
      .def_property_readonly("cut_counts", in_turn([](Sequence& s) { return s.cut_counts; }))
      .def_property("log_dropped", in_turn([](Sequence& s) { return s.log_dropped; }),
                    [](HeldSequence& held, bool log) {
                      const Turn turn(*held.owner);
                      held.sequence.log_dropped = log;
                    })
      .def("end_prompt", in_turn([](Sequence& s) { s.end_prompt(); }))
      .def("set_press",
           [](HeldSequence& held, const engine::Press& press) {
             const Turn turn(*held.owner);
             held.sequence.set_press(press, held.owner->model.config().rotary_dims);
           })
      .def("fork",
           [](HeldSequence& held) {
             const Turn turn(*held.owner);
             const py::gil_scoped_release released;
             return std::make_shared<HeldSequence>(HeldSequence{held.owner, held.sequence.fork()});
           })
      .def("save", &save)
      .def("layer", &layer_arrays);
}

}  // namespace

void bind_model(py::module_& module) {
  bind_config(module);
  bind_sequence(module);
  py::enum_<engine::LogitRows>(module, "LogitRows")
      .value("none", engine::LogitRows::none)
      .value("last", engine::LogitRows::last)
      .value("all", engine::LogitRows::all);
  py::class_<LoadedModel, std::shared_ptr<LoadedModel>>(module, "Model")
      .def_property_readonly("config", [](const LoadedModel& held) { return held.model.config(); })
      .def_property_readonly("isa",
                             [](const LoadedModel& held) { return held.model.kernels().name; })
      .def_property_readonly(
          "backend",
          [](const LoadedModel& held) { return engine::backend_name(held.model.team().backend()); })
      .def_property_readonly("threads",
                             [](const LoadedModel& held) { return held.model.team().threads(); })
      .def("sequence", &fresh_sequence)
      .def("restore", &restore)
      .def("feed", &feed);
  module.def("load", &load);
  module.def("resolve_model",
             [](const std::string& name) { return engine::resolve_model(name).string(); });
}

}  // namespace neoxref::python
