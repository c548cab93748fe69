// SPDX-License-Identifier: Apache-2.0
#include "engine/parallel.hpp"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string>

#include "engine/error.hpp"
#include "engine/parallel_backends.hpp"
#include "simd/float_environment.hpp"

namespace neoxref::engine {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int spins_before_sleep = 4000;

double seconds_between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// CPU quota of the cgroup in whole CPUs, rounded up; 0 when there is none.
std::size_t quota() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string limit;
  double period = 0.0;
  if (!(v2 >> limit >> period)) {
    std::ifstream quota_v1("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    std::ifstream period_v1("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (!(quota_v1 >> limit) || !(period_v1 >> period)) return 0;
  }
  long long allowed = 0;
  const auto parsed = std::from_chars(limit.data(), limit.data() + limit.size(), allowed);
  if (parsed.ec != std::errc{} || allowed <= 0 || period <= 0.0) return 0;
  const double cpus = static_cast<double>(allowed) / period;
  return std::max<std::size_t>(1, static_cast<std::size_t>(cpus + 0.999));
}

}  // namespace

std::string_view backend_name(Backend backend) {
  switch (backend) {
    case Backend::tbb:
      return "tbb";
    case Backend::openmp:
      return "openmp";
    case Backend::serial:
      break;
  }
  return "serial";
}

std::span<const Backend> built_backends() {
  static constexpr Backend built[] = {
#ifdef NEOXREF_HAVE_TBB
      Backend::tbb,
#endif
#ifdef NEOXREF_HAVE_OPENMP
      Backend::openmp,
#endif
      Backend::serial};
  return built;
}

Backend parse_backend(std::string_view name) {
  for (const Backend backend : {Backend::tbb, Backend::openmp, Backend::serial}) {
    if (name == backend_name(backend)) return backend;
  }
  throw Error("backend", "unknown name", "tbb, openmp or serial", name);
}

std::size_t available_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::size_t threads = 1;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    threads = std::max<std::size_t>(1, static_cast<std::size_t>(CPU_COUNT(&set)));
  }
  const std::size_t limit = quota();
  return limit == 0 ? threads : std::min(threads, limit);
}

std::unique_ptr<Team> Team::create(Backend backend, std::size_t threads) {
  if (threads < 1) throw Error("threads", "too few", "1 or more", std::to_string(threads));
  if (threads > 4096) throw Error("threads", "too many", "at most 4096", std::to_string(threads));
  switch (backend) {
    case Backend::tbb:
      return make_tbb_team(threads);
    case Backend::openmp:
      return make_openmp_team(threads);
    case Backend::serial:
      break;
  }
  return make_serial_team();
}

void Team::reserve(std::size_t phases) {
  if (phases <= progress_size_) return;
  progress_ = std::make_unique<Progress[]>(phases);
  progress_size_ = phases;
}

void Team::run(std::span<const Phase> phases, void* context) {
  reserve(phases.size());
  for (std::size_t i = 0; i < phases.size(); ++i) {
    progress_[i].ticket.store(0, std::memory_order_relaxed);
    progress_[i].done.store(0, std::memory_order_relaxed);
  }
  phases_ = phases;
  context_ = context;
  region_ = nullptr;
  if (times_ != nullptr) {
    region_ = &(*times_)[phases.size()];
    region_->shares.resize(threads_ * phases.size());
    start_ = Clock::now();
  }
  std::atomic_thread_fence(std::memory_order_release);
  fork();
  if (region_ == nullptr) return;
  ++region_->runs;
  region_->seconds += seconds_between(start_, Clock::now());
}

void Team::participate(std::size_t participant) noexcept {
  const simd::FloatEnvironment environment;
  RegionTimes::Share* const shares =
      region_ == nullptr ? nullptr : region_->shares.data() + participant * phases_.size();
  Clock::time_point last = start_;
  const auto lap = [&last] {
    const Clock::time_point before = last;
    last = Clock::now();
    return seconds_between(before, last);
  };
  const bool from_end = participant % 2 == 1;
  const std::uint64_t claim = from_end ? std::uint64_t{1} << 32 : 1;
  for (std::uint32_t number = 0; number < phases_.size(); ++number) {
    const Phase& phase = phases_[number];
    Progress& progress = progress_[number];
    if (shares != nullptr) shares[number].waited += lap();
    for (;;) {
      const std::uint64_t claimed = progress.ticket.fetch_add(claim, std::memory_order_relaxed);
      const auto front = static_cast<std::uint32_t>(claimed);
      const auto back = static_cast<std::uint32_t>(claimed >> 32);
      if (std::uint64_t{front} + back >= phase.items) break;
      const std::uint32_t item = from_end ? phase.items - 1 - back : front;
      phase.work(context_, number, item, participant);
      if (progress.done.fetch_add(1, std::memory_order_acq_rel) + 1 == phase.items) {
        progress.done.notify_all();
      }
    }
    if (shares != nullptr) shares[number].worked += lap();
    for (int spins = 0;; ++spins) {
      const std::uint32_t done = progress.done.load(std::memory_order_acquire);
      if (done == phase.items) break;
      if (spins < spins_before_sleep) {
        pause();
      } else {
        progress.done.wait(done, std::memory_order_acquire);
      }
    }
    if (shares != nullptr) shares[number].waited += lap();
  }
}

}  // namespace neoxref::engine
