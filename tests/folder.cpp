// SPDX-License-Identifier: Apache-2.0
#include "tests/folder.hpp"

#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace neoxref::tests {

std::filesystem::path source_dir() {
  const char* folder = std::getenv("NEOXREF_SOURCE_DIR");
  if (folder == nullptr) throw std::runtime_error("NEOXREF_SOURCE_DIR is not set");
  return folder;
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "neoxref-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace neoxref::tests
