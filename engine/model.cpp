// SPDX-License-Identifier: Apache-2.0
#include "engine/model.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "engine/error.hpp"
#include "engine/pass.hpp"
#include "simd/float_environment.hpp"

namespace neoxref::engine {

std::string describe(const NonFinite& failure) {
  static constexpr const char* names[] = {"input_layernorm", "key norm", "post_attention_layernorm",
                                          "final_layer_norm", "logits"};
  std::string text = "token " + std::to_string(failure.token) + ": ";
  if (failure.operation < Operation::final_layer_norm) {
    text += "layer " + std::to_string(failure.layer) + ", ";
  }
  return text + names[static_cast<std::size_t>(failure.operation)] + " is not finite";
}

Model::Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

void Model::choose(const RunOptions& options) {
  kernels_ = options.kernels != nullptr ? options.kernels : &simd::kernels(options.isa);
  const std::size_t threads = options.threads == 0 ? available_threads() : options.threads;
  team_ = Team::create(options.backend, threads);
}

Model Model::load(const std::filesystem::path& folder, const RunOptions& options) {
  const simd::FloatEnvironment environment;
  Model model;
  model.choose(options);
  model.checkpoint_ = std::make_shared<const Checkpoint>(Checkpoint::open(folder));
  model.weights_ = std::make_shared<const Weights>(Weights::pack(*model.checkpoint_, *model.team_));
  model.pass_ =
      std::make_unique<Pass>(model.config(), *model.weights_, *model.kernels_, *model.team_);
  return model;
}

Model Model::share(const RunOptions& options) const {
  const simd::FloatEnvironment environment;
  Model model;
  model.choose(options);
  model.checkpoint_ = checkpoint_;
  model.weights_ = weights_;
  model.pool_ = pool_;
  model.pass_ =
      std::make_unique<Pass>(model.config(), *model.weights_, *model.kernels_, *model.team_);
  return model;
}

Sequence Model::sequence(std::size_t capacity, const std::optional<Press>& press,
                         const Extras& extras) const {
  const Config& shape = config();
  Sequence sequence({shape.layers, shape.heads, shape.head_dim}, capacity,
                    press ? press->extras(shape.rotary_dims) | extras : extras, pool_);
  if (press) sequence.set_press(*press, shape.rotary_dims);
  return sequence;
}

void Model::check(std::span<const Step> steps) const {
  for (std::size_t index = 0; index < steps.size(); ++index) {
    const Step& step = steps[index];
    const std::string where = steps.size() == 1 ? "tokens" : "step " + std::to_string(index);
    if (step.sequence == nullptr || (step.rows != LogitRows::none && step.logits == nullptr)) {
      throw Error(where, "a step needs a sequence, and room for the logits that it asks for");
    }
    const CacheShape& shape = step.sequence->cache.shape();
    const bool fits = shape.layers == config().layers && shape.heads == config().heads &&
                      shape.head_dim == config().head_dim;
    if (!fits || (step.sequence->press() && step.sequence->rotary_dims() != config().rotary_dims)) {
      throw Error(where, "the sequence was made for a model of another shape");
    }
    if (step.tokens.empty()) throw Error(where, "no tokens");
    for (const Step& other : steps.first(index)) {
      if (other.sequence == step.sequence) throw Error(where, "the same sequence twice in a batch");
    }
    if (step.sequence->stopped) {
      throw Error(where, "the sequence stopped at a value that is not finite");
    }
    for (std::size_t i = 0; i < step.tokens.size(); ++i) {
      const std::int32_t token = step.tokens[i];
      if (token < 0 || static_cast<std::size_t>(token) >= config().vocab) {
        throw Error(where, "token " + std::to_string(i) + " is outside the vocabulary",
                    "0 to " + std::to_string(config().vocab - 1), std::to_string(token));
      }
    }
    const Sequence& sequence = *step.sequence;
    const bool original = !sequence.press() || sequence.press()->positions == Positions::original;
    // Keys turn by positions in the text, or by slots of a layer that is cut.
    std::size_t positions = original ? sequence.position + step.tokens.size() : 0;
    for (std::size_t layer = 0; layer < config().layers; ++layer) {
      const std::size_t peak = sequence.peak(layer, step.tokens.size());
      if (!original && !sequence.press()->skips(layer)) positions = std::max(positions, peak);
      if (peak > sequence.cache.capacity()) {
        throw Error(where, "the cache is too small",
                    std::to_string(peak) + " slots in layer " + std::to_string(layer),
                    std::to_string(sequence.cache.capacity()));
      }
    }
    if (positions > config().max_positions) {
      throw Error(where, "longer than the context of the model",
                  "at most " + std::to_string(config().max_positions) + " tokens",
                  std::to_string(positions));
    }
    if (sequence.position + step.tokens.size() > (std::size_t{1} << 31) - 1) {
      throw Error(where, "too long", "at most 2147483647 tokens",
                  std::to_string(sequence.position + step.tokens.size()));
    }
  }
}

void Model::expect(const Sequence& sequence, std::size_t tokens) const {
  std::size_t slots = tokens;
  for (std::size_t layer = 0; layer < config().layers; ++layer) {
    slots = std::min(slots, sequence.peak(layer, tokens));
  }
  sequence.cache.expect(slots);
}

bool Model::forward(std::span<Step> steps) {
  const simd::FloatEnvironment environment;
  check(steps);
  std::size_t slots = 0;
  bool watched = false;
  for (Step& step : steps) {
    step.failure.reset();
    slots = std::max(slots, step.sequence->cache.capacity());
    watched = watched || step.sequence->watched();
    if (step.sequence->position == 0) expect(*step.sequence, step.tokens.size());
  }
  pass_->reserve(steps.size(), slots, watched);
  progress_.assign(steps.size(), {});
  bool all_finite = true;
  try {
    all_finite = advance(steps);
  } catch (...) {
    pass_->flush();
    throw;
  }
  pass_->flush();
  return all_finite;
}

bool Model::advance(std::span<Step> steps) {
  bool all_finite = true;
  for (;;) {
    pass_->clear();
    bool more = false;
    for (std::size_t i = 0; i < steps.size() && pass_->rows() < Pass::max_rows; ++i) {
      Step& step = steps[i];
      const std::size_t left = step.tokens.size() - progress_[i].done;
      if (left == 0 || step.failure) continue;
      if (!step.sequence->considered()) {
        pass_->cut(*step.sequence, Pass::When::before_token);
        step.sequence->set_considered();
      }
      const std::size_t most = progress_[i].one_by_one ? 1 : step.sequence->tokens_until_cut();
      const std::size_t count = std::min({left, most, Pass::max_rows - pass_->rows()});
      // What a chunk that fails has added must be taken back: it is done again token by token.
      if (count > 1) progress_[i].attended = step.sequence->attended;
      pass_->add(step, progress_[i].done, count);
      more = more || count < left;
    }
    if (pass_->rows() == 0) return all_finite;
    pass_->run(more);
    for (const Pass::Segment& segment : pass_->segments()) {
      Progress& progress = progress_[static_cast<std::size_t>(segment.step - steps.data())];
      Sequence& sequence = *segment.step->sequence;
      KvCache& cache = sequence.cache;
      const std::optional<Pass::Failure> failure = pass_->failure(segment);
      const std::size_t entered = failure ? 0 : segment.count;
      for (std::size_t layer = 0; layer < config().layers; ++layer) {
        for (std::size_t head = 0; head < config().heads; ++head) {
          if (failure) cache.clear_tail(layer, head, segment.count);
          cache.set_length(layer, head, cache.length(layer, head) + entered);
        }
      }
      if (failure && segment.count > 1) {
        // A later token of the chunk may have spoiled an earlier one through 0 * infinity: only one
        // by one is it certain which token is the first.
        progress.one_by_one = true;
        sequence.attended = progress.attended;
      } else if (failure) {
        segment.step->failure = NonFinite{segment.offset, failure->layer, failure->operation};
        sequence.stopped = true;
        all_finite = false;
      }
      progress.done += entered;
      if (entered == 0) continue;
      sequence.enter(entered);
      pass_->cut(sequence, Pass::When::after_token);
    }
  }
}

}  // namespace neoxref::engine
