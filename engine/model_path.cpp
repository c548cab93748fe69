// SPDX-License-Identifier: Apache-2.0
#include "engine/model_path.hpp"

#include <cstdlib>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "engine/error.hpp"
#include "engine/mapped_file.hpp"

namespace neoxref::engine {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view embedded_name = "mini";
constexpr std::size_t commit_digits = 40;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool is_present(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

fs::path find_embedded() {
  std::vector<fs::path> places;
  if (const std::string data = environment("NEOXREF_DATA_DIR"); !data.empty()) {
    places.emplace_back(data);
  } else {
#ifdef NEOXREF_DATA_DIR
    places.emplace_back(NEOXREF_DATA_DIR);
#endif
#ifdef NEOXREF_SOURCE_DATA_DIR
    places.emplace_back(NEOXREF_SOURCE_DATA_DIR);
#endif
  }
  std::string looked;
  for (const fs::path& place : places) {
    const fs::path folder = place / embedded_name;
    if (is_present(folder / "config.json")) return folder;
    looked += (looked.empty() ? "" : ", ") + folder.native();
  }
  throw Error(embedded_name,
              "the embedded default is not installed; NEOXREF_DATA_DIR can say where it is",
              "it in " + (looked.empty() ? "NEOXREF_DATA_DIR" : looked), "nothing there");
}

struct HubName {
  std::string organisation;
  std::string name;
  std::string revision;  // empty when it was not given

  std::string repository() const { return organisation + "/" + name; }
};

/// One part of a path that came from an argument or from a file: it cannot lead elsewhere.
bool is_plain(std::string_view part) {
  constexpr std::string_view allowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+";
  return !part.empty() && part.size() <= 200 && part.find_first_not_of(allowed) == part.npos &&
         part.find_first_not_of('.') != part.npos && part.front() != '-';
}

bool is_plain_path(std::string_view path) {
  while (true) {
    const auto slash = path.find('/');
    if (!is_plain(path.substr(0, slash))) return false;
    if (slash == path.npos) return true;
    path.remove_prefix(slash + 1);
  }
}

std::optional<HubName> parse_hub_name(std::string_view model) {
  const auto at = model.find('@');
  const std::string_view repository = model.substr(0, at);
  const auto slash = repository.find('/');
  if (slash == repository.npos) return std::nullopt;
  HubName hub{std::string(repository.substr(0, slash)), std::string(repository.substr(slash + 1)),
              at == model.npos ? std::string() : std::string(model.substr(at + 1))};
  // Two hyphens stand for the slash in the names of the cache's folders.
  if (!is_plain(hub.organisation) || !is_plain(hub.name) ||
      repository.find("--") != repository.npos || repository.find('+') != repository.npos) {
    return std::nullopt;
  }
  if (at != model.npos && !is_plain_path(hub.revision)) return std::nullopt;
  return hub;
}

fs::path expanded(const std::string& path) {
  if (path != "~" && !path.starts_with("~/")) return path;
  return environment("HOME") + path.substr(1);
}

fs::path hub_cache() {
  if (const auto cache = environment("HF_HUB_CACHE"); !cache.empty()) return expanded(cache);
  if (const auto home = environment("HF_HOME"); !home.empty()) return expanded(home) / "hub";
  fs::path base;
  if (const auto cache = environment("XDG_CACHE_HOME"); !cache.empty()) {
    base = expanded(cache);
  } else {
    base = expanded("~/.cache");
  }
  return base / "huggingface" / "hub";
}

bool is_commit(std::string_view text) {
  return text.size() == commit_digits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

fs::path find_in_cache(const HubName& hub) {
  const fs::path repository = hub_cache() / ("models--" + hub.organisation + "--" + hub.name);
  const std::string revision = hub.revision.empty() ? "main" : hub.revision;
  std::string commit = revision;
  fs::path looked = repository / "refs" / revision;
  if (!is_commit(revision)) {
    commit.clear();
    if (is_present(looked)) {
      const MappedFile file(looked);
      const std::string_view text = file.text();
      commit = text.substr(0, text.find_last_not_of(" \r\n") + 1);
      if (!is_commit(commit)) {
        throw Error(looked.native(), "does not name a snapshot", "a commit of 40 hex digits",
                    commit);
      }
    }
  }
  if (!commit.empty()) {
    looked = repository / "snapshots" / commit;
    if (is_folder(looked)) return looked;
  }
  std::string command = "hf download " + hub.repository();
  if (!hub.revision.empty()) command += " --revision " + hub.revision;
  throw Error(hub.repository() + "@" + revision,
              "is not in the local Hub cache; download it with: " + command, looked.native(),
              "nothing there");
}

}  // namespace

fs::path resolve_model(std::string_view model) {
  if (model == embedded_name) return find_embedded();
  const fs::path path(model);
  if (is_folder(path)) return path;
  if (is_present(path)) {
    throw Error(model, "is not a model", "a folder with config.json and weights", "a file");
  }
  if (const auto hub = parse_hub_name(model)) return find_in_cache(*hub);
  throw Error(model, "there is no such model",
              "a folder, a Hub name (organisation/name or organisation/name@revision), or mini");
}

}  // namespace neoxref::engine
