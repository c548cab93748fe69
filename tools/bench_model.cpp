// SPDX-License-Identifier: Apache-2.0
#include "tools/bench_model.hpp"

#include <fmt/core.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <string_view>

#include "engine/error.hpp"
#include "eval/synth.hpp"
#include "tools/options.hpp"
#include "tools/shape_options.hpp"

namespace neoxref::tools {
namespace {

/// The number behind "NAME:" or "NAME " at the start of a line, or nothing.
std::optional<double> number_in(const char* path, std::string_view name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with(name)) continue;
    const std::string rest = line.substr(name.size());
    char* end = nullptr;
    const double number = std::strtod(rest.c_str(), &end);
    if (end != rest.c_str()) return number;
  }
  return {};
}

/// Bytes that this process may still have: of the system without swapping, of its control group,
/// of its own limit of addresses. Infinity where nobody says.
double available_memory() {
  double bytes = std::numeric_limits<double>::infinity();
  const auto at_most = [&bytes](double limit) { bytes = std::min(bytes, std::max(0.0, limit)); };
  if (const auto system = number_in("/proc/meminfo", "MemAvailable:")) at_most(*system * 1024.0);
  // A group without a limit says "max". Pages of files leave it when it needs room.
  if (const auto most = number_in("/sys/fs/cgroup/memory.max", "")) {
    const double used = number_in("/sys/fs/cgroup/memory.current", "").value_or(0.0);
    const double files = number_in("/sys/fs/cgroup/memory.stat", "file ").value_or(0.0);
    at_most(*most - used + files);
  }
  rlimit addresses{};
  if (getrlimit(RLIMIT_AS, &addresses) == 0 && addresses.rlim_cur != RLIM_INFINITY) {
    const double used = number_in("/proc/self/status", "VmSize:").value_or(0.0) * 1024.0;
    at_most(static_cast<double>(addresses.rlim_cur) - used);
  }
  return bytes;
}

}  // namespace

void need_memory(double bytes, const std::string& what) {
  const double available = available_memory();
  if (bytes <= available) return;
  throw engine::Error(what, "too little memory", fmt::format("{:.1f} GB", bytes * 1e-9),
                      fmt::format("{:.1f} GB available", available * 1e-9));
}

double peak_bytes() {
  return number_in("/proc/self/status", "VmHWM:").value_or(0.0) * 1024.0;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
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
