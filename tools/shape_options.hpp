// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "engine/config.hpp"
#include "simd/kernels.hpp"
#include "tools/command_line.hpp"

namespace neoxref::tools {

/// --shape pythia-70m
Option add_shape(CommandLine app, std::string& shape);
/// Usage error for an unknown name.
engine::Config parse_shape(const std::string& name);
/// --dtype f16
Option add_dtype(CommandLine app, std::string& dtype);
/// Of a name that add_dtype let through.
simd::Dtype parse_dtype(const std::string& name);

}  // namespace neoxref::tools
