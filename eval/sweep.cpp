// SPDX-License-Identifier: Apache-2.0
#include "eval/sweep.hpp"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>

#include "engine/error.hpp"
#include "eval/accounts.hpp"
#include "eval/comparison.hpp"
#include "eval/digest.hpp"
#include "eval/plan.hpp"
#include "eval/score_maker.hpp"
#include "simd/float_environment.hpp"

namespace neoxref::eval {
namespace {

using engine::Model;
using engine::Sequence;
using Clock = std::chrono::steady_clock;

/// Logits of so many values are kept at a time, of the full run and of one other.
constexpr std::size_t chunk_values = std::size_t{1} << 23;
constexpr std::size_t most_chunk = 512;

/// One arm on its way through one window.
struct Runner {
  std::unique_ptr<Sequence> sequence;  ///< null: still the full run's prefix
  LastLook last_look;
};

class Evaluation {
public:
  Evaluation(Model& model, const SweepOptions& options, std::vector<Row>& rows)
      : model_(model), options_(options), layout_(options.layout), rows_(rows) {
    layout_.bos = options.first_token.has_value();
    const engine::Config& config = model.config();
    for (const Row& row : rows) {
      if (row.compressed) extras_ = extras_ | row.arm.press.extras(config.rotary_dims);
      any_compressed_ = any_compressed_ || row.compressed;
      digests_.emplace_back();
    }
    chunk_ = std::clamp<std::size_t>(chunk_values / config.vocab, 16, most_chunk);
    full_logits_.resize(chunk_ * config.vocab);
    if (any_compressed_) logits_.resize(chunk_ * config.vocab);
    comparison_ = std::make_unique<Comparison>(model, chunk_, any_compressed_);
  }

  const Layout& layout() const { return layout_; }

  void go_on_from(const TextResult& done) {
    if (done.rows.size() != rows_.size() || done.digest_states.size() != rows_.size() ||
        done.survival.size() != rows_.size()) {
      throw engine::Error("earlier results", "are of another sweep",
                          std::to_string(rows_.size()) + " rows", std::to_string(done.rows.size()));
    }
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      rows_[i].texts.push_back(done.rows[i]);
      rows_[i].survival = done.survival[i];
      digests_[i] = Digest::resume(done.digest_states[i]);
    }
  }

  void add(const Text& text) {
    const std::vector<Window> all = windows(layout_, text.tokens.size(), text.target);
    check_tokens(text, all, layout_, model_.config().vocab);
    for (Row& row : rows_) {
      row.texts.emplace_back();
      row.texts.back().name = text.name;
      row.texts.back().cuts.assign(model_.config().layers, 0);
    }
    text_digests_.clear();
    for (std::size_t i = 0; i < rows_.size(); ++i) text_digests_.emplace_back();
    slot_sums_.assign(rows_.size(), 0);
    resident_.assign(rows_.size(), {});
    for (const Window& window : all) run(text, window);
    for (std::size_t i = 0; i < rows_.size(); ++i) finish_text(rows_[i], i, text, all);
  }

  TextResult result() const {
    TextResult result;
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      result.rows.push_back(rows_[i].texts.back());
      result.digest_states.push_back(digests_[i].state());
      result.survival.push_back(rows_[i].survival);
    }
    return result;
  }

  void finish() {
    for (std::size_t i = 0; i < rows_.size(); ++i) rows_[i].digest = digests_[i].hex();
  }

private:
  struct Resident {
    double sum = 0.0;
    std::size_t samples = 0;
    std::size_t peak = 0;
  };

  double forward(Sequence& sequence, std::span<const std::int32_t> ids, bool wanted, float* logits,
                 const std::string& text, std::size_t position) {
    engine::Step step{&sequence, ids, wanted ? engine::LogitRows::all : engine::LogitRows::none,
                      logits};
    const auto begin = Clock::now();
    if (!model_.forward({&step, 1})) {
      throw engine::Error(text, "stopped at position " +
                                    std::to_string(position + step.failure->token) + ", " +
                                    engine::describe(*step.failure));
    }
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  void start(const Row& row, Runner& runner, const Sequence& full, const Course& way,
             std::span<const std::int32_t> entering) {
    runner.sequence = std::make_unique<Sequence>(full.fork());
    engine::Press press = row.arm.press;
    press.prune_after = way.prune_after;
    if (const auto* maker = dynamic_cast<const ScoreMaker*>(press.own.get())) {
      press.own = maker->of(model_, entering, press, way.untouched);
    }
    runner.sequence->set_press(press, model_.config().rotary_dims);
    runner.sequence->end_prompt();
    runner.sequence->log_dropped = true;
  }

  void sample(const Sequence& sequence, Resident& resident) const {
    const std::size_t bytes = resident_bytes(sequence.cache);
    resident.sum += static_cast<double>(bytes);
    ++resident.samples;
    resident.peak = std::max(resident.peak, bytes);
  }

  /// Notes down what the predictions of a chunk say in a row.
  void note(std::size_t row, const Course& way, std::size_t first,
            std::span<const std::int32_t> ids, const std::vector<Prediction>& predictions) {
    TextScore& text = rows_[row].texts.back();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const std::size_t position = first + i + 1;
      if (position < way.first_scored) continue;
      const Prediction& mine = predictions[i];
      TokenScore score;
      score.kl = mine.kl;
      score.nll = mine.nll;
      score.full_nll = full_predictions_[i].nll;
      score.position = static_cast<std::uint32_t>(position);
      score.token = ids[i];
      score.correct = mine.best == static_cast<std::size_t>(ids[i]);
      score.agrees = mine.best == full_predictions_[i].best;
      text.scores.push_back(score);
    }
  }

  /// Digests what note() notes down: the logits of a chunk whose predictions are scored in this row.
  void chain(std::size_t row, const Course& way, std::size_t first, std::size_t count,
             const float* logits) {
    const std::size_t vocab = model_.config().vocab;
    const std::size_t skipped = std::max(way.first_scored, first + 1) - (first + 1);
    if (skipped >= count) return;
    const std::span<const float> values(logits + skipped * vocab, (count - skipped) * vocab);
    chains_.push_back({{&digests_[row], &text_digests_[row]}, values});
  }

  void run(const Text& text, const Window& window) {
    const std::size_t put_first = layout_.bos ? 1 : 0;
    std::vector<std::int32_t> ids(window.tokens);
    ids.front() = options_.first_token.value_or(0);
    std::copy_n(text.tokens.begin() + static_cast<std::ptrdiff_t>(window.begin),
                window.tokens - put_first, ids.begin() + static_cast<std::ptrdiff_t>(put_first));
    const std::size_t last = ids.size() - 2;  // the last token that enters

    std::vector<Course> ways;
    std::vector<std::size_t> borders = {last, last + 1};
    std::size_t first_scored = ids.size();
    for (const Row& row : rows_) {
      ways.push_back(course(layout_, window, row.arm.press, text.target > 0));
      if (ways.back().first_scored >= ids.size()) continue;
      first_scored = std::min(first_scored, ways.back().first_scored);
      borders.push_back(ways.back().untouched);
    }
    if (first_scored < ids.size()) pass(text, window, ids, ways, borders, first_scored);
  }

  void pass(const Text& text, const Window& window, std::span<const std::int32_t> ids,
            const std::vector<Course>& ways, std::vector<std::size_t>& borders,
            std::size_t first_scored) {
    const engine::Config& config = model_.config();
    const std::size_t last = ids.size() - 2;
    std::vector<Runner> runners(rows_.size());
    std::vector<std::size_t> first_tokens;
    for (const Row& row : rows_) first_tokens.push_back(row.texts.back().scores.size());
    // With memory of its own, not that of another sequence: its pages are counted.
    Sequence full({config.layers, config.heads, config.head_dim}, last + 1, extras_);
    std::sort(borders.begin(), borders.end());
    const auto takes_part = [&](std::size_t i) { return ways[i].first_scored < ids.size(); };
    std::size_t last_start = 0;
    for (const Course& way : ways) last_start = std::max(last_start, way.untouched);
    const auto start_due = [&](std::size_t position) {
      for (std::size_t i = 0; i < rows_.size(); ++i) {
        if (!rows_[i].compressed || !takes_part(i) || ways[i].untouched != position) continue;
        start(rows_[i], runners[i], full, ways[i], ids.first(last + 1));
      }
      // Nobody asks the full run itself what its slots have drawn.
      if (position >= last_start) full.attended.reset();
    };
    for (std::size_t first = 0; first <= last;) {
      start_due(first);
      const std::size_t border = *std::upper_bound(borders.begin(), borders.end(), first);
      const std::size_t count = std::min(border - first, chunk_);
      const std::span<const std::int32_t> entering = ids.subspan(first, count);
      const std::span<const std::int32_t> next = ids.subspan(first + 1, count);
      const bool wanted = first + count >= first_scored;
      const double seconds = forward(full, entering, wanted, full_logits_.data(), text.name, first);
      if (wanted) {
        full_predictions_.resize(count);
        predictions_.resize(count);
        chains_.clear();
        for (std::size_t i = 0; i < rows_.size(); ++i) {
          if (!takes_part(i) || runners[i].sequence != nullptr) continue;
          chain(i, ways[i], first, count, full_logits_.data());
        }
        comparison_->set_full(full_logits_.data(), next, full_predictions_, chains_);
      }
      for (std::size_t i = 0; i < rows_.size(); ++i) {
        if (!takes_part(i)) continue;
        const bool own = runners[i].sequence != nullptr;
        if (own && first == last) runners[i].last_look.before(*runners[i].sequence);
        if (first >= ways[i].untouched) {
          rows_[i].texts.back().seconds += own ? forward(*runners[i].sequence, entering, wanted,
                                                         logits_.data(), text.name, first)
                                               : seconds;
        }
        if (first + count < ways[i].first_scored) continue;
        sample(own ? *runners[i].sequence : full, resident_[i]);
        if (own) {
          chains_.clear();
          chain(i, ways[i], first, count, logits_.data());
          comparison_->compare(logits_.data(), predictions_, chains_);
        }
        note(i, ways[i], first, next, own ? predictions_ : full_predictions_);
      }
      first += count;
    }
    start_due(last + 1);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (!takes_part(i)) continue;
      const Sequence& sequence = rows_[i].compressed ? *runners[i].sequence : full;
      finish_window(i, text, window, ways[i], sequence, first_tokens[i]);
      if (!rows_[i].compressed) continue;
      widen(rows_[i].survival, sequence.cache.shape(), last + 1);
      count_drops(sequence, rows_[i].survival);
      if (ways[i].untouched <= last) runners[i].last_look.after(sequence, last, rows_[i].survival);
    }
    check_schedules(rows_);
  }

  void finish_window(std::size_t row, const Text& text, const Window& window, const Course& way,
                     const Sequence& sequence, std::size_t first_token) {
    const std::size_t layers = model_.config().layers;
    TextScore& score = rows_[row].texts.back();
    WindowScore done{window, way, first_token, score.scores.size() - first_token, {}, {}};
    if (rows_[row].compressed) {
      for (const engine::Cut& cut : sequence.cuts) {
        done.log.push_back(
            {cut.layer, cut.position, cut.before, cut.after, cut.protection_won, {}});
      }
      check_against_plan(*sequence.press(), layers, window.tokens - 1, way.untouched, done.log,
                         text.name);
    }
    for (std::size_t layer = 0; layer < layers; ++layer) {
      done.lengths.push_back(sequence.cache.longest(layer));
    }
    for (const engine::Cut& cut : done.log) ++score.cuts[cut.layer];
    date_scores(done, score.scores.data() + first_token);
    const Slots slots = count_slots(done, layers);
    slot_sums_[row] += slots.sum;
    score.peak_slots = std::max(score.peak_slots, slots.peak);
    score.physical_bytes = std::max(score.physical_bytes, sequence.cache.physical_bytes());
    score.windows.push_back(std::move(done));
  }

  void finish_text(Row& row, std::size_t index, const Text& text, const std::vector<Window>& all) {
    const engine::Config& config = model_.config();
    TextScore& score = row.texts.back();
    const std::size_t first = layout_.bos ? 1 : 0;
    if (all.empty()) {
      score.tokens = std::min(text.tokens.size() + first, layout_.max_tokens);
    } else {
      score.tokens = all.back().begin + all.back().tokens - all.front().begin;
    }
    score.scored = score.scores.size();
    sum_scores(score, text, first);
    score.never_cut =
        row.compressed && !all.empty() && was_never_cut(score, row.arm.press, config.layers);
    if (!score.windows.empty()) {
      const WindowScore& window = score.windows.front();
      score.before_first_cut =
          window.log.empty() ? window.window.tokens - 1 : window.log.front().position + 1;
    }
    const auto slot_bytes = static_cast<double>(config.heads * config.head_dim * 2 * sizeof(float));
    if (score.scored > 0) {
      const auto layers = static_cast<double>(config.layers);
      score.mean_slots =
          static_cast<double>(slot_sums_[index]) / (static_cast<double>(score.scored) * layers);
      score.mean_bytes = score.mean_slots * layers * slot_bytes;
    }
    score.peak_bytes = score.peak_slots * config.heads * config.head_dim * 2 * sizeof(float);
    const Resident& resident = resident_[index];
    if (resident.samples > 0) {
      score.mean_resident_bytes = resident.sum / static_cast<double>(resident.samples);
    }
    score.peak_resident_bytes = resident.peak;
    score.digest = text_digests_[index].hex();
  }

  Model& model_;
  const SweepOptions& options_;
  Layout layout_;
  std::vector<Row>& rows_;
  std::vector<Digest> digests_;
  std::vector<Digest> text_digests_;
  std::vector<std::size_t> slot_sums_;
  std::vector<Resident> resident_;
  std::size_t chunk_ = 0;
  std::vector<float> full_logits_;
  std::vector<float> logits_;
  std::vector<Prediction> full_predictions_;
  std::vector<Prediction> predictions_;
  std::unique_ptr<Comparison> comparison_;
  std::vector<Chain> chains_;
  engine::Extras extras_;  ///< for every press of the sweep
  bool any_compressed_ = false;
};

}  // namespace

Sweep evaluate(Model& model, std::span<const Text> texts, std::span<const Arm> arms,
               const SweepOptions& options) {
  const simd::FloatEnvironment environment;
  const engine::Config& config = model.config();
  if (options.layout.max_tokens > config.max_positions + 1) {
    throw engine::Error("max_tokens", "longer than the context of the model",
                        "at most " + std::to_string(config.max_positions + 1),
                        std::to_string(options.layout.max_tokens));
  }
  if (options.done.size() > texts.size()) {
    throw engine::Error("earlier results", "are of more texts",
                        "at most " + std::to_string(texts.size()),
                        std::to_string(options.done.size()));
  }
  Sweep sweep{options.layout, make_rows(arms)};
  for (const Row& row : sweep.rows) {
    row.arm.press.check(config.layers, config.head_dim, config.rotary_dims);
  }
  Evaluation evaluation(model, options, sweep.rows);
  sweep.layout = evaluation.layout();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (options.progress) {
      options.progress(static_cast<double>(i) / static_cast<double>(texts.size()));
    }
    if (i < options.done.size()) {
      evaluation.go_on_from(options.done[i]);
      continue;
    }
    evaluation.add(texts[i]);
    if (options.text_done) options.text_done(i, evaluation.result());
  }
  evaluation.finish();
  for (Row& row : sweep.rows) add_up(row);
  if (options.progress) options.progress(1.0);
  const bool any = std::any_of(texts.begin(), texts.end(), [&](const Text& text) {
    return !windows(sweep.layout, text.tokens.size(), text.target).empty();
  });
  if (!any) {
    const bool phases = sweep.layout.protocol == Protocol::two_phase;
    throw engine::Error("texts", "none is long enough to be scored",
                        std::to_string(phases ? least_tokens : 2) + " tokens or more", "");
  }
  return sweep;
}

}  // namespace neoxref::eval
