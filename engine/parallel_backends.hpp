// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "engine/parallel.hpp"

namespace neoxref::engine {

/// A file each. One that was not built in throws Error.
std::unique_ptr<Team> make_tbb_team(std::size_t threads);
std::unique_ptr<Team> make_openmp_team(std::size_t threads);
std::unique_ptr<Team> make_serial_team();

}  // namespace neoxref::engine
