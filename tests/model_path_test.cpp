// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE model_path
#include "engine/model_path.hpp"

#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "tests/folder.hpp"

namespace {

using namespace neoxref::engine;
namespace fs = std::filesystem;
using neoxref::tests::source_dir;
using neoxref::tests::TemporaryFolder;

void write_text(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

void set_environment(const char* name, const std::string& value) {
  if (value.empty()) {
    ::unsetenv(name);
  } else {
    ::setenv(name, value.c_str(), 1);
  }
}

/// Environment variables, put back at the end of the scope.
class Environment {
public:
  Environment() {
    for (const char* name : names) {
      const char* value = std::getenv(name);
      before_.emplace_back(value == nullptr ? "" : value);
      ::unsetenv(name);
    }
  }
  ~Environment() {
    for (std::size_t i = 0; i < before_.size(); ++i) set_environment(names[i], before_[i]);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

private:
  static constexpr const char* names[] = {"NEOXREF_DATA_DIR", "HF_HUB_CACHE", "HF_HOME",
                                          "XDG_CACHE_HOME", "HOME"};
  std::vector<std::string> before_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(model_names_that_are_folders_or_the_embedded_default) {
  const Environment environment;
  const TemporaryFolder folder;
  BOOST_CHECK_EQUAL(resolve_model(folder.path().native()), folder.path());
  write_text(folder.path() / "file", "x");
  BOOST_CHECK(refusal([&] { resolve_model((folder.path() / "file").native()); }).find("a file") !=
              std::string::npos);
  for (const char* name : {"", "absent", "/absent/x", "../absent", "a/b/c", "a/b@", "a/..", "-a/b",
                           "a--b/c", "a/b@../../x", "a/b@x//y", "a/b c", "a/b@-x"}) {
    BOOST_CHECK_MESSAGE(
        refusal([&] { resolve_model(name); }).find("there is no such model") != std::string::npos,
        name << " -> " << refusal([&] { resolve_model(name); }));
  }
  set_environment("NEOXREF_DATA_DIR", (source_dir() / "datasets").native());
  BOOST_CHECK_EQUAL(resolve_model("mini"), source_dir() / "datasets" / "mini");
  // A place that was named is not silently exchanged for another.
  set_environment("NEOXREF_DATA_DIR", folder.path().native());
  const std::string message = refusal([] { resolve_model("mini"); });
  BOOST_CHECK_MESSAGE(message.find((folder.path() / "mini").native()) != message.npos, message);
}

BOOST_AUTO_TEST_CASE(hub_cache) {
  const Environment environment;
  const TemporaryFolder folder;
  const std::string commit = "0123456789abcdef0123456789abcdef01234567";
  const auto fill = [&](const fs::path& cache) {
    const fs::path repository = cache / "models--org--name-1.4b";
    write_text(repository / "refs" / "main", commit);
    write_text(repository / "refs" / "refs" / "pr" / "1", commit + "\n");
    write_text(repository / "refs" / "gone", std::string(40, 'a'));
    write_text(repository / "refs" / "broken", "../../../..");
    write_text(repository / "refs" / "empty", "");
    fs::create_directories(repository / "snapshots" / commit);
    return repository / "snapshots" / commit;
  };
  const auto check_all = [&](const fs::path& snapshot) {
    BOOST_CHECK_EQUAL(resolve_model("org/name-1.4b"), snapshot);
    BOOST_CHECK_EQUAL(resolve_model("org/name-1.4b@main"), snapshot);
    BOOST_CHECK_EQUAL(resolve_model("org/name-1.4b@refs/pr/1"), snapshot);
    BOOST_CHECK_EQUAL(resolve_model("org/name-1.4b@" + commit), snapshot);
  };
  // From the weakest to the strongest variable.
  set_environment("HOME", (folder.path() / "home").native());
  check_all(fill(folder.path() / "home" / ".cache" / "huggingface" / "hub"));
  set_environment("XDG_CACHE_HOME", (folder.path() / "xdg").native());
  check_all(fill(folder.path() / "xdg" / "huggingface" / "hub"));
  set_environment("HF_HOME", "~/hf");
  check_all(fill(folder.path() / "home" / "hf" / "hub"));
  set_environment("HF_HUB_CACHE", (folder.path() / "cache").native());
  check_all(fill(folder.path() / "cache"));

  const auto check_absent = [](const std::string& name, const std::string& part) {
    const std::string message = refusal([&] { resolve_model(name); });
    BOOST_CHECK_MESSAGE(message.find(part) != message.npos, "'" << message << "' lacks " << part);
  };
  check_absent("org/other", "download it with: hf download org/other (expected ");
  check_absent("org/name-1.4b@step1000", "hf download org/name-1.4b --revision step1000 (");
  check_absent("org/name-1.4b@gone", "snapshots/" + std::string(40, 'a'));
  check_absent("org/name-1.4b@" + std::string(40, 'b'), "--revision " + std::string(40, 'b'));
  check_absent("org/name-1.4b@0123456", "refs/0123456");
  check_absent("org/name-1.4b@broken", "a commit of 40 hex digits, found ../../../..");
  check_absent("org/name-1.4b@empty", "a commit of 40 hex digits");
}
