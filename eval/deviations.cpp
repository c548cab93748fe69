// SPDX-License-Identifier: Apache-2.0
#include "eval/deviations.hpp"

#include <algorithm>

#include "eval/deviation_search.hpp"

namespace neoxref::eval {

using engine::TensorId;

namespace {

/// No standard error is taken for smaller.
constexpr double least_error = 1e-12;
/// Of two that take away about as much (this share of the sum of squares) neither is the better one.
constexpr double as_near = 0.9;
/// A fit that leaves less than this share of an own error's RMS accounts for it: where values were rounded,
/// those near a midpoint go the other way.
constexpr double left_over = 0.2;

}  // namespace

DeviationReport DeviationSearch::run() {
  const auto progress = [&](double share) {
    if (options_.progress) options_.progress(share);
  };
  const auto sites = static_cast<double>(sites_.size());
  for (std::size_t i = 0; i < sites_.size(); ++i) {
    progress(0.5 * static_cast<double>(i) / sites);
    measure_honest(i);
  }
  for (std::size_t number = 0; number < known_.size(); ++number) {
    can_be_told_.push_back(power_of(number) >= options_.least_power);
  }
  if (other_) {
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      progress(0.5 + 0.4 * static_cast<double>(i) / sites);
      decide_site(i);
    }
    progress(0.9);
    agree_in_families();
    decide_together();
    agree_in_families();
  }
  DeviationReport report;
  report.tokens = tokens_;
  report.runs = honest_.size();
  report.layers = config_.layers;
  for (std::size_t number = 0; number < known_.size(); ++number) add_finding(number, report);
  std::stable_sort(report.findings.begin(), report.findings.end(),
                   [](const DeviationFinding& a, const DeviationFinding& b) {
                     return a.flagged != b.flagged ? a.flagged : a.flagged && a.power > b.power;
                   });
  if (other_) find_unexplained(report);
  progress(1.0);
  return report;
}

/// Over sites with the same deviations one fit; of such groups the mean by inverse variance.
Beta DeviationSearch::flagged_beta(const std::vector<std::size_t>& sites, std::size_t number) {
  std::map<Set, MatchedFilter> groups;
  for (const std::size_t site : sites) {
    MatchedFilter filter = other_->together(sites_[site], base_[site], noise_);
    const auto [group, is_new] = groups.try_emplace(base_[site], filter);
    if (!is_new) group->second.add(filter);
  }
  double weights = 0.0;
  double sum = 0.0;
  for (const auto& [base, filter] : groups) {
    const FilterFit fit = filter.fit();
    const auto at = static_cast<std::size_t>(std::distance(base.begin(), base.find(number)));
    const double error = std::max(fit.standard_error[at], least_error);
    const double weight = 1.0 / (error * error);
    weights += weight;
    sum += weight * (1.0 + fit.beta[at]);
  }
  Beta beta;
  beta.value = sum / weights;
  beta.standard_error = 1.0 / std::sqrt(weights);
  beta.null = null_of(sites, number);
  return beta;
}

void DeviationSearch::add_finding(std::size_t number, DeviationReport& report) {
  const std::vector<std::size_t> acts = where_it_acts(number);
  std::vector<std::size_t> found;
  std::vector<std::size_t> open;
  for (std::size_t site = 0; site < sites_.size(); ++site) {
    if (base_[site].contains(number)) found.push_back(site);
    if (other_ && filters_[site][number]) open.push_back(site);
  }
  if (acts.empty()) return;
  DeviationFinding finding;
  finding.name = known_[number].name;
  finding.null = null_of(acts, number);
  finding.power = power_of(number);
  finding.can_be_told = can_be_told_[number];
  finding.standard_error = honest_error_of(acts, number);
  if (!found.empty()) {
    const Beta beta = flagged_beta(found, number);
    finding.flagged = true;
    finding.beta = beta.value;
    finding.standard_error = beta.standard_error;
    for (const std::size_t site : found) finding.layers.push_back(sites_[site].layer);
    const std::string& family = known_[number].family;
    const Beta taken = beta_around(found, family, number);
    for (std::size_t rival = 0; rival < known_.size(); ++rival) {
      if (rival == number || known_[rival].family != family) continue;
      const Beta other = beta_around(found, family, rival);
      const bool as_good = other.change <= as_near * taken.change;
      if (as_good && other.is_one(0.0)) finding.alternatives.push_back(known_[rival].name);
    }
  } else if (!open.empty()) {
    const Beta beta = beta_of(open, number);
    finding.beta = beta.value;
    finding.standard_error = beta.standard_error;
  }
  report.findings.push_back(std::move(finding));
}

/// Honest runs of another make than the simulated ones are off by more at times; a bound says by how much
/// they may be.
bool DeviationSearch::within_bound(const TensorId& target) {
  if (!oracle_) oracle_ = std::make_unique<UnitOracle>(checkpoint_, team_, profile_);
  const std::optional<Matrix> output = source_->get(target);
  if (!output) return false;
  const UnitSummary summary = oracle_->measure(*source_, target, *output);
  return summary.without_bound == 0 && summary.over_bound == 0;
}

void DeviationSearch::find_unexplained(DeviationReport& report) {
  for (std::size_t site = 0; site < sites_.size(); ++site) {
    for (const TensorId& target : sites_[site].targets) {
      const SiteMeter::Error own = other_->error(target, base_[site]);
      const UnitNoise& noise = noise_.at(target);
      const OwnError found = own_error(own.error);
      // Rounding grows with what is rounded, and another's tensors may be larger.
      const double larger =
          noise.rms_value > 0.0 ? std::max(1.0, rms(*own.value) / noise.rms_value) : 1.0;
      const double least = 0x1p-30 * noise.rms_value + std::numeric_limits<double>::min();
      const double ratio = std::max(found.rms / (noise.rms_error + least),
                                    found.largest_token / (noise.largest_token + least)) /
                           larger;
      if (!(ratio > options_.significant)) continue;
      if (other_->acts(target, base_[site])) {
        const double before = rms(other_->error(target, {}).error);
        if (rms(own.error) < left_over * before) continue;
      } else if (within_bound(target)) {
        continue;
      }
      report.unexplained.push_back({target, ratio});
    }
  }
}

DeviationReport find_deviations(const engine::Checkpoint& checkpoint, engine::Team& team,
                                const Profile& profile, const TensorSource& other,
                                const TensorSource* reference,
                                std::span<const TensorSource* const> honest,
                                const DeviationOptions& options) {
  return DeviationSearch(checkpoint, team, profile, &other, reference, honest, options).run();
}

DeviationReport deviation_power(const engine::Checkpoint& checkpoint, engine::Team& team,
                                const Profile& profile, std::span<const TensorSource* const> honest,
                                const DeviationOptions& options) {
  return DeviationSearch(checkpoint, team, profile, nullptr, nullptr, honest, options).run();
}

}  // namespace neoxref::eval
