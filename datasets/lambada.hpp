// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace neoxref::datasets {

/// A passage and the word to predict: context + target is the passage, and the target is what follows
/// its last blank, with that blank.
struct Item {
  std::string name;
  std::string context;
  std::string target;
};

/// Items of LAMBADA: one JSON object per line, its string field "text"; other fields are ignored,
/// blank lines skipped. Names  "file: line 7". Errors  Error as read_jsonl; for a text without a blank
/// that has something on both sides.
[[nodiscard]] std::vector<Item> read_lambada(const std::filesystem::path& path);

}  // namespace neoxref::datasets
