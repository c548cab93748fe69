// SPDX-License-Identifier: Apache-2.0
#include "engine/error.hpp"
#include "engine/parallel_backends.hpp"

#ifdef NEOXREF_HAVE_TBB
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

#include <optional>
#endif

namespace neoxref::engine {

#ifdef NEOXREF_HAVE_TBB
namespace {

class TbbTeam final : public Team {
public:
  explicit TbbTeam(std::size_t threads) : Team(threads), arena_(static_cast<int>(threads)) {
    // The limit is the process's, not ours: it is raised where it is in the way, never lowered.
    constexpr auto limit = tbb::global_control::max_allowed_parallelism;
    if (threads > tbb::global_control::active_value(limit)) limit_.emplace(limit, threads);
    arena_.initialize();
  }
  Backend backend() const override { return Backend::tbb; }

protected:
  void fork() noexcept override {
    arena_.execute([this] {
      tbb::parallel_for(
          std::size_t{0}, threads(), [this](std::size_t participant) { participate(participant); },
          tbb::simple_partitioner{});
    });
  }

private:
  std::optional<tbb::global_control> limit_;
  tbb::task_arena arena_;
};

}  // namespace

std::unique_ptr<Team> make_tbb_team(std::size_t threads) {
  return std::make_unique<TbbTeam>(threads);
}
#else
std::unique_ptr<Team> make_tbb_team(std::size_t) {
  throw Error("backend", "tbb was not built in", "openmp or serial", "tbb");
}
#endif

}  // namespace neoxref::engine
