// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>

namespace neoxref::tools {

/// A signal that asks the process to end, as an exception: what was begun is cleaned up on the way.
struct Interrupted {
  int signal;
  /// Ends the process as the signal would have.
  [[noreturn]] void end() const;
};

/// While it lives SIGINT, SIGTERM and SIGHUP only set a mark. One object at a time.
class InterruptGuard {
public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  /// Throws Interrupted when a signal has come.
  void check() const;

private:
  static constexpr int signals[] = {SIGINT, SIGTERM, SIGHUP};
  struct sigaction before_[3];
};

}  // namespace neoxref::tools
