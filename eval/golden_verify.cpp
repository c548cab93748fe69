// SPDX-License-Identifier: Apache-2.0
// Goldens against runs made here.
#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/error.hpp"
#include "eval/golden_make.hpp"
#include "eval/golden_run.hpp"
#include "eval/scratch_file.hpp"

namespace neoxref::eval {
namespace {

using engine::TensorId;

std::vector<std::string> extras_of(const Golden& golden) {
  std::vector<std::string> names;
  for (const TensorDigest& entry : golden.tensors) {
    if (extra_tensor(entry.name, golden.recipe.config, golden.recipe.tokens.size())) {
      names.push_back(entry.name);
    }
  }
  return names;
}

/// Runs the recipe again for the values of one tensor, four bytes each.
std::vector<std::uint32_t> values_of(engine::Model& model, const GoldenRecipe& recipe,
                                     const std::string& name, NamedTensor* shape = nullptr) {
  std::vector<std::uint32_t> values;
  RunRequest request;
  request.digests = false;
  request.keep = [&](const NamedTensor& tensor) -> void* {
    if (tensor.name != name) return nullptr;
    values.resize(tensor.rows() * tensor.row_values());
    if (shape != nullptr) *shape = tensor;
    return values.data();
  };
  if (extra_tensor(name, recipe.config, recipe.tokens.size())) request.extras = {name};
  run_recipe(model, recipe, request);
  return values;
}

bool same_value(std::uint32_t a, std::uint32_t b) {
  const auto nan = [](std::uint32_t bits) { return (bits & 0x7fffffffu) > 0x7f800000u; };
  return a == b || (nan(a) && nan(b));
}

/// Where a stored tensor and this machine part.
void compare_values(const engine::TensorView& stored, const std::vector<std::uint32_t>& found,
                    GoldenDifference& difference) {
  std::vector<std::uint32_t> expected(stored.bytes.size() / 4);
  std::memcpy(expected.data(), stored.bytes.data(), stored.bytes.size());
  const std::size_t width = stored.shape.back();
  if (expected.size() != found.size()) return;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (same_value(expected[i], found[i])) continue;
    difference.row = i / width;
    const bool floats = stored.dtype == "F32";
    const auto number = [&](std::uint32_t bits) {
      return floats ? std::bit_cast<float>(bits)
                    : static_cast<float>(std::bit_cast<std::int32_t>(bits));
    };
    difference.value = DifferingValue{i % width, number(expected[i]), number(found[i])};
    return;
  }
}

GoldenDifference difference_of(const TensorDigest& expected, const TensorDigest& found) {
  GoldenDifference difference{expected.name, {}, {}, {}};
  if (expected.leaves.size() != found.leaves.size()) return difference;
  std::size_t differing = 0;
  for (std::size_t row = 0; row < expected.leaves.size(); ++row) {
    if (expected.leaves[row] == found.leaves[row]) continue;
    if (differing++ == 0) difference.row = row;
  }
  if (differing > 0) difference.rows_differing = differing;
  return difference;
}

}  // namespace

Verification verify_golden(engine::Model& model, const Golden& golden,
                           const std::function<void(double)>& progress) {
  check_same_model(golden, model.checkpoint());
  for (const TensorDigest& entry : golden.tensors) golden.stored(entry.name);
  // Scores, probabilities and rotary tables are made for who keeps them.
  std::vector<std::vector<float>> kept;
  RunRequest request;
  request.all_leaves = golden.all_leaves;
  request.progress = progress;
  request.extras = extras_of(golden);
  request.keep = [&](const NamedTensor& tensor) -> void* {
    if (std::find(request.extras.begin(), request.extras.end(), tensor.name) ==
        request.extras.end()) {
      return nullptr;
    }
    return kept.emplace_back(tensor.rows() * tensor.row_values()).data();
  };
  const std::vector<TensorDigest> found = run_recipe(model, golden.recipe, request);
  Verification verification;
  for (std::size_t i = 0; i < golden.tensors.size(); ++i) {
    ++verification.tensors;
    const TensorDigest& expected = golden.tensors[i];
    if (expected.digest == found[i].digest && expected.shape == found[i].shape &&
        expected.leaves == found[i].leaves) {
      continue;
    }
    verification.differences.push_back(difference_of(expected, found[i]));
  }
  if (verification.same()) return verification;
  GoldenDifference& first = verification.differences.front();
  if (const engine::TensorView* const stored = golden.stored(first.name)) {
    compare_values(*stored, values_of(model, golden.recipe, first.name), first);
  }
  for (const GoldenDifference& behind : verification.differences) {
    if (first.row) break;
    if (behind.row) {
      verification.token_behind = behind.row;
      break;
    }
  }
  return verification;
}

struct GoldenSource::Spill {
  std::vector<float*> values;  ///< by execution_order
  std::vector<TensorDigest> digests;
  ScratchFile file;
};

GoldenSource::GoldenSource(engine::Model& model, const Golden& golden)
    : model_(model), golden_(golden) {
  check_same_model(golden_, model_.checkpoint());
}

GoldenSource::~GoldenSource() = default;

const GoldenSource::Spill& GoldenSource::spill() const {
  if (spill_ != nullptr) return *spill_;
  const engine::Config& config = golden_.recipe.config;
  const std::size_t tokens = golden_.recipe.tokens.size();
  std::size_t size = 0;
  for (const TensorId& id : forward_tensors(config)) {
    size += forward_tensor(id, config, tokens).bytes();
  }
  auto spill = std::make_unique<Spill>(
      Spill{{}, {}, ScratchFile(std::filesystem::temp_directory_path(), size)});
  std::size_t next = 0;
  RunRequest request;
  request.all_leaves = golden_.all_leaves;
  request.keep = [&](const NamedTensor& tensor) -> void* {
    if (!engine::tensor_from_name(tensor.name)) return nullptr;
    void* const to = spill->file.bytes().data() + next;
    next += tensor.bytes();
    spill->values.push_back(static_cast<float*>(to));
    return to;
  };
  spill->digests = run_recipe(model_, golden_.recipe, request);
  spill_ = std::move(spill);
  return *spill_;
}

bool GoldenSource::has(const TensorId& id) const {
  return id.layer < (engine::exists_per_layer(id.tensor) ? golden_.recipe.config.layers : 1);
}

std::span<const std::int32_t> GoldenSource::tokens() const {
  return golden_.recipe.tokens;
}

std::optional<Matrix> GoldenSource::get(const TensorId& id) const {
  if (!has(id)) return std::nullopt;
  const std::string name = engine::tensor_name(id);
  Matrix matrix{
      golden_.recipe.tokens.size(), engine::tensor_width(id.tensor, golden_.recipe.config), {}};
  matrix.values.resize(matrix.rows * matrix.columns);
  const std::size_t bytes = matrix.values.size() * sizeof(float);
  if (const engine::TensorView* const stored = golden_.stored(name)) {
    std::memcpy(matrix.values.data(), stored->bytes.data(), bytes);
    return matrix;
  }
  const Spill& spilled = spill();
  const std::size_t at = engine::execution_order(id, golden_.recipe.config);
  if (spilled.digests[at].digest != golden_.tensors[at].digest) {
    throw engine::Error(name, "this machine gives other bits than the golden has",
                        digest_text(golden_.tensors[at].digest),
                        digest_text(spilled.digests[at].digest));
  }
  std::memcpy(matrix.values.data(), spilled.values[at], bytes);
  return matrix;
}

TensorValues GoldenSource::find(const std::string& name) const {
  const engine::Config& config = golden_.recipe.config;
  const std::size_t tokens = golden_.recipe.tokens.size();
  TensorValues result;
  if (const auto id = engine::tensor_from_name(name); id && has(*id)) {
    result.tensor = forward_tensor(*id, config, tokens);
    result.floats = get(*id)->values;
    return result;
  }
  const std::vector<std::string> asked = {name};
  if (select_tensors(asked, config) != asked) {
    throw engine::Error("tensor", "not the name of one tensor", "a name of docs/tensors.md", name);
  }
  std::vector<std::uint32_t> bits;
  if (const engine::TensorView* const stored = golden_.stored(name)) {
    result.tensor = {name, stored->dtype, stored->shape};
    bits.resize(stored->bytes.size() / 4);
    std::memcpy(bits.data(), stored->bytes.data(), stored->bytes.size());
  } else {
    bits = values_of(model_, golden_.recipe, name, &result.tensor);
    const auto rows = row_digests(std::as_bytes(std::span(bits)), result.tensor.dtype,
                                  result.tensor.row_values());
    const TensorDigest* const entry = golden_.find(name);
    if (entry != nullptr && entry->digest != tree_digest(rows)) {
      throw engine::Error(name, "this machine gives other bits than the golden has",
                          digest_text(entry->digest), digest_text(tree_digest(rows)));
    }
  }
  for (const std::uint32_t each : bits) {
    if (result.tensor.dtype == "F32") {
      result.floats.push_back(std::bit_cast<float>(each));
    } else {
      result.integers.push_back(std::bit_cast<std::int32_t>(each));
    }
  }
  return result;
}

std::unique_ptr<GoldenSource> golden_source(engine::Model& model, const Golden& golden) {
  return std::make_unique<GoldenSource>(model, golden);
}

}  // namespace neoxref::eval
