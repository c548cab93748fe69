// SPDX-License-Identifier: Apache-2.0
#include "tools/interrupt.hpp"

#include <cstdlib>

namespace neoxref::tools {
namespace {

volatile std::sig_atomic_t arrived = 0;

extern "C" void mark_signal(int signal) {
  arrived = signal;
}

}  // namespace

void Interrupted::end() const {
  std::signal(signal, SIG_DFL);
  std::raise(signal);
  std::_Exit(128 + signal);
}

InterruptGuard::InterruptGuard() {
  arrived = 0;
  for (int i = 0; i < 3; ++i) {
    sigaction(signals[i], nullptr, &before_[i]);
    // A signal that is ignored stays ignored (nohup).
    if (before_[i].sa_handler == SIG_IGN) continue;
    struct sigaction action = {};
    action.sa_handler = mark_signal;
    sigaction(signals[i], &action, nullptr);
  }
}

InterruptGuard::~InterruptGuard() {
  for (int i = 0; i < 3; ++i) sigaction(signals[i], &before_[i], nullptr);
}

void InterruptGuard::check() const {
  if (arrived != 0) throw Interrupted{arrived};
}

}  // namespace neoxref::tools
