// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "engine/model.hpp"

/// The extension module neoxref._core: the library as the Python package needs it. Arguments arrive
/// checked for type and layout by the package, values are checked by the library.
namespace neoxref::python {

namespace py = pybind11;

/// C-contiguous, of exactly this type: the package converts, and says so where it cannot.
using Floats = py::array_t<float, py::array::c_style>;
using Ids = py::array_t<std::int32_t, py::array::c_style>;
using Slots = py::array_t<std::int64_t, py::array::c_style>;

/// A model that several Python threads may hold: one of them has its turn.
struct LoadedModel {
  explicit LoadedModel(engine::Model loaded) : model(std::move(loaded)) {}
  engine::Model model;
  std::mutex mutex;
};

/// A sequence keeps its model alive, and is touched in the model's turns only.
struct HeldSequence {
  std::shared_ptr<LoadedModel> owner;
  engine::Sequence sequence;
};

/// Holds a model's mutex. Waits for it without the GIL, since who has it may need the GIL.
/// Errors: Error from within a researcher's score, which would wait for itself.
class Turn {
public:
  explicit Turn(LoadedModel& model);

private:
  std::unique_lock<std::mutex> lock_;
};

/// True on a thread that is inside a researcher's score.
bool& inside_own_score();

template <class T>
std::span<const T> view(const py::array_t<T, py::array::c_style>& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

/// A new C-contiguous array, not initialized.
template <class T>
py::array_t<T, py::array::c_style> make_array(std::initializer_list<std::size_t> extents) {
  // A vector: the constructor from one number leaves a stride of 0 in some versions of pybind11.
  std::vector<py::ssize_t> shape;
  for (const std::size_t extent : extents) shape.push_back(static_cast<py::ssize_t>(extent));
  return py::array_t<T, py::array::c_style>(shape);
}

void bind_arrays(py::module_& module);
void bind_compare(py::module_& module);
void bind_evaluation(py::module_& module);
void bind_model(py::module_& module);
void bind_press(py::module_& module);
void bind_text(py::module_& module);

}  // namespace neoxref::python
