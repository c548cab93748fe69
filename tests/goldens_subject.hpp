// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "eval/golden_make.hpp"
#include "tests/checkpoints.hpp"

namespace neoxref::tests {

using engine::Backend;
using engine::Model;
using eval::Golden;
using eval::GoldenOptions;
using eval::TensorDigest;
namespace fs = std::filesystem;

/// A random model in a folder of its own.
struct Subject {
  explicit Subject(const std::function<void(Shape&)>& change = {}, const Edit& edit = {}) {
    shape.layers = 3;
    if (change) change(shape);
    write_checkpoint(folder.path(), shape, edit);
    tokens = random_tokens(40, shape.vocab, 7);
  }
  Model load(const engine::RunOptions& options = {"", Backend::serial, 1}) const {
    return Model::load(folder.path(), options);
  }
  Golden make(const GoldenOptions& options = {}) const {
    Model model = load();
    return eval::make_golden(model, eval::make_recipe(model, "subject", tokens), options);
  }
  Shape shape;
  TemporaryFolder folder;
  std::vector<std::int32_t> tokens;
};

inline std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline void write(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string message(const std::function<void()>& act) {
  try {
    act();
  } catch (const engine::Error& error) {
    return error.what();
  }
  return "no error";
}

inline bool same_digests(const std::vector<TensorDigest>& a, const std::vector<TensorDigest>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.name == y.name && x.dtype == y.dtype && x.shape == y.shape && x.digest == y.digest &&
           x.leaves == y.leaves;
  });
}

inline engine::Press half(std::size_t prune_after) {
  engine::Press press;
  press.budget.keep_ratio = engine::KeepRatio::parse("0.5");
  press.prune_after = prune_after;
  return press;
}

}  // namespace neoxref::tests
