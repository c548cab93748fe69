// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tools/options.hpp"

namespace neoxref::tools {

Command add_golden(CLI::App& program);

}  // namespace neoxref::tools
