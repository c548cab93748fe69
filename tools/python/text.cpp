// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>

#include "engine/sampler.hpp"
#include "engine/tokenizer.hpp"
#include "tools/python/bindings.hpp"

namespace neoxref::python {
namespace {

using engine::Tokenizer;

Ids encode(const Tokenizer& tokenizer, const py::bytes& utf8) {
  const std::string text = utf8;
  std::vector<std::int32_t> ids;
  {
    const py::gil_scoped_release released;
    ids = tokenizer.encode(text);
  }
  Ids array = make_array<std::int32_t>({ids.size()});
  std::copy(ids.begin(), ids.end(), array.mutable_data());
  return array;
}

/// Draws from the logits of one model, whose kernels it uses.
struct HeldSampler {
  std::shared_ptr<LoadedModel> owner;
  engine::Sampler sampler;
};

}  // namespace

void bind_text(py::module_& module) {
  py::class_<Tokenizer>(module, "Tokenizer")
      .def_static("open", &Tokenizer::open)
      .def("encode", &encode)
      .def("decode", [](const Tokenizer& tokenizer, const Ids& ids,
                        bool skip_special) { return tokenizer.decode(view(ids), skip_special); })
      .def("bytes_of",
           [](const Tokenizer& tokenizer, std::int32_t id) {
             const std::string_view bytes = tokenizer.bytes_of(id);
             return py::bytes(bytes.data(), bytes.size());
           })
      .def("is_special", &Tokenizer::is_special)
      .def("id_of", [](const Tokenizer& tokenizer,
                       const std::string& token) { return tokenizer.id_of(token); })
      .def_property_readonly("vocab_size", &Tokenizer::vocab_size);
  py::class_<engine::StreamDecoder>(module, "StreamDecoder")
      .def(py::init([](const Tokenizer& tokenizer) { return engine::StreamDecoder(tokenizer); }))
      .def("push", &engine::StreamDecoder::push)
      .def("finish", &engine::StreamDecoder::finish);
  py::class_<HeldSampler>(module, "Sampler")
      .def(py::init([](const std::shared_ptr<LoadedModel>& owner, float temperature,
                       std::size_t top_k, double top_p, std::uint64_t seed) {
        return HeldSampler{
            owner, engine::Sampler({temperature, top_k, top_p, seed}, owner->model.kernels())};
      }))
      .def("draw", [](HeldSampler& held, const Floats& logits, std::uint64_t position,
                      std::uint64_t sequence) {
        return held.sampler.draw(view(logits), position, sequence);
      });
}

}  // namespace neoxref::python
