// SPDX-License-Identifier: Apache-2.0
// Golden folders: run, write, replace.
#include "eval/golden_make.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <system_error>

#include "engine/error.hpp"
#include "eval/golden_json.hpp"
#include "eval/golden_run.hpp"
#include "eval/scratch_file.hpp"
#include "eval/sha256.hpp"

namespace neoxref::eval {
namespace {

using engine::Error;
namespace fs = std::filesystem;

/// A safetensors file whose values arrive while the run goes on: input_ids first, then tensors in the
/// order they were asked for. Those of a cache that a press shortens end up smaller than there is room
/// for.
class TensorFile {
public:
  TensorFile(const fs::path& folder, const std::vector<NamedTensor>& most,
             std::span<const std::int32_t> tokens, std::string tool)
      : tokens_(tokens.size()), tool_(std::move(tool)), names_(most) {
    data_at_ = (header(most).size() + 7) / 8 * 8;
    std::size_t size = data_at_ + tokens_ * sizeof(std::int64_t);
    for (const NamedTensor& tensor : most) size += tensor.bytes();
    file_.emplace(folder, size);
    auto* const ids = reinterpret_cast<std::int64_t*>(file_->bytes().data() + data_at_);
    for (std::size_t i = 0; i < tokens_; ++i) ids[i] = tokens[i];
    next_ = data_at_ + tokens_ * sizeof(std::int64_t);
  }

  /// Room for a tensor's values, if it is asked for.
  void* place(const NamedTensor& tensor) {
    const bool wanted = std::any_of(names_.begin(), names_.end(), [&](const NamedTensor& each) {
      return each.name == tensor.name;
    });
    if (!wanted) return nullptr;
    std::byte* const to = file_->bytes().data() + next_;
    next_ += tensor.bytes();
    placed_.push_back(tensor);
    return to;
  }

  void finish(const fs::path& path) {
    std::string text = header(placed_);
    text.resize(data_at_, ' ');
    const std::uint64_t length = data_at_ - 8;
    for (std::size_t i = 0; i < 8; ++i) text[i] = static_cast<char>((length >> (8 * i)) & 0xff);
    std::memcpy(file_->bytes().data(), text.data(), text.size());
    file_->name(path, next_);
  }

private:
  /// With eight bytes for its length before it.
  std::string header(const std::vector<NamedTensor>& tensors) const {
    nlohmann::ordered_json document{{"__metadata__", {{"tool", tool_}}}};
    std::size_t at = 0;
    const auto add = [&](const std::string& name, const std::string& dtype,
                         const std::vector<std::uint64_t>& shape, std::size_t bytes) {
      document[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {at, at + bytes}}};
      at += bytes;
    };
    add("input_ids", "I64", {1, tokens_}, tokens_ * sizeof(std::int64_t));
    for (const NamedTensor& tensor : tensors) {
      add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes());
    }
    return std::string(8, ' ') + document.dump();
  }

  std::size_t tokens_;
  std::string tool_;
  std::vector<NamedTensor> names_;   ///< with the largest shape that each can have
  std::vector<NamedTensor> placed_;  ///< with their shapes
  std::size_t data_at_ = 0;
  std::size_t next_ = 0;
  std::optional<ScratchFile> file_;
};

[[noreturn]] void fail(const fs::path& path, const char* problem) {
  throw Error(path.string(), problem, {}, std::generic_category().message(errno));
}

/// A folder under a temporary name, removed unless it gets its own.
class FolderInTheMaking {
public:
  explicit FolderInTheMaking(fs::path target) : target_(std::move(target)) {
    const fs::path parent = target_.has_parent_path() ? target_.parent_path() : fs::path(".");
    std::string name = (parent / (target_.filename().string() + ".partial.XXXXXX")).string();
    if (::mkdtemp(name.data()) == nullptr) fail(target_, "cannot be written");
    path_ = name;
    fs::permissions(path_, fs::perms::owner_all | fs::perms::group_read | fs::perms::group_exec |
                               fs::perms::others_read | fs::perms::others_exec);
  }
  ~FolderInTheMaking() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  FolderInTheMaking(const FolderInTheMaking&) = delete;
  FolderInTheMaking& operator=(const FolderInTheMaking&) = delete;

  const fs::path& path() const { return path_; }

  void write(const char* name, std::string_view bytes) const {
    const fs::path path = path_ / name;
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0) fail(target_, "cannot be written");
    bool good = true;
    while (good && !bytes.empty()) {
      const ssize_t written = ::write(file, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      good = written > 0;
      if (good) bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    good = good && ::fsync(file) == 0;
    const int problem = errno;
    ::close(file);
    errno = problem;
    if (!good) fail(target_, "cannot be written");
  }

  /// Takes its place; what lay there goes.
  void commit() {
    std::error_code error;
    const fs::path before = path_.string() + ".before";
    const bool existed = fs::exists(target_, error);
    if (existed && ::rename(target_.c_str(), before.c_str()) != 0) {
      fail(target_, "cannot be replaced");
    }
    if (::rename(path_.c_str(), target_.c_str()) != 0) {
      const int problem = errno;
      if (existed) ::rename(before.c_str(), target_.c_str());
      errno = problem;
      fail(target_, "cannot be written");
    }
    path_.clear();
    if (existed) fs::remove_all(before, error);
  }

private:
  fs::path target_;
  fs::path path_;
};

/// The largest shape that each of the named tensors can have in a run of the recipe.
std::vector<NamedTensor> largest(const std::vector<std::string>& names,
                                 const GoldenRecipe& recipe) {
  std::map<std::string, NamedTensor> all;
  const std::size_t tokens = recipe.tokens.size();
  for (const engine::TensorId& id : forward_tensors(recipe.config)) {
    const NamedTensor tensor = forward_tensor(id, recipe.config, tokens);
    all[tensor.name] = tensor;
  }
  for (std::size_t layer = 0; layer < recipe.config.layers; ++layer) {
    for (const NamedTensor& tensor : cache_tensors(recipe.config, layer, tokens)) {
      all[tensor.name] = tensor;
    }
  }
  std::vector<NamedTensor> tensors;
  for (const std::string& name : names) {
    const auto found = all.find(name);
    tensors.push_back(found != all.end() ? found->second
                                         : *extra_tensor(name, recipe.config, tokens));
  }
  return tensors;
}

}  // namespace

void check_golden_folder(const fs::path& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (!fs::exists(status)) return;
  if (!fs::is_directory(status)) {
    throw Error(folder.string(), "cannot be written", "a new name, or a golden", "a file");
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "golden.json" || name == "tensors.safetensors") continue;
    throw Error(folder.string(), "holds something else than a golden", "a new name, or a golden",
                name);
  }
}

GoldenRecipe make_recipe(const engine::Model& model, std::string name,
                         std::vector<std::int32_t> tokens,
                         const std::optional<engine::Press>& press, std::size_t prompt_tokens) {
  check_tokens(tokens, model.config());
  const bool after_prompt = press && press->trigger == engine::Trigger::after_prompt;
  if (after_prompt != (prompt_tokens > 0) || prompt_tokens >= tokens.size()) {
    throw Error("prompt_tokens", "the trigger after-prompt needs it, and no other",
                after_prompt ? "1 to " + std::to_string(tokens.size() - 1) : "0",
                std::to_string(prompt_tokens));
  }
  if (press) {
    press->check(model.config().layers, model.config().head_dim, model.config().rotary_dims);
    press_fields(*press);
  }
  return {std::move(name), checkpoint_sha256(model.checkpoint()),
          model.config(),  std::move(tokens),
          press,           prompt_tokens};
}

Golden make_golden(engine::Model& model, const GoldenRecipe& recipe, const GoldenOptions& options) {
  const std::vector<std::string> names = select_tensors(options.stored, recipe.config);
  if (options.folder.empty() && !names.empty()) {
    throw Error("tensors", "cannot be stored", "a folder for the golden", "none");
  }
  Golden golden;
  golden.recipe = recipe;
  golden.tool = options.tool;
  golden.all_leaves = options.all_leaves;
  fs::path target = options.folder;
  std::optional<FolderInTheMaking> folder;
  std::optional<TensorFile> file;
  if (!target.empty()) {
    if (!target.has_filename()) target = target.parent_path();
    check_golden_folder(target);
    // A link stays a link: what it points at is replaced.
    std::error_code error;
    if (fs::exists(target, error)) target = fs::canonical(target);
    folder.emplace(target);
  }
  if (!names.empty()) {
    file.emplace(folder->path(), largest(names, recipe), recipe.tokens, options.tool);
  }
  RunRequest request;
  if (file) {
    request.keep = [&](const NamedTensor& tensor) { return file->place(tensor); };
  }
  for (const std::string& name : names) {
    if (extra_tensor(name, recipe.config, recipe.tokens.size())) request.extras.push_back(name);
  }
  request.all_leaves = options.all_leaves;
  request.progress = options.progress;
  golden.tensors = run_recipe(model, recipe, request);
  if (!folder) return golden;
  if (file) {
    const fs::path path = folder->path() / "tensors.safetensors";
    file->finish(path);
    golden.file = std::make_shared<const engine::Safetensors>(engine::Safetensors::open(path));
  }
  folder->write("golden.json", golden.text());
  folder->commit();
  return Golden::read(target);
}

}  // namespace neoxref::eval
