// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tools/python/bindings.hpp"

namespace neoxref::python {

/// Tensors of a run, goldens, and the oracle.
void bind_golden(py::module_& module);

}  // namespace neoxref::python
