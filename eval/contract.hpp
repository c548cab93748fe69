// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace neoxref::eval {

/// Of docs/contract.md; another number means other bits.
inline constexpr std::string_view contract_name = "NX-F32/1";

}  // namespace neoxref::eval
