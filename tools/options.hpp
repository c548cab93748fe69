// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model.hpp"
#include "engine/tokenizer.hpp"

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

/// A subcommand: adds itself to the program and returns what to do when it was chosen.
using Command = std::function<Exit()>;

/// An option with a text that may be empty; no value when it was not given.
CLI::Option* add_text(CLI::App& app, const std::string& name, std::optional<std::string>& value,
                      const std::string& type, const std::string& help);

/// An option with a whole number from `least` to `most`: digits only, no sign.
CLI::Option* add_count(CLI::App& app, const std::string& name, std::uint64_t& value,
                       std::uint64_t least, std::uint64_t most, const std::string& help);

/// An option with a number from `least` to `most`, or 0 where that is allowed; never nan.
CLI::Option* add_number(CLI::App& app, const std::string& name, double& value, double least,
                        double most, bool or_zero, const std::string& help);

/// More tokens than any text or cache has, few enough that sums of some cannot overflow.
inline constexpr std::uint64_t largest_count = 1'000'000'000'000;

/// The options that every command takes.
struct Common {
  std::string model;
  std::string isa;
  std::string backend{engine::backend_name(engine::built_backends().front())};
  std::size_t threads = 0;
  bool json = false;

  /// MODEL --isa --backend --threads --json
  void add_to(CLI::App& app);
  /// one_count: with --threads, else the command has its own.
  void add_to_without_model(CLI::App& app, bool one_count = true);
  engine::RunOptions run_options() const;
  engine::Model load() const;
};

/// MODEL's tokenizer.json. Errors: Error when there is none.
engine::Tokenizer load_tokenizer(std::string_view model);

/// Token ids of a text. Errors: Error that names `where`, also when there are none.
std::vector<std::int32_t> encode_some(const engine::Tokenizer& tokenizer, std::string_view text,
                                      std::string_view where);

/// A whole file as text; "-" is standard input. Pipes are read to their end, at most 1 GiB.
/// Errors: Error.
std::string read_file(const std::string& path);

/// A file that is written beside its target and renamed at the end: nothing half written, nothing
/// lost. Without commit() nothing changes, not even when the process is interrupted. A target that
/// exists and is no regular file is refused. One object at a time. Errors: Error.
class OutputFile {
public:
  explicit OutputFile(std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  void write(std::string_view bytes);
  void commit();

private:
  [[noreturn]] void fail(const char* problem) const;
  std::string path_;
  std::string temporary_;
  int file_ = -1;
};

/// The command line as one types it into a shell, beginning with "neoxref"; empty before it is set.
void set_command_line(int argc, const char* const* argv);
const std::string& command_line();

/// Text to standard output. Errors: Error when it cannot be written.
void print(std::string_view text);
/// Hands on what print() may still hold. Errors: Error when it cannot be written.
void flush_output();
/// Text to standard error; what cannot be written there is lost.
void say(std::string_view text);

/// A name that came from a file, safe to show: control characters as \\x1b.
std::string printable(std::string_view name);

/// One JSON document on standard output.
void print_json(const nlohmann::ordered_json& document);

/// isa, backend, threads: which machine part computed this.
nlohmann::ordered_json machine_json(const engine::Model& model);
/// The same in a few words.
std::string machine_text(const engine::Model& model);

/// A line on a terminal's standard error that is rewritten; silent elsewhere.
class Progress {
public:
  explicit Progress(std::string label);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// share from 0 to 1.
  void operator()(double share);

private:
  std::string label_;
  bool terminal_;
  int shown_ = -1;
};

/// "1,2,3" as numbers; blanks around a comma do not matter. Errors: Error naming `where`.
std::vector<std::int32_t> parse_ids(std::string_view text, std::string_view where);

Command add_run(CLI::App& program);
Command add_eval(CLI::App& program);
Command add_logits(CLI::App& program);
Command add_tokenize(CLI::App& program);
Command add_inspect(CLI::App& program);
Command add_verify(CLI::App& program);
Command add_plan(CLI::App& program);
Command add_synth(CLI::App& program);
Command add_bench(CLI::App& program);
Command add_analyze(CLI::App& program);
Command add_conform(CLI::App& program);
Command add_compare(CLI::App& program);

}  // namespace neoxref::tools
