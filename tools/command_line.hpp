// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

// The library's header takes longer to compile than most files that need options: it stays in
// command_line.cpp and main.cpp.
namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace neoxref::tools {

/// Exit statuses of the program.
enum class Exit : int {
  ok = 0,
  failed = 1,  ///< a comparison or check did not hold
  usage = 2,
  not_cut = 3,  ///< something was not cut that should have been
  bad_input = 4
};

/// The command line itself makes no sense, whatever the files hold. what() is one line.
class UsageError : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

/// What to do when a subcommand was chosen.
using Command = std::function<Exit()>;

/// An option of a command: a handle, valid as long as the program's command line.
class Option {
public:
  explicit Option(CLI::Option& option) : option_(&option) {}
  /// What help shows for the value.
  Option type_name(const std::string& name) const;
  /// The heading under which help shows it.
  Option group(const std::string& name) const;
  Option required() const;
  Option one_of(const std::vector<std::string>& values) const;
  /// problem: empty where a value is good, else what was expected.
  Option check(const std::function<std::string(const std::string&)>& problem) const;
  /// A list: values with commas between.
  Option with_commas() const;
  /// A list: one value each time that the option is given.
  Option one_at_a_time() const;

  bool given() const;
  /// "--seed"
  std::string name() const;

private:
  CLI::Option* option_;
};

/// The options of the program or of one command: a handle like Option. Values that options write to
/// must live until the command has run.
class CommandLine {
public:
  explicit CommandLine(CLI::App& app) : app_(&app) {}
  CommandLine add_subcommand(const std::string& name, const std::string& description,
                             const std::string& footer) const;
  Option add_option(const std::string& name, std::string& value, const std::string& help) const;
  Option add_option(const std::string& name, std::vector<std::string>& values,
                    const std::string& help) const;
  Option add_flag(const std::string& name, bool& value, const std::string& help) const;
  /// An option whose text goes to `read`, which throws UsageError.
  Option add_function(const std::string& name, const std::function<void(const std::string&)>& read,
                      const std::string& help) const;
  /// An option with a text that may be empty; no value when it was not given.
  Option add_text(const std::string& name, std::optional<std::string>& value,
                  const std::string& type, const std::string& help) const;
  /// An option with a whole number from `least` to `most`: digits only, no sign.
  Option add_count(const std::string& name, std::uint64_t& value, std::uint64_t least,
                   std::uint64_t most, const std::string& help) const;
  /// An option with a number from `least` to `most`, or 0 where that is allowed; never nan.
  Option add_number(const std::string& name, double& value, double least, double most, bool or_zero,
                    const std::string& help) const;

private:
  CLI::App* app_;
};

/// More tokens than any text or cache has, few enough that sums of some cannot overflow.
inline constexpr std::uint64_t largest_count = 1'000'000'000'000;

/// Usage error: what an option expected and what it found.
[[noreturn]] void refuse(const std::string& option, const std::string& expected,
                         const std::string& found);

}  // namespace neoxref::tools
