// SPDX-License-Identifier: Apache-2.0
#include "tools/options.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "engine/error.hpp"
#include "engine/mapped_file.hpp"
#include "engine/model_path.hpp"

namespace neoxref::tools {

void Common::add_to(CLI::App& app) {
  app.add_option("MODEL", model,
                 "A folder with config.json, model.safetensors and tokenizer.json; a Hub name "
                 "organisation/name[@revision] in the local cache; or mini, the embedded default")
      ->required();
  add_to_without_model(app);
}

void Common::add_to_without_model(CLI::App& app) {
  app.add_option("--isa", isa, "scalar, avx2, avx512 or neon (default: NEOXREF_ISA or the best)");
  app.add_option("--backend", backend, "tbb, openmp or serial")->capture_default_str();
  app.add_option("--threads", threads, "Threads (default: all that this process may use)");
  app.add_flag("--json", json, "Print one JSON document on standard output and nothing else");
}

engine::RunOptions Common::run_options() const {
  return {isa, engine::parse_backend(backend), threads};
}

engine::Model Common::load() const {
  return engine::Model::load(engine::resolve_model(model), run_options());
}

engine::Tokenizer load_tokenizer(std::string_view model) {
  return engine::Tokenizer::open((engine::resolve_model(model) / "tokenizer.json").string());
}

std::string read_file(const std::string& path) {
  return std::string(engine::MappedFile(path).text());
}

OutputFile::OutputFile(std::string path)
    : path_(std::move(path)), temporary_(path_ + ".partial." + std::to_string(getpid())) {
  file_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file_ < 0) fail("cannot be written");
}

OutputFile::~OutputFile() {
  if (file_ < 0) return;
  close(file_);
  unlink(temporary_.c_str());
}

void OutputFile::fail(const char* problem) const {
  throw engine::Error(path_, problem, "", std::strerror(errno));
}

void OutputFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_, bytes.data(), bytes.size());
    if (written < 0) fail("cannot be written");
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

void OutputFile::commit() {
  if (fsync(file_) != 0 && errno != EINVAL) fail("cannot be written");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be replaced");
  close(file_);
  file_ = -1;
}

void print_json(const nlohmann::ordered_json& document) {
  fmt::print("{}\n",
             document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

nlohmann::ordered_json machine_json(const engine::Model& model) {
  return {{"isa", model.kernels().name},
          {"backend", engine::backend_name(model.team().backend())},
          {"threads", model.team().threads()}};
}

Progress::Progress(std::string label) : label_(std::move(label)), terminal_(isatty(2) == 1) {}

Progress::~Progress() {
  if (terminal_ && shown_ >= 0) fmt::print(stderr, "\r\x1b[K");
}

void Progress::operator()(double share) {
  const int percent = static_cast<int>(share * 100.0);
  if (!terminal_ || percent == shown_) return;
  shown_ = percent;
  fmt::print(stderr, "\r{} {:3d} %", label_, percent);
  std::fflush(stderr);
}

std::vector<std::int32_t> parse_ids(std::string_view text, std::string_view option) {
  std::vector<std::int32_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (;;) {
    std::int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc{} || (next != end && *next != ',')) {
      throw engine::Error(option, "not a list of token ids", "numbers with commas between, 1,2,3",
                          text);
    }
    ids.push_back(id);
    if (next == end) return ids;
    at = next + 1;
  }
}

}  // namespace neoxref::tools
