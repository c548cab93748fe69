// SPDX-License-Identifier: Apache-2.0
#include "tools/bench_start.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/error.hpp"
#include "eval/bench.hpp"
#include "eval/digest.hpp"

extern char** environ;

namespace neoxref::tools {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr std::size_t prompt_tokens = 16;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Started {
  double seconds;
  double load_seconds;
  double peak_bytes;
  std::string digest;
};

Started start_once(std::vector<std::string> arguments, const InterruptGuard& guard) {
  const auto fail = [](const char* problem, int error) {
    throw engine::Error("bench --start-only", problem, "", std::strerror(error));
  };
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail("cannot be started", errno);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  pid_t child = 0;
  const auto start = Clock::now();
  const int error = posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error != 0) {
    close(ends[0]);
    fail("cannot be started", error);
  }
  std::string text;
  double seconds = 0.0;
  std::array<char, 4096> piece;
  for (;;) {
    const ssize_t count = read(ends[0], piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    if (text.empty()) seconds = seconds_since(start);
    text.append(piece.data(), static_cast<std::size_t>(count));
  }
  close(ends[0]);
  int status = 0;
  rusage usage{};
  while (wait4(child, &status, 0, &usage) < 0 && errno == EINTR) {
  }
  guard.check();
  const Json document = Json::parse(text, nullptr, false);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || !document.is_object()) {
    throw engine::Error("bench --start-only", "did not end well", "exit status 0",
                        WIFEXITED(status) ? "exit status " + std::to_string(WEXITSTATUS(status))
                                          : "signal " + std::to_string(WTERMSIG(status)));
  }
  return {seconds, document["load_seconds"], static_cast<double>(usage.ru_maxrss) * 1024.0,
          document["digest"]};
}

}  // namespace

Exit start_only(const Common& common) {
  const auto start = Clock::now();
  engine::Model model = common.load();
  const double load_seconds = seconds_since(start);
  const std::size_t vocab = model.config().vocab;
  const auto ids = eval::bench_tokens(prompt_tokens, vocab);
  std::vector<float> logits(vocab);
  engine::Sequence sequence = model.sequence(prompt_tokens);
  engine::Step step{&sequence, ids, engine::LogitRows::last, logits.data()};
  if (!model.forward({&step, 1})) throw engine::Error("bench", engine::describe(*step.failure));
  const double seconds = seconds_since(start);
  eval::Digest digest;
  digest.add(logits);
  print_json({{"load_seconds", load_seconds},
              {"logits_seconds", seconds},
              {"prompt", prompt_tokens},
              {"digest", digest.hex()},
              {"machine", machine_json(model)}});
  return Exit::ok;
}

Json start_row(const Common& common, std::size_t threads, std::size_t count,
               const InterruptGuard& guard) {
  std::vector<std::string> arguments = {"neoxref",
                                        "bench",
                                        common.model,
                                        "--backend",
                                        common.backend,
                                        "--threads",
                                        std::to_string(threads),
                                        "--start-only",
                                        "--json"};
  if (!common.isa.empty()) arguments.insert(arguments.end(), {"--isa", common.isa});
  std::vector<double> seconds;
  std::vector<double> load;
  std::vector<double> peak;
  std::string digest;
  for (std::size_t i = 0; i < count; ++i) {
    const Started started = start_once(arguments, guard);
    seconds.push_back(started.seconds);
    load.push_back(started.load_seconds);
    peak.push_back(started.peak_bytes);
    if (!digest.empty() && started.digest != digest) {
      throw engine::Error("bench --start-only", "another start gave other logits", digest,
                          started.digest);
    }
    digest = started.digest;
  }
  const eval::Spread spread = eval::spread(seconds);
  return {{"kind", "start"},
          {"prompt", prompt_tokens},
          {"threads", threads},
          {"seconds", spread.median},
          {"seconds_min", spread.least},
          {"seconds_max", spread.most},
          {"n", spread.n},
          {"load_seconds", eval::spread(load).median},
          {"peak_bytes", eval::spread(peak).median},
          {"digest", digest}};
}

}  // namespace neoxref::tools
