// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
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

/// A subcommand: adds itself to the program and returns what to do when it was chosen.
using Command = std::function<Exit()>;

/// The options that every command that computes takes.
struct Common {
  std::string model;
  std::string isa;
  std::string backend = "tbb";
  std::size_t threads = 0;
  bool json = false;

  /// MODEL --isa --backend --threads --json
  void add_to(CLI::App& app);
  void add_to_without_model(CLI::App& app);
  engine::RunOptions run_options() const;
  engine::Model load() const;
};

/// MODEL's tokenizer.json. Errors: Error when there is none.
engine::Tokenizer load_tokenizer(std::string_view model);

/// A whole file as text. Errors: Error.
std::string read_file(const std::string& path);

/// A file that is written beside its target and renamed at the end: nothing half written, nothing
/// lost. Without commit() nothing changes. Errors: Error.
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

/// One JSON document on standard output.
void print_json(const nlohmann::ordered_json& document);

/// isa, backend, threads: which machine part computed this.
nlohmann::ordered_json machine_json(const engine::Model& model);

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

/// "1,2,3" as numbers. Errors: Error naming `option`.
std::vector<std::int32_t> parse_ids(std::string_view text, std::string_view option);

Command add_run(CLI::App& program);
Command add_eval(CLI::App& program);
Command add_logits(CLI::App& program);
Command add_tokenize(CLI::App& program);
Command add_inspect(CLI::App& program);
Command add_verify(CLI::App& program);
Command add_plan(CLI::App& program);

}  // namespace neoxref::tools
