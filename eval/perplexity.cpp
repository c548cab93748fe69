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

void check_against_plan(const TextScore& text, const Sequence& sequence, const TwoPhase& settings,
                        std::string_view keep_ratio) {
  const auto expected = plan(text.tokens - 1, text.effective_prune_after,
                             text.effective_prune_after, Ratio::parse(keep_ratio));
  const auto skipped = [&](std::size_t layer) {
    return std::find(settings.skip_layers.begin(), settings.skip_layers.end(), layer) !=
           settings.skip_layers.end();
  };
  for (std::size_t layer = 0; layer < sequence.cache.shape().layers; ++layer) {
    std::vector<PlannedCut> happened;
    for (const engine::Cut& cut : sequence.cuts) {
      if (cut.layer == layer) happened.push_back({cut.position, cut.before, cut.after});
    }
    if (happened != (skipped(layer) ? std::vector<PlannedCut>{} : expected)) {
      throw engine::Error(
          text.name, "the cuts of layer " + std::to_string(layer) + " are not the planned ones",
          std::to_string(skipped(layer) ? 0 : expected.size()) + " cuts",
          std::to_string(happened.size()));
    }
  }
}

/// Slots over time, from the cut log: mean over the tokens that entered in phase 2, and the peak.
void account(TextScore& text, std::size_t layers) {
  double sum = 0.0;
  std::size_t now = layers * text.effective_prune_after;
  text.peak_slots = now;
  auto cut = text.log.begin();
  const std::size_t first = text.effective_prune_after;
  sum += static_cast<double>(now);
  for (std::size_t token = first; token + 1 < text.tokens; ++token) {
    now += layers;
    text.peak_slots = std::max(text.peak_slots, now);
    sum += static_cast<double>(now);
    for (; cut != text.log.end() && cut->position == token; ++cut) now -= cut->before - cut->after;
  }
  text.mean_slots = sum / static_cast<double>(text.scored * layers);
}

class Sweep {
public:
  Sweep(Model& model, const TwoPhase& settings, std::vector<Row>& rows)
      : model_(model), settings_(settings), rows_(rows), digests_(rows.size()) {}

  void add(const Text& text) {
    TextScore start;
    start.name = text.name;
    start.tokens = std::min(text.tokens.size(), settings_.max_tokens);
    if (start.tokens < least_tokens) {
      for (Row& row : rows_) row.texts.push_back(start);
      return;
    }
    const std::size_t prefix = effective_prune_after(settings_.prune_after, start.tokens);
    start.effective_prune_after = prefix;
    const std::span<const std::int32_t> ids(text.tokens.data(), start.tokens);
    const std::size_t vocab = model_.config().vocab;
    logits_.resize(std::max<std::size_t>(chunk, 1) * vocab);
    Sequence base = model_.sequence(start.tokens);
    std::vector<float> after_prefix(vocab);
    forward(model_, {&base, ids.first(prefix), engine::LogitRows::last, after_prefix.data()},
            text.name, 0);
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
    if (row.compressed) {
      sequence.press = engine::Press{engine::KeepRatio::parse(row.keep_ratio),
                                     text.effective_prune_after, settings_.skip_layers};
    }
    score(model_, after_prefix, ids[text.effective_prune_after], text, digest);
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
    if (row.compressed) check_against_plan(text, sequence, settings_, row.keep_ratio);
    const std::size_t layers = model_.config().layers;
    text.log = sequence.cuts;
    text.cuts.assign(layers, 0);
    for (const engine::Cut& cut : text.log) ++text.cuts[cut.layer];
    for (std::size_t layer = 0; layer < layers; ++layer) {
      text.lengths.push_back(sequence.cache.longest(layer));
      const bool skipped = sequence.press && sequence.press->skips(layer);
      text.never_cut = text.never_cut || (row.compressed && !skipped && text.cuts[layer] == 0);
    }
    account(text, layers);
    return text;
  }

  Model& model_;
  const TwoPhase& settings_;
  std::vector<Row>& rows_;
  std::vector<Digest> digests_;
  std::vector<float> logits_;
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
                           std::span<const std::string> ratios, const TwoPhase& settings,
                           const std::function<void(double)>& progress) {
  const simd::FloatEnvironment environment;
  if (settings.max_tokens > model.config().max_positions + 1) {
    throw engine::Error("max_tokens", "longer than the context of the model",
                        "at most " + std::to_string(model.config().max_positions + 1),
                        std::to_string(settings.max_tokens));
  }
  for (const std::size_t layer : settings.skip_layers) {
    if (layer >= model.config().layers) {
      throw engine::Error("skip_layers", "no such layer",
                          "0 to " + std::to_string(model.config().layers - 1),
                          std::to_string(layer));
    }
  }
  std::vector<Row> rows(1);
  rows.front().keep_ratio = "1";
  for (const std::string& ratio : ratios) {
    if (engine::KeepRatio::parse(ratio).keeps_all()) continue;
    rows.push_back({});
    rows.back().keep_ratio = ratio;
    rows.back().compressed = true;
  }
  Sweep sweep(model, settings, rows);
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
