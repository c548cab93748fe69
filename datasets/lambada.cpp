// SPDX-License-Identifier: Apache-2.0
#include "datasets/lambada.hpp"

#include "datasets/reader.hpp"

namespace neoxref::datasets {

std::vector<Item> read_lambada(const std::filesystem::path& path) {
  std::vector<Item> items;
  for (const Document& document : read_jsonl(path)) {
    const std::size_t blank = document.text.rfind(' ');
    if (blank == std::string::npos || blank == 0 || blank + 1 == document.text.size()) {
      throw Error(document.name, "has no last word: expected a blank with something on both sides");
    }
    items.push_back({document.name, document.text.substr(0, blank), document.text.substr(blank)});
  }
  return items;
}

}  // namespace neoxref::datasets
