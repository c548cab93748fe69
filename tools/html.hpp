// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace neoxref::tools {

/// Text for HTML and XML, in elements and in quoted attributes: & < > " ' as entities, control
/// characters as \\x1b, what is no UTF-8 (or no character of XML) as U+FFFD.
std::string html_text(std::string_view text);

/// As html_text, inside an element that keeps right-to-left text from reordering what is around it.
std::string html_name(std::string_view name);

/// A number with the text to show: <data value="0.1234567">0.1235</data>. Not finite: "-".
std::string html_number(double value, std::string_view shown);

}  // namespace neoxref::tools
