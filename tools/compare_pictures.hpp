// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "eval/compare.hpp"

namespace neoxref::tools {

/// Tensors x tokens: own errors over their bounds, and differences from the reference.
std::string maps_section(const eval::CompareReport& report);
/// Distances in units in the last place, one picture per kind of tensor.
std::string histograms_section(const eval::CompareReport& report);
/// KL after each token, as SVG.
std::string kl_picture(const eval::LogitFigures& logits);

}  // namespace neoxref::tools
