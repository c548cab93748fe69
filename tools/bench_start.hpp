// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tools/interrupt.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {

/// What `bench --start-only` does: loads, runs a prompt of 16 tokens and prints how long that took.
Exit start_only(const Common& common);

/// Starts this program anew with --start-only, `count` times, and gives a row of kind "start": the
/// time from its creation until the logits were known, and its peak resident memory.
/// Errors: Error when a start fails.
nlohmann::ordered_json start_row(const Common& common, std::size_t threads, std::size_t count,
                                 const InterruptGuard& guard);

}  // namespace neoxref::tools
