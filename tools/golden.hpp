// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tools/options.hpp"

namespace neoxref::tools {

Command add_golden(CommandLine program);

}  // namespace neoxref::tools
