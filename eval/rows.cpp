// SPDX-License-Identifier: Apache-2.0
// The arms of a sweep as rows, and what a row sums up.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/error.hpp"
#include "eval/sweep.hpp"

namespace neoxref::eval {
namespace {

double per_token(double sum, std::size_t tokens) {
  if (tokens == 0) return std::numeric_limits<double>::quiet_NaN();
  return sum / static_cast<double>(tokens);
}

bool keeps_all(const engine::Press& press) {
  if (press.layer_budgets.empty()) return press.budget.keeps_all();
  return std::all_of(press.layer_budgets.begin(), press.layer_budgets.end(),
                     [](const engine::Budget& budget) { return budget.keeps_all(); });
}

bool scores_the_same(const engine::Press& a, const engine::Press& b) {
  return a.trigger == b.trigger && a.prune_after == b.prune_after && a.interval == b.interval;
}

}  // namespace

std::vector<Arm> with_controls(std::span<const Arm> arms, std::size_t seeds) {
  using engine::Score;
  std::vector<Arm> all;
  for (std::size_t i = 0; i < arms.size(); ++i) {
    all.push_back(arms[i]);
    const std::size_t schedule = arms[i].schedule;
    const auto alike = [&](const Arm& arm) { return arm.schedule == schedule; };
    if (keeps_all(arms[i].press) || schedule == 0) continue;
    if (std::any_of(arms.begin() + static_cast<std::ptrdiff_t>(i) + 1, arms.end(), alike)) continue;
    Arm control = arms[i];
    control.control = true;
    control.press.own = nullptr;
    for (const Score score : {Score::random, Score::random_fresh}) {
      for (std::size_t seed = 0; seed < seeds; ++seed) {
        control.press.score = score;
        control.press.seed = arms[i].press.seed + seed;
        all.push_back(control);
      }
    }
    const bool has_window = std::any_of(arms.begin(), arms.end(), [&](const Arm& arm) {
      return alike(arm) && arm.press.score == Score::recent;
    });
    control.press.score = Score::recent;
    control.press.seed = arms[i].press.seed;
    if (!has_window) all.push_back(control);
  }
  return all;
}

std::vector<Row> make_rows(std::span<const Arm> arms) {
  std::vector<Row> rows;
  for (const Arm& first : arms) {
    const bool there = std::any_of(rows.begin(), rows.end(), [&](const Row& row) {
      return scores_the_same(row.arm.press, first.press);
    });
    if (there) continue;
    Row full;
    full.full_row = rows.size();
    full.arm.label = "1";
    full.arm.press.trigger = first.press.trigger;
    full.arm.press.prune_after = first.press.prune_after;
    full.arm.press.interval = first.press.interval;
    full.arm.press.skip_layers = first.press.skip_layers;
    rows.push_back(full);
    for (const Arm& arm : arms) {
      if (keeps_all(arm.press) || !scores_the_same(arm.press, first.press)) continue;
      Row row;
      row.arm = arm;
      row.compressed = true;
      row.full_row = full.full_row;
      rows.push_back(std::move(row));
    }
  }
  if (rows.empty()) throw engine::Error("arms", "there are none", "at least one", "0");
  return rows;
}

void add_up(Row& row) {
  double slots = 0.0;
  double bytes = 0.0;
  double resident = 0.0;
  for (const TextScore& text : row.texts) {
    row.tokens += text.tokens;
    row.scored += text.scored;
    row.nll += text.nll;
    row.full_nll += text.full_nll;
    row.kl += text.kl;
    row.correct += text.correct;
    row.agreed += text.agreed;
    row.after_cut += text.after_cut;
    row.bytes += text.bytes;
    row.words += text.words;
    row.cuts.resize(std::max(row.cuts.size(), text.cuts.size()));
    for (std::size_t layer = 0; layer < text.cuts.size(); ++layer) {
      row.cuts[layer] += text.cuts[layer];
    }
    const auto weight = static_cast<double>(text.scored);
    slots += text.mean_slots * weight;
    bytes += text.mean_bytes * weight;
    resident += text.mean_resident_bytes * weight;
    row.peak_bytes = std::max(row.peak_bytes, text.peak_bytes);
    row.physical_bytes = std::max(row.physical_bytes, text.physical_bytes);
    row.peak_resident_bytes = std::max(row.peak_resident_bytes, text.peak_resident_bytes);
    row.seconds += text.seconds;
  }
  row.mean_slots = per_token(slots, row.scored);
  row.mean_bytes = per_token(bytes, row.scored);
  row.mean_resident_bytes = per_token(resident, row.scored);
}

double TextScore::log_ratio() const {
  return per_token(nll - full_nll, scored);
}

double Row::perplexity() const {
  return std::exp(per_token(nll, scored));
}

double Row::full_perplexity() const {
  return std::exp(per_token(full_nll, scored));
}

double Row::log_ratio() const {
  return per_token(nll - full_nll, scored);
}

double Row::document_perplexity() const {
  double sum = 0.0;
  std::size_t documents = 0;
  for (const TextScore& text : texts) {
    if (text.scored == 0) continue;
    sum += std::exp(per_token(text.nll, text.scored));
    ++documents;
  }
  return per_token(sum, documents);
}

std::size_t Row::items_correct() const {
  return static_cast<std::size_t>(std::count_if(texts.begin(), texts.end(), [](const auto& text) {
    return text.scored > 0 && text.correct == text.scored;
  }));
}

std::size_t Row::protected_cuts() const {
  std::size_t count = 0;
  for (const TextScore& text : texts) {
    for (const WindowScore& window : text.windows) {
      for (const engine::Cut& cut : window.log) count += cut.protection_won ? 1u : 0u;
    }
  }
  return count;
}

double Survival::share(std::size_t layer, std::size_t position) const {
  return per_token(static_cast<double>(held[layer * positions + position]),
                   static_cast<std::size_t>(entered[position]));
}

double Survival::share_by_age(std::size_t layer, std::size_t age) const {
  // A window in which something of this age exists is one in which the position `age` had entered.
  return per_token(static_cast<double>(held_by_age[layer * positions + age]),
                   static_cast<std::size_t>(entered[age]));
}

}  // namespace neoxref::eval
