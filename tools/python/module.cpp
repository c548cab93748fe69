// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "engine/error.hpp"
#include "tools/python/golden.hpp"

namespace neoxref::python {
namespace {

/// The package's exception class, alive as long as the module.
PyObject* error_class = nullptr;

void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const engine::Error& error) {
    PyErr_SetString(error_class, error.what());
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(error_class, error.what());
  }
}

}  // namespace

bool& inside_own_score() {
  thread_local bool inside = false;
  return inside;
}

Turn::Turn(LoadedModel& model) {
  if (inside_own_score()) {
    throw engine::Error("score", "a score cannot use a model while it is being asked");
  }
  const py::gil_scoped_release released;
  lock_ = std::unique_lock(model.mutex);
}

}  // namespace neoxref::python

PYBIND11_MODULE(_core, module) {
  using namespace neoxref::python;
  module.attr("version") = NEOXREF_VERSION;
  error_class = PyErr_NewExceptionWithDoc(
      "neoxref.Error",
      "Some input cannot be used. One line: where, what is wrong, what was expected and found.",
      nullptr, nullptr);
  if (error_class == nullptr) throw py::error_already_set();
  module.attr("Error") = py::reinterpret_borrow<py::object>(error_class);
  py::register_exception_translator(&translate);
  bind_press(module);
  bind_model(module);
  bind_golden(module);
  bind_text(module);
  bind_arrays(module);
  bind_evaluation(module);
  bind_compare(module);
}
