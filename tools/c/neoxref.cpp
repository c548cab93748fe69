// SPDX-License-Identifier: Apache-2.0
#include "tools/c/neoxref.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/error.hpp"
#include "engine/model.hpp"
#include "engine/model_path.hpp"
#include "eval/conformance.hpp"
#include "eval/digest.hpp"
#include "simd/kernels.hpp"

namespace {

using namespace neoxref;

struct Shared {
  explicit Shared(engine::Model loaded) : model(std::move(loaded)) {}
  engine::Model model;
  std::mutex forward;  ///< a model runs one pass at a time
};

/// Of fixed size, so that saying what went wrong cannot fail.
thread_local char error_text[1024] = "";

neoxref_status fail(neoxref_status status, const char* text) noexcept {
  std::strncpy(error_text, text, sizeof error_text - 1);
  return status;
}

/// What a body throws, as a status.
template <class Body>
neoxref_status guarded(Body body) noexcept {
  try {
    return body();
  } catch (const engine::Error& error) {
    return fail(NEOXREF_BAD_INPUT, error.what());
  } catch (const std::invalid_argument& error) {
    return fail(NEOXREF_BAD_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return fail(NEOXREF_NO_MEMORY, "not enough memory");
  } catch (const std::exception& error) {
    return fail(NEOXREF_FAILED, error.what());
  } catch (...) {
    return fail(NEOXREF_FAILED, "unknown failure");
  }
}

neoxref_status refuse(const char* text) noexcept {
  return fail(NEOXREF_BAD_ARGUMENT, text);
}

}  // namespace

struct neoxref_model {
  std::shared_ptr<Shared> shared;
};

struct neoxref_sequence {
  std::shared_ptr<Shared> shared;
  engine::Sequence sequence;
};

int32_t neoxref_api(void) noexcept {
  return NEOXREF_API;
}

const char* neoxref_version(void) noexcept {
  return NEOXREF_VERSION;
}

const char* neoxref_contract(void) noexcept {
  return eval::contract_name.data();
}

const char* neoxref_error(void) noexcept {
  return error_text;
}

neoxref_status neoxref_load(const char* name, const char* isa, size_t threads,
                            neoxref_model** model) noexcept {
  if (name == nullptr || model == nullptr) return refuse("neoxref_load: a null pointer");
  return guarded([&]() -> neoxref_status {
    engine::RunOptions options;
    if (isa != nullptr) options.isa = isa;
    options.threads = threads;
    auto shared =
        std::make_shared<Shared>(engine::Model::load(engine::resolve_model(name), options));
    *model = new neoxref_model{std::move(shared)};
    return NEOXREF_OK;
  });
}

void neoxref_free_model(neoxref_model* model) noexcept {
  delete model;
}

neoxref_status neoxref_get_shape(const neoxref_model* model, neoxref_shape* shape) noexcept {
  if (model == nullptr || shape == nullptr) return refuse("neoxref_get_shape: a null pointer");
  const engine::Config& config = model->shared->model.config();
  *shape = {config.layers,       config.hidden, config.heads,        config.head_dim,
            config.intermediate, config.vocab,  config.max_positions};
  return NEOXREF_OK;
}

neoxref_status neoxref_new_sequence(const neoxref_model* model, size_t capacity,
                                    neoxref_sequence** sequence) noexcept {
  if (model == nullptr || sequence == nullptr) {
    return refuse("neoxref_new_sequence: a null pointer");
  }
  if (capacity == 0) return refuse("neoxref_new_sequence: a capacity of 0");
  return guarded([&]() -> neoxref_status {
    *sequence = new neoxref_sequence{model->shared, model->shared->model.sequence(capacity)};
    return NEOXREF_OK;
  });
}

neoxref_status neoxref_fork(const neoxref_sequence* sequence, neoxref_sequence** copy) noexcept {
  if (sequence == nullptr || copy == nullptr) return refuse("neoxref_fork: a null pointer");
  return guarded([&]() -> neoxref_status {
    *copy = new neoxref_sequence{sequence->shared, sequence->sequence.fork()};
    return NEOXREF_OK;
  });
}

void neoxref_free_sequence(neoxref_sequence* sequence) noexcept {
  delete sequence;
}

neoxref_status neoxref_forward(neoxref_sequence* sequence, const int32_t* tokens, size_t count,
                               neoxref_rows rows, float* logits, size_t capacity) noexcept {
  if (sequence == nullptr || tokens == nullptr) return refuse("neoxref_forward: a null pointer");
  if (count == 0) return refuse("neoxref_forward: no tokens");
  if (rows < NEOXREF_NO_ROWS || rows > NEOXREF_ALL_ROWS) {
    return refuse("neoxref_forward: rows is none of the NEOXREF_..._ROW(S)");
  }
  engine::Model& model = sequence->shared->model;
  const size_t wanted = rows == NEOXREF_ALL_ROWS ? count : static_cast<size_t>(rows);
  if (wanted > 0 && logits == nullptr) return refuse("neoxref_forward: a null pointer for logits");
  if (wanted > 0 && capacity / model.config().vocab < wanted) {
    return refuse("neoxref_forward: too little room for the logits");
  }
  return guarded([&]() -> neoxref_status {
    engine::Step step{&sequence->sequence, std::span(tokens, count),
                      static_cast<engine::LogitRows>(rows), logits};
    const std::lock_guard<std::mutex> turn(sequence->shared->forward);
    if (model.forward({&step, 1})) return NEOXREF_OK;
    return fail(NEOXREF_NOT_FINITE, engine::describe(*step.failure).c_str());
  });
}

neoxref_status neoxref_cache_length(const neoxref_sequence* sequence, size_t layer,
                                    size_t* slots) noexcept {
  if (sequence == nullptr || slots == nullptr)
    return refuse("neoxref_cache_length: a null pointer");
  const engine::KvCache& cache = sequence->sequence.cache;
  if (layer >= cache.shape().layers) return refuse("neoxref_cache_length: no such layer");
  *slots = cache.longest(layer);
  return NEOXREF_OK;
}

neoxref_status neoxref_cache_read(const neoxref_sequence* sequence, size_t layer, size_t head,
                                  float* keys, float* values, int32_t* positions,
                                  size_t capacity) noexcept {
  if (sequence == nullptr) return refuse("neoxref_cache_read: a null pointer");
  const engine::KvCache& cache = sequence->sequence.cache;
  if (layer >= cache.shape().layers) return refuse("neoxref_cache_read: no such layer");
  if (head >= cache.shape().heads) return refuse("neoxref_cache_read: no such head");
  const size_t slots = cache.length(layer, head);
  if (capacity < slots) return refuse("neoxref_cache_read: too little room for the slots");
  const size_t head_dim = cache.shape().head_dim;
  const float* panels = cache.keys(layer, head);
  for (size_t slot = 0; slot < slots; ++slot) {
    // Keys lie in panels of 16 slots, [slots/16][head_dim][16].
    const float* panel = panels + slot / simd::lanes * simd::lanes * head_dim + slot % simd::lanes;
    for (size_t d = 0; keys != nullptr && d < head_dim; ++d) {
      keys[slot * head_dim + d] = panel[d * simd::lanes];
    }
    if (values != nullptr) {
      const float* row = cache.values(layer, head) + slot * cache.value_stride();
      std::copy_n(row, head_dim, values + slot * head_dim);
    }
  }
  if (positions != nullptr) std::copy_n(cache.positions(layer, head), slots, positions);
  return NEOXREF_OK;
}

neoxref_status neoxref_digest(const float* values, size_t count, char digest[33]) noexcept {
  if ((values == nullptr && count > 0) || digest == nullptr) {
    return refuse("neoxref_digest: a null pointer");
  }
  return guarded([&]() -> neoxref_status {
    eval::Digest made;
    made.add(std::span(values, count));
    const std::string hex = made.hex();
    std::memcpy(digest, hex.c_str(), hex.size() + 1);
    return NEOXREF_OK;
  });
}
