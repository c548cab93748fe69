// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "engine/checkpoint.hpp"

namespace neoxref::eval {

/// SHA-256 of a checkpoint's weight files, one after the other in the order of their names, as 64
/// hexadecimal digits: what `cat *.safetensors | sha256sum` prints, and for a single file the number
/// that the Hub shows.
std::string checkpoint_sha256(const engine::Checkpoint& checkpoint);

}  // namespace neoxref::eval
