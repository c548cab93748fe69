// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace neoxref::engine {

enum class Backend : std::uint8_t { tbb, openmp, serial };

/// "tbb", "openmp", "serial".
std::string_view backend_name(Backend backend);
/// Those that were built in; the first is the one to use when nothing is said.
std::span<const Backend> built_backends();
/// Errors: Error for an unknown name.
Backend parse_backend(std::string_view name);

/// Threads this process may use: its affinity mask, cut to the cgroup's CPU quota (rounded up).
std::size_t available_threads();

/// One stretch of a parallel region: `items` independent pieces of work with disjoint outputs.
/// Every item of a phase is done before the next phase begins.
struct Phase {
  std::uint32_t items;
  /// Does one item on behalf of a participant (0 .. threads - 1), whose scratch it may use.
  void (*work)(void* context, std::uint32_t phase, std::uint32_t item,
               std::size_t participant) noexcept;
};

/// Where the time of the regions of so many phases went.
struct RegionTimes {
  struct Share {
    double worked = 0.0;  ///< seconds
    double waited =
        0.0;  ///< seconds until the others were done; in phase 0 also until it turned up
  };
  std::size_t runs = 0;
  double seconds = 0.0;       ///< from fork to join
  std::vector<Share> shares;  ///< [threads][phases]
};
/// By the number of phases: a forward pass always has the same, a cut has one.
using TeamTimes = std::map<std::size_t, RegionTimes>;

/// A pool that runs numbered phases in one fork and join. Items are claimed from an atomic ticket, by
/// every other participant from the end, so that neighbours (rows of one block) mostly stay with one
/// core, also from phase to phase. Any participant can do all of them, so the number of threads that
/// turn up, the scheduler and its timing never matter to a result: which participant does an item
/// only decides whose scratch memory is used. Waiting participants spin briefly, then sleep.
/// The floating-point environment of the contract is set on every participant and restored.
class Team {
public:
  /// threads >= 1. Errors: Error when the backend was not built in.
  static std::unique_ptr<Team> create(Backend backend, std::size_t threads);
  virtual ~Team() = default;

  /// Runs the phases in order. Does not allocate in our code once `phases` has been this long.
  void run(std::span<const Phase> phases, void* context);

  /// Adds up where the time goes, from the next region on, until called with null. Reads the clock
  /// three times a phase and participant, and allocates where a region of another length is met.
  void watch(TeamTimes* times) { times_ = times; }

  virtual Backend backend() const = 0;
  std::size_t threads() const { return threads_; }

protected:
  explicit Team(std::size_t threads) : threads_(threads) {}
  /// Calls participate(0 .. threads - 1) once each, in parallel as far as threads turn up.
  virtual void fork() noexcept = 0;
  void participate(std::size_t participant) noexcept;

private:
  struct alignas(64) Progress {
    std::atomic<std::uint64_t> ticket{0};  ///< items claimed from the front; from the end << 32
    std::atomic<std::uint32_t> done{0};
  };
  void reserve(std::size_t phases);

  std::size_t threads_;
  std::span<const Phase> phases_;
  void* context_ = nullptr;
  std::unique_ptr<Progress[]> progress_;
  std::size_t progress_size_ = 0;
  TeamTimes* times_ = nullptr;
  RegionTimes* region_ = nullptr;  ///< of the region that runs; null: nobody watches
  std::chrono::steady_clock::time_point start_;
};

}  // namespace neoxref::engine
