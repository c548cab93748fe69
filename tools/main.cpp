// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "engine/error.hpp"
#include "tools/options.hpp"

namespace {

using neoxref::tools::Exit;

int report(Exit exit, const char* text) {
  fmt::print(stderr, "neoxref: {}\n", text);
  return static_cast<int>(exit);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace neoxref::tools;
  CLI::App program(
      "GPT-NeoX / Pythia inference on CPUs, every output bit fixed by a contract.\n"
      "Exit status: 0 ok, 1 a check failed, 2 usage, 3 something was not cut that should have "
      "been, "
      "4 bad input.",
      "neoxref");
  program.require_subcommand(1);
  program.set_version_flag("--version", NEOXREF_VERSION);
  std::vector<std::pair<CLI::App*, Command>> commands;
  for (Command (*add)(CLI::App&) :
       {add_run, add_eval, add_plan, add_verify, add_logits, add_tokenize, add_inspect}) {
    Command command = add(program);
    commands.emplace_back(program.get_subcommands(nullptr).back(), std::move(command));
  }
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? 0 : static_cast<int>(Exit::usage);
  }
  try {
    for (const auto& [app, command] : commands) {
      if (app->parsed()) return static_cast<int>(command());
    }
  } catch (const std::invalid_argument& error) {
    return report(Exit::usage, error.what());
  } catch (const std::bad_alloc&) {
    return report(Exit::bad_input, "not enough memory");
  } catch (const std::exception& error) {
    return report(Exit::bad_input, error.what());
  }
  return static_cast<int>(Exit::usage);
}
