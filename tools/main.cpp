// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <exception>
#include <new>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "engine/error.hpp"
#include "tools/golden.hpp"

namespace {

using namespace neoxref::tools;
using Commands = std::vector<std::pair<CLI::App*, Command>>;

int report(Exit exit, const std::string& text) {
  say("neoxref: " + text + "\n");
  return static_cast<int>(exit);
}

/// Keeps files that are opened later off the standard descriptors: a closed one stays unusable.
void occupy_standard_descriptors() {
  for (int descriptor = 0; descriptor <= 2; ++descriptor) {
    if (fcntl(descriptor, F_GETFD) != -1) continue;
    const int opened = open("/dev/null", descriptor == 0 ? O_WRONLY : O_RDONLY);
    if (opened >= 0 && opened != descriptor) close(opened);
  }
}

std::string names(const Commands& commands) {
  std::string text;
  for (const auto& [app, command] : commands) text += (text.empty() ? "" : ", ") + app->get_name();
  return text;
}

/// "run" when that was chosen before the command line went wrong, else empty.
std::string chosen(const CLI::App& program) {
  const auto parsed = program.get_subcommands();
  return parsed.empty() ? std::string{} : parsed.front()->get_name();
}

void parse(CLI::App& program, const Commands& commands, int argc, char** argv) {
  const std::string first = argc > 1 ? argv[1] : "";
  const bool known = first == "-h" || first == "--help" || first == "--version" ||
                     std::any_of(commands.begin(), commands.end(), [&](const auto& command) {
                       return command.first->get_name() == first;
                     });
  if (!known) {
    throw UsageError(neoxref::engine::Error("", "no such command", names(commands),
                                            first.empty() ? "nothing" : first)
                         .what());
  }
  program.parse(argc, argv);
}

int execute(int argc, char** argv) {
  CLI::App program("GPT-NeoX / Pythia inference on CPUs, every output bit fixed by a contract.",
                   "neoxref");
  program.get_formatter()->column_width(27);
  program.require_subcommand(1);
  program.set_version_flag("--version", "neoxref " NEOXREF_VERSION, "Print the version and exit");
  program.set_help_flag("-h,--help", "Print this help and exit");
  program.footer(
      "Exit status: 0 ok, 1 a check failed, 2 usage, 3 nothing was cut that should have\n"
      "been, 4 bad input. neoxref COMMAND --help tells more.");
  Commands commands;
  for (Command (*add)(CommandLine) :
       {add_run, add_eval, add_analyze, add_bench, add_plan, add_golden, add_verify, add_compare,
        add_logits, add_tokenize, add_inspect, add_synth, add_conform}) {
    Command command = add(CommandLine(program));
    commands.emplace_back(program.get_subcommands(nullptr).back(), std::move(command));
  }
  try {
    parse(program, commands, argc, argv);
    for (const auto& [app, command] : commands) {
      if (!app->parsed()) continue;
      const Exit exit = command();
      flush_output();
      return static_cast<int>(exit);
    }
  } catch (const CLI::Success& success) {
    std::ostringstream text;
    program.exit(success, text, text);
    print(text.str());
    flush_output();
    return static_cast<int>(Exit::ok);
  } catch (const CLI::ParseError& error) {
    const std::string command = chosen(program);
    throw UsageError(neoxref::engine::Error(command, error.what()).what() +
                     (" (see neoxref " + command + (command.empty() ? "" : " ") + "--help)"));
  } catch (const UsageError& error) {
    const std::string command = chosen(program);
    throw UsageError((command.empty() ? "" : command + ": ") + error.what());
  }
  throw UsageError("no such command (expected " + names(commands) + ")");
}

}  // namespace

int main(int argc, char** argv) {
  occupy_standard_descriptors();
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error like a full disk
  try {
    set_command_line(argc, argv);
    return execute(argc, argv);
  } catch (const UsageError& error) {
    return report(Exit::usage, error.what());
  } catch (const std::bad_alloc&) {
    return report(Exit::bad_input, "not enough memory");
  } catch (const neoxref::engine::Error& error) {
    return report(Exit::bad_input, error.what());
  } catch (const std::exception& error) {
    return report(Exit::bad_input, neoxref::engine::Error("", error.what()).what());
  }
}
