// SPDX-License-Identifier: Apache-2.0
#include "engine/press.hpp"

#include <string>

#include "eval/plan.hpp"
#include "tools/python/bindings.hpp"

namespace neoxref::python {
namespace {

engine::Press make_press(const std::string& score, const std::string& keep_ratio, std::size_t slots,
                         const std::string& trigger, std::size_t prune_after, std::size_t interval,
                         std::size_t sinks, std::size_t recent, const std::string& positions,
                         const std::vector<std::size_t>& skip_layers, std::uint64_t seed) {
  engine::Press press;
  press.score = engine::parse_score(score);
  press.keep_ratio = engine::KeepRatio::parse(keep_ratio);
  press.slots = slots;
  press.trigger = engine::parse_trigger(trigger);
  press.prune_after = prune_after;
  press.interval = interval;
  press.sinks = sinks;
  press.recent = recent;
  press.positions = engine::parse_positions(positions);
  press.skip_layers = skip_layers;
  press.seed = seed;
  return press;
}

py::list plan(const engine::Press& press, std::size_t tokens, std::size_t untouched) {
  py::list list;
  for (const eval::PlannedCut& cut : eval::plan(press, tokens, untouched)) {
    list.append(py::make_tuple(cut.token, cut.before, cut.after));
  }
  return list;
}

}  // namespace

void bind_press(py::module_& module) {
  using engine::Press;
  using py::arg;
  py::class_<Press>(module, "Press")
      .def(py::init(&make_press), py::kw_only(), arg("score"), arg("keep_ratio"), arg("slots"),
           arg("trigger"), arg("prune_after"), arg("interval"), arg("sinks"), arg("recent"),
           arg("positions"), arg("skip_layers"), arg("seed"))
      .def("keep", &Press::keep)
      .def("check", &Press::check);
  module.def("plan", &plan);
}

}  // namespace neoxref::python
