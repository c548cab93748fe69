// SPDX-License-Identifier: Apache-2.0
#include "engine/error.hpp"
#include "engine/parallel_backends.hpp"

#ifdef NEOXREF_HAVE_OPENMP
#include <omp.h>
#endif

namespace neoxref::engine {

#ifdef NEOXREF_HAVE_OPENMP
namespace {

class OpenmpTeam final : public Team {
public:
  explicit OpenmpTeam(std::size_t threads) : Team(threads) {}
  Backend backend() const override { return Backend::openmp; }

protected:
  void fork() noexcept override {
#pragma omp parallel num_threads(static_cast <int>(threads()))
    participate(static_cast<std::size_t>(omp_get_thread_num()));
  }
};

}  // namespace

std::unique_ptr<Team> make_openmp_team(std::size_t threads) {
  return std::make_unique<OpenmpTeam>(threads);
}
#else
std::unique_ptr<Team> make_openmp_team(std::size_t) {
  throw Error("backend", "openmp was not built in", "tbb or serial", "openmp");
}
#endif

}  // namespace neoxref::engine
