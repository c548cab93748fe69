// SPDX-License-Identifier: Apache-2.0
#include "tools/options.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/error.hpp"
#include "engine/mapped_file.hpp"
#include "engine/model_path.hpp"
#include "simd/kernels.hpp"

namespace neoxref::tools {
namespace {

namespace fs = std::filesystem;

constexpr const char* machine_group = "Machine";

/// The temporary file to remove when a signal ends the process; empty: none.
std::array<char, PATH_MAX> unfinished{};

std::string typed_command_line;

extern "C" void remove_unfinished(int signal) {
  if (unfinished[0] != '\0') unlink(unfinished.data());
  raise(signal);
}

void remove_when_interrupted(const std::string& temporary) {
  if (temporary.size() >= unfinished.size()) return;
  std::copy(temporary.c_str(), temporary.c_str() + temporary.size() + 1, unfinished.begin());
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) {
    struct sigaction before = {};
    if (sigaction(signal, nullptr, &before) != 0 || before.sa_handler != SIG_DFL) continue;
    struct sigaction action = {};
    action.sa_handler = remove_unfinished;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(signal, &action, nullptr);
  }
}

}  // namespace

void Common::add_to(CommandLine app) {
  app.add_option("MODEL", model,
                 "A folder with config.json, model.safetensors and tokenizer.json;\n"
                 "a Hub name organisation/name[@revision] in the local Hub cache;\n"
                 "or mini, the embedded default")
      .type_name("")
      .required();
  add_to_without_model(app);
}

void Common::add_to_without_model(CommandLine app, bool one_count) {
  app.add_function(
         "--isa",
         [this](const std::string& name) {
           // An empty name would mean the best one.
           if (name.empty()) refuse("--isa", "scalar, avx2, avx512, zen4 or neon", name);
           try {
             simd::kernels(name);
           } catch (const std::invalid_argument& error) {
             throw UsageError(std::string("--isa: ") + error.what());
           }
           isa = name;
         },
         "Instruction set: scalar, avx2, avx512, zen4 (AVX-512 at one\n512-bit fma a cycle) or "
         "neon (default: NEOXREF_ISA, else the best)")
      .type_name("NAME")
      .group(machine_group);
  app.add_function(
         "--backend",
         [this](const std::string& name) {
           if (name != "tbb" && name != "openmp" && name != "serial") {
             refuse("--backend", "tbb, openmp or serial", name);
           }
           backend = name;
         },
         "Thread pool: tbb, openmp or serial (default: " + backend + ")")
      .type_name("NAME")
      .group(machine_group);
  if (one_count) {
    app.add_count("--threads", threads, 1, 4096, "Threads (default: all this process may use)")
        .group(machine_group);
  }
  app.add_flag("--json", json, "Print one JSON document and nothing else");
}

engine::RunOptions Common::run_options() const {
  if (isa.empty()) {
    try {
      simd::kernels(std::string_view{});
    } catch (const std::invalid_argument& error) {
      throw UsageError(std::string("NEOXREF_ISA: ") + error.what());
    }
  }
  return {isa, engine::parse_backend(backend), threads};
}

engine::Model Common::load() const {
  const engine::RunOptions options = run_options();
  return engine::Model::load(engine::resolve_model(model), options);
}

engine::Tokenizer load_tokenizer(std::string_view model) {
  return engine::Tokenizer::open((engine::resolve_model(model) / "tokenizer.json").string());
}

std::vector<std::int32_t> encode_some(const engine::Tokenizer& tokenizer, std::string_view text,
                                      std::string_view where) {
  std::vector<std::int32_t> ids;
  try {
    ids = tokenizer.encode(text);
  } catch (const engine::Error& error) {
    throw engine::Error(where, error.what());
  }
  if (ids.empty()) throw engine::Error(where, "is empty", "at least one token", "none");
  return ids;
}

std::string read_file(const std::string& path) {
  std::error_code ignored;
  const bool standard_input = path == "-";
  if (!standard_input && fs::status(path, ignored).type() != fs::file_type::fifo) {
    return std::string(engine::MappedFile(path).text());
  }
  // Without O_NONBLOCK a pipe that nobody writes to would be waited for without end.
  const int file =
      standard_input ? dup(STDIN_FILENO) : open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  const std::string name = standard_input ? "standard input" : path;
  if (file < 0) throw engine::Error(name, "cannot be opened", "", std::strerror(errno));
  if (!standard_input) fcntl(file, F_SETFL, 0);
  constexpr std::size_t most = std::size_t{1} << 30;
  std::string text;
  std::array<char, 65536> piece;
  for (;;) {
    const ssize_t count = read(file, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    const int error = errno;
    if (count <= 0 || text.size() > most) close(file);
    if (count < 0) throw engine::Error(name, "cannot be read", "", std::strerror(error));
    if (count == 0) return text;
    if (text.size() > most) throw engine::Error(name, "is too long", "at most 1 GiB", "more");
    text.append(piece.data(), static_cast<std::size_t>(count));
  }
}

OutputFile::OutputFile(std::string path) : path_(std::move(path)) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path_, ignored);
  if (path_.empty() || (fs::exists(status) && !fs::is_regular_file(status))) {
    throw engine::Error(path_.empty() ? "output" : path_, "cannot be written",
                        "a regular file or a new name",
                        path_.empty()              ? "nothing"
                        : fs::is_directory(status) ? "a folder"
                                                   : "a special file");
  }
  // A link stays a link: what it points at is replaced.
  if (fs::is_symlink(fs::symlink_status(path_, ignored)) && fs::exists(status)) {
    path_ = fs::canonical(path_).string();
  }
  constexpr int attempts = 100;  // files that an earlier process with the same id left behind
  for (int attempt = 0; file_ < 0 && attempt < attempts; ++attempt) {
    temporary_ = fmt::format("{}.partial.{}.{}", path_, getpid(), attempt);
    // Before the file is there: a signal may come as soon as it is.
    remove_when_interrupted(temporary_);
    file_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file_ < 0 && errno != EEXIST) break;
  }
  if (file_ >= 0) return;
  unfinished[0] = '\0';
  fail("cannot be written");
}

OutputFile::~OutputFile() {
  if (file_ >= 0) {
    close(file_);
    unlink(temporary_.c_str());
  }
  unfinished[0] = '\0';
}

void OutputFile::fail(const char* problem) const {
  throw engine::Error(path_, problem, "", std::strerror(errno));
}

void OutputFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot be written");
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

void OutputFile::commit() {
  if (fsync(file_) != 0 && errno != EINVAL) fail("cannot be written");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be replaced");
  unfinished[0] = '\0';
  close(file_);
  file_ = -1;
}

void set_command_line(int argc, const char* const* argv) {
  typed_command_line = "neoxref";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    constexpr const char* plain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./,:=@%+-";
    typed_command_line += ' ';
    if (!argument.empty() && argument.find_first_not_of(plain) == std::string::npos) {
      typed_command_line += argument;
      continue;
    }
    typed_command_line += '\'';
    for (const char c : argument) typed_command_line += c == '\'' ? "'\\''" : std::string(1, c);
    typed_command_line += '\'';
  }
}

const std::string& command_line() {
  return typed_command_line;
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    throw engine::Error("standard output", "cannot be written", "", std::strerror(errno));
  }
}

void flush_output() {
  if (std::fflush(stdout) != 0) {
    throw engine::Error("standard output", "cannot be written", "", std::strerror(errno));
  }
}

void say(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
}

std::string printable(std::string_view name) {
  std::string text;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      text += fmt::format("\\x{:02x}", byte);
    } else {
      text += c;
    }
  }
  return text;
}

void print_json(const nlohmann::ordered_json& document) {
  print(document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

nlohmann::ordered_json machine_json(const engine::Model& model) {
  return {{"isa", model.kernels().name},
          {"backend", engine::backend_name(model.team().backend())},
          {"threads", model.team().threads()}};
}

std::string machine_text(const engine::Model& model) {
  const std::size_t threads = model.team().threads();
  return fmt::format("{}, {}, {} thread{}", model.kernels().name,
                     engine::backend_name(model.team().backend()), threads,
                     threads == 1 ? "" : "s");
}

Progress::Progress(std::string label) : label_(std::move(label)), terminal_(isatty(2) == 1) {}

Progress::~Progress() {
  if (terminal_ && shown_ >= 0) say("\r\x1b[K");
}

void Progress::operator()(double share) {
  const int percent = static_cast<int>(share * 100.0);
  if (!terminal_ || percent == shown_) return;
  shown_ = percent;
  say(fmt::format("\r{} {:3d} %", label_, percent));
}

std::vector<std::int32_t> parse_ids(std::string_view text, std::string_view where) {
  std::vector<std::int32_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto skip_blanks = [&](const char* from) {
    return std::find_if(from, end, [](char c) { return c != ' ' && c != '\n' && c != '\r'; });
  };
  for (;;) {
    std::int32_t id = 0;
    at = skip_blanks(at);
    const auto [behind, error] = std::from_chars(at, end, id);
    const char* const next = skip_blanks(behind);
    if (error != std::errc{} || (next != end && *next != ',')) {
      const auto bad = static_cast<std::size_t>(at - text.data());
      throw engine::Error(where, fmt::format("byte {}: not a list of token ids", bad),
                          "32-bit numbers with commas between, 1,2,3",
                          bad == text.size() ? "nothing" : text.substr(bad, 40));
    }
    ids.push_back(id);
    if (next == end) return ids;
    at = next + 1;
  }
}

}  // namespace neoxref::tools
