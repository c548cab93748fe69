// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "engine/press.hpp"
#include "tools/python/bindings.hpp"

namespace neoxref::python {

/// A score written in Python. ask(keys [heads, slots, head_dim], values, key_norms [heads, slots],
/// positions, layer) returns a float32 array [heads, slots]; the package makes it of a researcher's
/// class and checks what that gives.
std::shared_ptr<const engine::OwnScore> make_own_score(py::object ask, std::string name,
                                                       bool is_static);

}  // namespace neoxref::python
