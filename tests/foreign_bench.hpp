// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <boost/test/unit_test.hpp>
#include <functional>
#include <map>
#include <memory>

#include "engine/error.hpp"
#include "eval/foreign_source.hpp"
#include "tests/checkpoints.hpp"
#include "tests/foreign_files.hpp"

/// What tests of others' files share: a reference whose values tell every layout apart.
namespace neoxref::tests {

using engine::Tensor;
using engine::TensorId;
using eval::ForeignType;
using eval::Matrix;

inline constexpr std::size_t length = 8;

inline engine::Config small() {
  engine::Config config;
  config.layers = 2;
  config.heads = 2;
  config.head_dim = 4;
  config.hidden = 8;  // as many as length: shapes cannot tell a transposed matrix
  config.intermediate = 24;
  config.vocab = 20;
  config.max_positions = 64;
  return config;
}

/// A reference with random values, which no two layouts of share.
class Reference : public eval::TensorSource {
public:
  Reference() {
    ids_ = {5, 7, 7, 1, 2, 3, 9, 4};
    std::uint64_t seed = 1;
    const auto add = [&](const TensorId& id) {
      Numbers numbers(seed++);
      Matrix matrix{length, engine::tensor_width(id.tensor, config_), {}};
      matrix.values.resize(matrix.rows * matrix.columns);
      for (float& value : matrix.values) value = numbers.symmetric();
      tensors_[id] = matrix;
    };
    add({Tensor::embed_in});
    for (std::size_t layer = 0; layer < config_.layers; ++layer) {
      for (const Tensor tensor : engine::layer_tensors) add({tensor, layer});
    }
    add({Tensor::final_layer_norm});
    add({Tensor::embed_out});
  }
  bool has(const TensorId& id) const override { return tensors_.contains(id); }
  std::optional<Matrix> get(const TensorId& id) const override { return tensors_.at(id); }
  std::span<const std::int32_t> tokens() const override { return ids_; }
  const engine::Config& config() const { return config_; }

private:
  engine::Config config_ = small();
  std::vector<std::int32_t> ids_;
  std::map<TensorId, Matrix> tensors_;
};

inline const Reference& reference() {
  static const Reference one;
  return one;
}

inline const TensorId qkv{Tensor::query_key_value, 1};
inline const TensorId norm{Tensor::input_layernorm, 1};

/// [1, length, width] float32 under its own name.
inline Array own(const TensorId& id) {
  const Matrix matrix = *reference().get(id);
  return floats(engine::tensor_name(id), {1, length, matrix.columns}, matrix.values);
}

inline Array ids(std::vector<std::uint64_t> shape, const std::vector<std::int64_t>& values) {
  return longs("input_ids", std::move(shape), values);
}

/// A written file, opened and mapped.
struct Opened {
  TemporaryFolder folder;
  eval::ForeignRules rules;
  eval::ForeignFile file;
  std::unique_ptr<eval::ForeignSource> source;

  explicit Opened(const std::vector<Array>& arrays, const std::string& rules_text = "{}")
      : rules(eval::parse_rules(rules_text, "rules")) {
    const auto path = folder.path() / "dump.safetensors";
    write_safetensors(path, arrays);
    file = eval::open_foreign(path, rules.raw);
    source = std::make_unique<eval::ForeignSource>(file, rules, reference().config(), reference());
  }
  Matrix get(const TensorId& id) const { return source->get(id).value(); }
};

inline void check_equal(const Matrix& a, const Matrix& b) {
  BOOST_TEST(a.rows == b.rows);
  BOOST_TEST(a.columns == b.columns);
  BOOST_TEST(a.values == b.values);
}

/// [columns, rows]
inline std::vector<float> transposed(const Matrix& matrix) {
  std::vector<float> result;
  for (std::size_t c = 0; c < matrix.columns; ++c) {
    for (std::size_t i = 0; i < matrix.rows; ++i) result.push_back(matrix.row(i)[c]);
  }
  return result;
}

inline std::string message(const std::function<void()>& action) {
  try {
    action();
  } catch (const engine::Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

inline void check_refused(const std::function<void()>& action, const std::string& fragment) {
  const std::string found = message(action);
  BOOST_TEST(found.find(fragment) != std::string::npos, found << " lacks " << fragment);
  BOOST_TEST(found.find('\n') == std::string::npos);
}

}  // namespace neoxref::tests
