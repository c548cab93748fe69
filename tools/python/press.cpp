// SPDX-License-Identifier: Apache-2.0
#include "engine/press.hpp"

#include <string>
#include <tuple>

#include "engine/error.hpp"
#include "eval/plan.hpp"
#include "tools/python/own_score.hpp"

namespace neoxref::python {
namespace {

/// keep_ratio, slots, bytes: the one that is meant, others "1" and 0.
using BudgetParts = std::tuple<std::string, std::size_t, std::size_t>;

engine::Budget make_budget(const BudgetParts& parts) {
  return {engine::KeepRatio::parse(std::get<0>(parts)), std::get<1>(parts), std::get<2>(parts)};
}

engine::Press make_press(const std::string& score, const py::object& ask, bool is_static,
                         const std::vector<BudgetParts>& budgets, const std::string& trigger,
                         std::size_t prune_after, std::size_t interval, std::size_t sinks,
                         std::size_t recent, const std::string& positions,
                         const std::vector<std::size_t>& skip_layers, std::uint64_t seed,
                         std::size_t window, std::size_t pool, const std::string& order) {
  engine::Press press;
  if (ask.is_none()) {
    press.score = engine::parse_score(score);
    if (press.score == engine::Score::own) {
      throw engine::Error("score", "`own` is no name here", "an object with a function score");
    }
  } else {
    press.score = engine::Score::own;
    press.own = make_own_score(ask, score, is_static);
  }
  press.budget = make_budget(budgets.at(0));
  if (budgets.size() > 1) {
    for (const BudgetParts& parts : budgets) press.layer_budgets.push_back(make_budget(parts));
  }
  press.trigger = engine::parse_trigger(trigger);
  press.prune_after = prune_after;
  press.interval = interval;
  press.sinks = sinks;
  press.recent = recent;
  press.positions = engine::parse_positions(positions);
  press.skip_layers = skip_layers;
  press.seed = seed;
  press.window = window;
  press.pool = pool;
  press.order = engine::parse_order(order);
  return press;
}

py::list plan(const engine::Press& press, std::size_t tokens, std::size_t untouched,
              std::size_t layer) {
  py::list list;
  for (const eval::PlannedCut& cut : eval::plan(press, tokens, untouched, layer)) {
    list.append(py::make_tuple(cut.token, cut.before, cut.after));
  }
  return list;
}

}  // namespace

void bind_press(py::module_& module) {
  using engine::Press;
  using py::arg;
  py::class_<Press>(module, "Press")
      .def(py::init(&make_press), py::kw_only(), arg("score"), arg("ask"), arg("is_static"),
           arg("budgets"), arg("trigger"), arg("prune_after"), arg("interval"), arg("sinks"),
           arg("recent"), arg("positions"), arg("skip_layers"), arg("seed"), arg("window"),
           arg("pool"), arg("order"))
      .def("resolved",
           [](const Press& press, std::size_t slot_bytes) {
             Press copy = press;
             copy.resolve(slot_bytes);
             return copy;
           })
      .def("budget_text", &Press::budget_text)
      .def("keep", &Press::keep)
      .def("check", &Press::check);
  module.def("plan", &plan);
}

}  // namespace neoxref::python
