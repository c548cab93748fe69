// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model.hpp"
#include "engine/tokenizer.hpp"
#include "tools/command_line.hpp"

namespace neoxref::tools {

/// The options that every command takes.
struct Common {
  std::string model;
  std::string isa;
  std::string backend{engine::backend_name(engine::built_backends().front())};
  std::size_t threads = 0;
  bool json = false;

  /// MODEL --isa --backend --threads --json
  void add_to(CommandLine app);
  /// one_count: with --threads, else the command has its own.
  void add_to_without_model(CommandLine app, bool one_count = true);
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

Command add_run(CommandLine program);
Command add_eval(CommandLine program);
Command add_logits(CommandLine program);
Command add_tokenize(CommandLine program);
Command add_inspect(CommandLine program);
Command add_verify(CommandLine program);
Command add_plan(CommandLine program);
Command add_synth(CommandLine program);
Command add_bench(CommandLine program);
Command add_analyze(CommandLine program);
Command add_conform(CommandLine program);
Command add_compare(CommandLine program);

}  // namespace neoxref::tools
