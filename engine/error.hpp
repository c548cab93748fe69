// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace neoxref::engine {

/// The one exception of the library: some input cannot be used.
/// where     the file, and the tensor, field, line or byte offset in it ("config.json: hidden_size").
/// problem   what is wrong, one clause without a full stop.
/// expected, found   shown when not empty.
/// what() is one line: "where: problem (expected ..., found ...)". Control characters that came from
/// a file are shown escaped, and long pieces are shortened, so hostile input cannot garble a terminal.
class Error : public std::runtime_error {
public:
  Error(std::string_view where, std::string_view problem, std::string_view expected = {},
        std::string_view found = {});
};

}  // namespace neoxref::engine
