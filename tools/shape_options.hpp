// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "engine/config.hpp"
#include "simd/kernels.hpp"

namespace neoxref::tools {

/// --shape pythia-70m
CLI::Option* add_shape(CLI::App& app, std::string& shape);
/// Usage error for an unknown name.
engine::Config parse_shape(const std::string& name);
/// --dtype f16
CLI::Option* add_dtype(CLI::App& app, std::string& dtype);
/// Of a name that add_dtype let through.
simd::Dtype parse_dtype(const std::string& name);

}  // namespace neoxref::tools
