// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "eval/bench.hpp"
#include "tools/interrupt.hpp"
#include "tools/options.hpp"
#include "tools/press_options.hpp"

namespace neoxref::tools {

/// What the command line of bench says, and what is done then.
struct BenchCommand {
  using Counts = std::vector<std::size_t>;

  Common common;
  std::string shape;
  std::string dtype = "f16";
  std::optional<Counts> prompts;
  std::optional<Counts> contexts;
  Counts batches = {1};
  Counts threads;
  std::size_t steps = 32;
  Counts press_prompts = {128};
  std::size_t press_new = 0;
  bool naive = false;
  PressOptions press;
  eval::Schedule schedule;
  double min_seconds = 0.0;
  std::string order = "random";
  bool cold_first = false;
  std::size_t starts = 3;
  bool only_start = false;
  bool kernels = false;
  double least_share = 0.0;  ///< of its limit that a row must reach, percent
  std::optional<std::string> baseline;
  double tolerance = 10.0;  ///< percent

  Exit operator()();

private:
  void check_usage();
  Exit measure(const InterruptGuard& guard);
};

}  // namespace neoxref::tools
