// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace neoxref::tests {

/// Root of the checkout, from NEOXREF_SOURCE_DIR. Throws when it is not set.
std::filesystem::path source_dir();

/// A folder of its own that goes away with the object.
class TemporaryFolder {
public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

private:
  std::filesystem::path path_;
};

}  // namespace neoxref::tests
