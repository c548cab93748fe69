// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "eval/bench_press.hpp"
#include "tools/bench_report.hpp"
#include "tools/interrupt.hpp"

namespace neoxref::tools {

/// A folder that goes away, with the checkpoint of a shape in it.
class TemporaryModel {
public:
  /// Errors: Error when memory or space is too small for it, or the system refuses it.
  TemporaryModel(const std::string& shape, const std::string& dtype, const InterruptGuard& guard);
  ~TemporaryModel();
  TemporaryModel(const TemporaryModel&) = delete;
  TemporaryModel& operator=(const TemporaryModel&) = delete;
  std::string model() const { return (path_ / "model").string(); }

private:
  std::filesystem::path path_;
};

/// Errors: Error when the system cannot give so many bytes more without swapping, or lets this process or
/// its group have no more.
void need_memory(double bytes, const std::string& what);
/// Most bytes that this process ever had in memory; 0 where the system does not say.
double peak_bytes();
/// What the system calls the processor; empty where it does not.
std::string cpu_name();
/// Bytes of the .safetensors files of a folder.
double bytes_on_disk(const std::filesystem::path& folder);

/// Everything that is measured in turns, of one number of threads.
struct Bench {
  explicit Bench(engine::Model loaded) : model(std::move(loaded)) {}
  engine::Model model;
  std::unique_ptr<eval::LimitMeter> meter;
  std::vector<std::unique_ptr<eval::PrefillArm>> prefills;
  std::vector<std::unique_ptr<eval::DecodeArm>> decodes;
  std::optional<engine::Model> timed_model;            ///< under a clock around every kernel
  std::vector<std::unique_ptr<eval::SpeedArm>> timed;  ///< of it: prefills, then decodes; or empty
  std::vector<std::unique_ptr<eval::PressGroup>> presses;
  std::vector<std::unique_ptr<eval::LimitArm>> limits;

  const eval::LimitArm& limit(eval::LimitArm::Kind kind, simd::Isa with, std::size_t bytes) const {
    return **std::find_if(limits.begin(), limits.end(), [&](const auto& arm) {
      return arm->kind == kind && arm->isa == with && arm->bytes == bytes;
    });
  }
  eval::LimitArm& add_limit(eval::LimitArm::Kind kind, simd::Isa with, std::size_t bytes) {
    for (const auto& arm : limits) {
      if (arm->kind == kind && arm->isa == with && arm->bytes == bytes) return *arm;
    }
    limits.push_back(std::make_unique<eval::LimitArm>(*meter, kind, with, bytes));
    return *limits.back();
  }
  simd::Isa isa() const { return model.kernels().isa; }
  template <class F>
  void each_speed(F&& f) const {
    for (const auto& arm : prefills) f(*arm);
    for (const auto& arm : decodes) f(*arm);
  }
  /// What the limit of a row reads: what the row touches.
  static std::size_t touched(const eval::SpeedArm& arm) {
    return static_cast<std::size_t>(arm.cost().bytes());
  }
  MeasuredLimits limits_of(const eval::SpeedArm& arm) const {
    using Kind = eval::LimitArm::Kind;
    return {limit(Kind::multiply_add, isa(), 0).per_second().median,
            limit(Kind::read, isa(), touched(arm)).per_second().median};
  }
};

}  // namespace neoxref::tools
