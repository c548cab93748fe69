// SPDX-License-Identifier: Apache-2.0
#include "tools/bench_model.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "engine/error.hpp"
#include "eval/synth.hpp"
#include "tools/options.hpp"
#include "tools/shape_options.hpp"

namespace neoxref::tools {
namespace {

/// Bytes that the system can give without swapping; 0 when it does not say.
double available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("MemAvailable:")) return std::stod(line.substr(13)) * 1024.0;
  }
  return 0.0;
}

}  // namespace

void need_memory(double bytes, const std::string& what) {
  const double available = available_memory();
  if (available == 0.0 || bytes <= available) return;
  throw engine::Error(what, "too little memory", fmt::format("{:.1f} GB", bytes * 1e-9),
                      fmt::format("{:.1f} GB available", available * 1e-9));
}

double bytes_on_disk(const std::filesystem::path& folder) {
  double bytes = 0.0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") {
      bytes += static_cast<double>(entry.file_size());
    }
  }
  return bytes;
}

TemporaryModel::TemporaryModel(const std::string& shape, const std::string& dtype,
                               const InterruptGuard& guard) {
  const engine::Config config = eval::shape_config(shape);
  eval::SynthOptions options;
  options.dtype = parse_dtype(dtype);
  const auto bytes = static_cast<double>(eval::synth_bytes(config, options.dtype));
  // Packed weights, what the read limit reads, and room for pages of the file and caches.
  need_memory(2.5 * bytes, shape);
  std::string name = (std::filesystem::temp_directory_path() / "neoxref-bench-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) {
    throw engine::Error(name, "cannot be made", "", std::strerror(errno));
  }
  path_ = name;
  try {
    const auto space = std::filesystem::space(path_).available;
    if (bytes > static_cast<double>(space)) {
      throw engine::Error(name, "too little space", fmt::format("{:.0f} bytes", bytes),
                          std::to_string(space));
    }
    Progress progress("synth");
    eval::write_synth(config, options, model(), [&](double share) {
      guard.check();
      progress(share);
    });
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
    throw;
  }
}

TemporaryModel::~TemporaryModel() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace neoxref::tools
