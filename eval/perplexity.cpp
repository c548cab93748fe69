// SPDX-License-Identifier: Apache-2.0
#include "eval/perplexity.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "engine/error.hpp"
#include "engine/sampler.hpp"
#include "eval/digest.hpp"
#include "eval/plan.hpp"
#include "simd/float_environment.hpp"

namespace neoxref::eval {
namespace {

using engine::Model;
using engine::Sequence;
using Clock = std::chrono::steady_clock;

/// Logits are kept for this many tokens at a time.
constexpr std::size_t chunk = 256;

void forward(Model& model, engine::Step step, const std::string& text, std::size_t position) {
  if (model.forward({&step, 1})) return;
  throw engine::Error(text, "stopped at position " +
                                std::to_string(position + step.failure->token) + ", " +
                                engine::describe(*step.failure));
}

/// Adds what the logits say of one token.
void score(const Model& model, std::span<const float> logits, std::int32_t token, TextScore& text,
           Digest& digest) {
  text.nll += static_cast<double>(nll(model.kernels(), logits, token));
  if (engine::argmax(logits) == static_cast<std::size_t>(token)) ++text.correct;
  ++text.scored;
  digest.add(logits);
}

void check_against_plan(const TextScore& text, const Sequence& sequence) {
  const engine::Press& press = *sequence.press();
  for (std::size_t layer = 0; layer < sequence.cache.shape().layers; ++layer) {
    const auto expected = plan(press, text.tokens - 1, text.effective_prune_after, layer);
    std::vector<PlannedCut> happened;
    for (const engine::Cut& cut : sequence.cuts) {
      if (cut.layer == layer) happened.push_back({cut.position, cut.before, cut.after});
    }
    const bool skipped = press.skips(layer);
    if (happened != (skipped ? std::vector<PlannedCut>{} : expected)) {
      throw engine::Error(
          text.name, "the cuts of layer " + std::to_string(layer) + " are not the planned ones",
          std::to_string(skipped ? 0 : expected.size()) + " cuts", std::to_string(happened.size()));
    }
  }
}

/// Slots over time, from the cut log: the mean over the scored tokens of what their logits saw, and
/// the peak.
void account(TextScore& text, std::size_t layers) {
  const std::size_t first = text.effective_prune_after;
  std::size_t now = layers * first;
  text.peak_slots = now;
  // The first scored token was predicted by the untouched prefix, unless it is not scored.
  double sum = text.scored == text.tokens - first ? static_cast<double>(now) : 0.0;
  auto cut = text.log.begin();
  const auto apply = [&](std::size_t token) {
    for (; cut != text.log.end() && cut->position == token; ++cut) now -= cut->before - cut->after;
  };
  apply(first - 1);
  for (std::size_t token = first; token + 1 < text.tokens; ++token) {
    now += layers;
    text.peak_slots = std::max(text.peak_slots, now);
    sum += static_cast<double>(now);
    apply(token);
  }
  text.mean_slots = sum / static_cast<double>(text.scored * layers);
}

/// Settings that hold for all rows.
struct Protocol {
  std::size_t max_tokens;
  std::size_t prune_after;
  engine::Trigger trigger;
};

class Sweep {
public:
  Sweep(Model& model, const Protocol& protocol, std::vector<Row>& rows)
      : model_(model), protocol_(protocol), rows_(rows), digests_(rows.size()) {
    for (const Row& row : rows) {
      if (row.press) {
        extras_ = extras_ | row.press->extras(model.config().rotary_dims);
      }
    }
  }

  void add(const Text& text) {
    TextScore start;
    start.name = text.name;
    start.tokens = std::min(text.tokens.size(), protocol_.max_tokens);
    if (start.tokens < least_tokens) {
      for (Row& row : rows_) row.texts.push_back(start);
      return;
    }
    // The first scored token and the last one are compared with logits before they enter, or never do.
    for (std::size_t i = 0; i < start.tokens; ++i) {
      const std::int32_t token = text.tokens[i];
      if (token >= 0 && static_cast<std::size_t>(token) < model_.config().vocab) continue;
      throw engine::Error(text.name, "token " + std::to_string(i) + " is outside the vocabulary",
                          "0 to " + std::to_string(model_.config().vocab - 1),
                          std::to_string(token));
    }
    const std::size_t prefix = effective_prune_after(protocol_.prune_after, start.tokens);
    start.effective_prune_after = prefix;
    const std::span<const std::int32_t> ids(text.tokens.data(), start.tokens);
    const engine::Config& config = model_.config();
    logits_.resize(chunk * config.vocab);
    Sequence base({config.layers, config.heads, config.head_dim}, start.tokens, extras_);
    std::vector<float> after_prefix(config.vocab);
    forward(model_, {&base, ids.first(prefix), engine::LogitRows::last, after_prefix.data()},
            text.name, 0);
    base.end_prompt();
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      rows_[i].texts.push_back(run(rows_[i], base.fork(), ids, start, after_prefix, digests_[i]));
    }
  }

  void finish() {
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      Row& row = rows_[i];
      row.digest = digests_[i].hex();
      for (const TextScore& text : row.texts) {
        row.nll += text.nll;
        row.scored += text.scored;
      }
    }
  }

private:
  TextScore run(Row& row, Sequence sequence, std::span<const std::int32_t> ids, TextScore text,
                std::span<const float> after_prefix, Digest& digest) {
    const std::size_t vocab = model_.config().vocab;
    if (row.press) {
      engine::Press press = *row.press;
      press.prune_after = text.effective_prune_after;
      sequence.set_press(press, model_.config().rotary_dims);
    }
    // With `reaches` the cut comes before ids[P] enters, so ids[P] was predicted untouched.
    if (protocol_.trigger != engine::Trigger::reaches) {
      score(model_, after_prefix, ids[text.effective_prune_after], text, digest);
    }
    for (std::size_t first = text.effective_prune_after; first + 1 < ids.size(); first += chunk) {
      const std::size_t count = std::min(chunk, ids.size() - 1 - first);
      const auto begin = Clock::now();
      forward(model_,
              {&sequence, ids.subspan(first, count), engine::LogitRows::all, logits_.data()},
              text.name, first);
      row.seconds += std::chrono::duration<double>(Clock::now() - begin).count();
      for (std::size_t i = 0; i < count; ++i) {
        score(model_, {logits_.data() + i * vocab, vocab}, ids[first + i + 1], text, digest);
      }
    }
    if (row.press) check_against_plan(text, sequence);
    const std::size_t layers = model_.config().layers;
    text.log = sequence.cuts;
    text.cuts.assign(layers, 0);
    // A cut behind the last token that enters changes no score.
    std::vector<bool> felt(layers, false);
    for (const engine::Cut& cut : text.log) {
      ++text.cuts[cut.layer];
      felt[cut.layer] = felt[cut.layer] || cut.position + 2 < text.tokens;
    }
    for (std::size_t layer = 0; layer < layers; ++layer) {
      text.lengths.push_back(sequence.cache.longest(layer));
      text.never_cut = text.never_cut || (row.press && !row.press->skips(layer) && !felt[layer]);
    }
    account(text, layers);
    return text;
  }

  Model& model_;
  const Protocol& protocol_;
  std::vector<Row>& rows_;
  std::vector<Digest> digests_;
  std::vector<float> logits_;
  engine::Extras extras_;  ///< for every press of the sweep
};

}  // namespace

std::size_t effective_prune_after(std::size_t prune_after, std::size_t length) {
  const std::size_t tail = length > 50 ? length - 50 : 0;
  return std::max<std::size_t>(32, std::min(prune_after, std::max(tail, length / 2)));
}

double Row::perplexity() const {
  return std::exp(nll / static_cast<double>(scored));
}

double Row::document_perplexity() const {
  double sum = 0.0;
  std::size_t documents = 0;
  for (const TextScore& text : texts) {
    if (text.scored == 0) continue;
    sum += std::exp(text.nll / static_cast<double>(text.scored));
    ++documents;
  }
  return sum / static_cast<double>(documents);
}

namespace {

/// Not inlined: no operation may slip out of the environment that the caller sets around it.
[[gnu::noinline]] float contract_nll(const simd::Kernels& kernels, std::span<const float> logits,
                                     std::int32_t token) {
  const simd::MaxAndSum sums = kernels.max_and_sum(logits.data(), logits.size());
  return simd::evaluate(simd::Function::log, sums.sum) +
         (sums.max - logits[static_cast<std::size_t>(token)]);
}

}  // namespace

float nll(const simd::Kernels& kernels, std::span<const float> logits, std::int32_t token) {
  const simd::FloatEnvironment environment;
  return contract_nll(kernels, logits, token);
}

std::vector<Row> two_phase(Model& model, std::span<const Text> texts,
                           std::span<const RowSpec> specs, std::size_t max_tokens,
                           std::size_t prune_after, engine::Trigger trigger,
                           const std::function<void(double)>& progress) {
  const simd::FloatEnvironment environment;
  const engine::Config& config = model.config();
  if (max_tokens > config.max_positions + 1) {
    throw engine::Error("max_tokens", "longer than the context of the model",
                        "at most " + std::to_string(config.max_positions + 1),
                        std::to_string(max_tokens));
  }
  std::vector<Row> rows(1);
  rows.front().label = "1";
  for (const RowSpec& spec : specs) {
    if (!spec.press) continue;
    spec.press->check(config.layers, config.head_dim, config.rotary_dims);
    if (spec.press->trigger != trigger) {
      throw engine::Error("trigger", "all rows of a sweep score the same tokens, so have the same",
                          engine::trigger_name(trigger), engine::trigger_name(spec.press->trigger));
    }
    rows.push_back({});
    rows.back().label = spec.label;
    rows.back().press = spec.press;
  }
  const Protocol protocol{max_tokens, prune_after, trigger};
  Sweep sweep(model, protocol, rows);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (progress) progress(static_cast<double>(i) / static_cast<double>(texts.size()));
    sweep.add(texts[i]);
  }
  sweep.finish();
  if (progress) progress(1.0);
  if (rows.front().scored == 0) {
    throw engine::Error("texts", "none is long enough to be scored",
                        std::to_string(least_tokens) + " tokens or more", "");
  }
  return rows;
}

}  // namespace neoxref::eval
