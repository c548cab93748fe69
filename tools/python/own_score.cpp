// SPDX-License-Identifier: Apache-2.0
#include "tools/python/own_score.hpp"

#include <algorithm>
#include <utility>

namespace neoxref::python {
namespace {

template <class T>
py::array_t<T, py::array::c_style> copy(std::span<const T> from,
                                        std::initializer_list<std::size_t> extents) {
  auto array = make_array<T>(extents);
  std::copy(from.begin(), from.end(), array.mutable_data());
  return array;
}

class PythonScore : public engine::OwnScore {
public:
  PythonScore(py::object ask, std::string name, bool is_static)
      : ask_(std::move(ask)), name_(std::move(name)), is_static_(is_static) {}
  PythonScore(const PythonScore&) = delete;
  PythonScore& operator=(const PythonScore&) = delete;
  /// The last press that holds it may go while the GIL is free.
  ~PythonScore() override {
    const py::gil_scoped_acquire held;
    ask_ = py::object();
  }

  std::string name() const override { return name_; }
  bool is_static() const override { return is_static_; }

  void score(const engine::LayerSlots& slots, std::span<float> scores) const override {
    const py::gil_scoped_acquire held;
    const Inside inside;
    // Copies: Python may keep them, the cache goes on.
    const py::object answer = ask_(copy(slots.keys, {slots.heads, slots.slots, slots.head_dim}),
                                   copy(slots.values, {slots.heads, slots.slots, slots.head_dim}),
                                   copy(slots.key_norms, {slots.heads, slots.slots}),
                                   copy(slots.positions, {slots.heads, slots.slots}), slots.layer);
    const auto given = answer.cast<Floats>();
    std::copy_n(given.data(), scores.size(), scores.begin());
  }

private:
  struct Inside {
    Inside() { inside_own_score() = true; }
    ~Inside() { inside_own_score() = false; }
  };
  py::object ask_;
  std::string name_;
  bool is_static_;
};

}  // namespace

std::shared_ptr<const engine::OwnScore> make_own_score(py::object ask, std::string name,
                                                       bool is_static) {
  return std::make_shared<PythonScore>(std::move(ask), std::move(name), is_static);
}

}  // namespace neoxref::python
