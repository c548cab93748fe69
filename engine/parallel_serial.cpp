// SPDX-License-Identifier: Apache-2.0
#include "engine/parallel_backends.hpp"

namespace neoxref::engine {
namespace {

class SerialTeam final : public Team {
public:
  SerialTeam() : Team(1) {}
  Backend backend() const override { return Backend::serial; }

protected:
  void fork() noexcept override { participate(0); }
};

}  // namespace

std::unique_ptr<Team> make_serial_team() {
  return std::make_unique<SerialTeam>();
}

}  // namespace neoxref::engine
