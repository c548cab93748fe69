// SPDX-License-Identifier: Apache-2.0
#include "eval/deviations.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/error.hpp"
#include "eval/deviation_sites.hpp"
#include "eval/envelope.hpp"

namespace neoxref::eval {
namespace {

using engine::TensorId;
using Set = std::set<std::size_t>;
using Filters = std::vector<std::optional<MatchedFilter>>;

/// A beta that is off 1 by this much is no sign of anything: rounding inside a unit does that.
constexpr double free_play = 0.1;
/// Standard errors that a beta may be off 1.
constexpr double most_off = 4.0;
/// Of two that take away about as much (this share of the sum of squares) neither is the better one.
constexpr double as_near = 0.9;
/// No standard error is taken for smaller.
constexpr double least_error = 1e-12;
/// A fit that leaves less than this share of an own error's RMS accounts for it: where values were rounded,
/// those near a midpoint go the other way.
constexpr double left_over = 0.2;
/// Tokens that must show a deviation.
constexpr std::size_t least_clusters = 6;

struct Beta {
  double value = 0.0;
  double standard_error = std::numeric_limits<double>::infinity();
  double null = 0.0;
  double change = 0.0;  ///< of the sum of squares when the deviation is taken

  double error() const { return std::hypot(standard_error, null); }
  bool is_not_zero(double at) const { return std::abs(value) > at * error(); }
  bool is_one(double play) const {
    return std::abs(value - 1.0) <= std::max(play, most_off * error());
  }
};

/// Those that honest backends of the profile do not have.
std::vector<Deviation> deviations_from(const engine::Config& config, const Profile& profile) {
  std::vector<Deviation> known = known_deviations(config);
  std::erase_if(known, [&](const Deviation& deviation) {
    Rules rules(config);
    deviation.apply(rules);
    const Format stored = profile.stored(engine::Tensor::embed_out);
    return rules.logits && (stored == Format::kld16 || fits(stored, *rules.logits));
  });
  return known;
}

class Search {
public:
  Search(const engine::Checkpoint& checkpoint, engine::Team& team, const Profile& profile,
         const TensorSource* other, const TensorSource* reference,
         std::span<const TensorSource* const> honest, const DeviationOptions& options)
      : checkpoint_(checkpoint),
        team_(team),
        profile_(profile),
        source_(other),
        config_(checkpoint.config()),
        options_(options),
        known_(deviations_from(config_, profile)),
        sites_(deviation_sites(other != nullptr ? *other : *honest.front(), config_)) {
    RuledUnits::Options limits;
    limits.tokens = options.most_tokens;
    const auto at_most = [&](const TensorSource& source) {
      limits.tokens = std::min(limits.tokens, source.tokens().size());
    };
    if (other != nullptr) at_most(*other);
    for (const TensorSource* run : honest) at_most(*run);
    limits.logit_columns = options.logit_columns;
    limits.profile = profile;
    tokens_ = limits.tokens;
    if (tokens_ == 0) throw engine::Error("tokens", "there are none");
    for (const TensorSource* run : honest) {
      runs_.push_back(
          std::make_unique<OnlyThese>(*run, compared(other ? *other : *honest.front())));
      honest_.push_back(
          std::make_unique<SiteMeter>(checkpoint, team, *runs_.back(), limits, known_));
    }
    limits.stand_in = reference;
    if (other != nullptr) {
      other_ = std::make_unique<SiteMeter>(checkpoint, team, *other, limits, known_);
    }
    honest_filters_.resize(sites_.size());
    filters_.resize(sites_.size());
    base_.resize(sites_.size());
    refused_.resize(sites_.size());
  }

  DeviationReport run() {
    for (std::size_t i = 0; i < sites_.size(); ++i) measure_honest(i);
    for (std::size_t number = 0; number < known_.size(); ++number) {
      can_be_told_.push_back(power_of(number) >= options_.least_power);
    }
    if (other_) {
      for (std::size_t i = 0; i < sites_.size(); ++i) decide_site(i);
      agree_in_families();
      decide_together();
    }
    DeviationReport report;
    report.tokens = tokens_;
    report.runs = honest_.size();
    for (std::size_t number = 0; number < known_.size(); ++number) add_finding(number, report);
    std::stable_sort(report.findings.begin(), report.findings.end(),
                     [](const DeviationFinding& a, const DeviationFinding& b) {
                       return a.flagged != b.flagged ? a.flagged : a.flagged && a.power > b.power;
                     });
    if (other_) find_unexplained(report);
    return report;
  }

private:
  /// All that a source has of what is looked at.
  std::vector<TensorId> compared(const TensorSource& source) const {
    std::vector<TensorId> all;
    if (source.has({engine::Tensor::embed_in})) all.push_back({engine::Tensor::embed_in});
    for (const DeviationSite& site : sites_) {
      all.insert(all.end(), site.targets.begin(), site.targets.end());
    }
    return all;
  }

  void measure_honest(std::size_t site);
  void measure_noise(const TensorId& target);
  double null_of(const std::vector<std::size_t>& sites, std::size_t number) const;
  double honest_error_of(const std::vector<std::size_t>& sites, std::size_t number) const;
  std::vector<std::size_t> where_it_acts(std::size_t number) const;
  double power_of(std::size_t number) const;
  Beta beta_of(const std::vector<std::size_t>& sites, std::size_t number) const;
  bool allowed(std::size_t site, std::size_t number) const;
  void remeasure(std::size_t site) {
    filters_[site] = other_->each(sites_[site], base_[site], noise_);
  }
  void decide_site(std::size_t site);
  bool drop_worst(std::size_t site);
  void decide_together();
  void agree_in_families();
  Beta beta_around(const std::vector<std::size_t>& sites, const std::string& family,
                   std::size_t number);
  void add_finding(std::size_t number, DeviationReport& report);
  Beta flagged_beta(const std::vector<std::size_t>& sites, std::size_t number);
  void find_unexplained(DeviationReport& report);
  bool within_bound(const TensorId& target);

  const engine::Checkpoint& checkpoint_;
  engine::Team& team_;
  const Profile& profile_;
  const TensorSource* source_;
  const engine::Config& config_;
  DeviationOptions options_;
  std::vector<Deviation> known_;
  std::vector<DeviationSite> sites_;
  std::size_t tokens_ = 0;
  std::vector<std::unique_ptr<OnlyThese>> runs_;
  std::vector<std::unique_ptr<SiteMeter>> honest_;
  std::unique_ptr<SiteMeter> other_;
  std::unique_ptr<UnitOracle> oracle_;
  std::map<TensorId, UnitNoise> noise_;
  std::vector<std::vector<Filters>> honest_filters_;  ///< [sites, runs]
  std::vector<Filters> filters_;                      ///< [sites] of other, around base_
  std::vector<Set> base_;                             ///< [sites] what is held to be there
  std::vector<bool> can_be_told_;                     ///< [known]
  std::vector<Set> refused_;                          ///< [sites] what was there and did not stand
};

struct OwnError {
  double rms = 0.0;
  double largest_token = 0.0;  ///< RMS of the worst token
};

/// Over the tokens whose errors are numbers.
OwnError own_error(const Matrix64& error) {
  OwnError own;
  std::size_t rows = 0;
  for (std::size_t t = 0; t < error.rows; ++t) {
    double sum = 0.0;
    for (std::size_t c = 0; c < error.columns; ++c) sum += error.row(t)[c] * error.row(t)[c];
    if (!std::isfinite(sum)) continue;
    sum /= static_cast<double>(error.columns);
    own.rms += sum;
    own.largest_token = std::max(own.largest_token, std::sqrt(sum));
    ++rows;
  }
  if (rows > 0) own.rms = std::sqrt(own.rms / static_cast<double>(rows));
  return own;
}

void Search::measure_noise(const TensorId& target) {
  std::vector<SiteMeter::Error> runs;
  for (const auto& meter : honest_) runs.push_back(meter->error(target, {}));
  const std::size_t columns = runs.front().error.columns;
  UnitNoise noise;
  noise.weights.assign(columns, 0.0);
  double squares = 0.0;
  for (const SiteMeter::Error& run : runs) {
    for (std::size_t t = 0; t < tokens_; ++t) {
      for (std::size_t c = 0; c < columns; ++c) {
        const double error = run.error.row(t)[c];
        if (std::isfinite(error)) noise.weights[c] += error * error;
      }
    }
    noise.rms_value = std::max(noise.rms_value, rms(*run.value));
  }
  const auto count = static_cast<double>(runs.size() * tokens_);
  for (double& square : noise.weights) squares += square /= count;
  // Where honest runs are exact, a difference in the last digits of binary32 is as good as any.
  const double least = std::pow(0x1p-30 * noise.rms_value, 2) + std::numeric_limits<double>::min();
  const double floor = 0.1 * squares / static_cast<double>(columns) + least;
  for (double& square : noise.weights) square = 1.0 / (square + floor);
  for (const SiteMeter::Error& run : runs) {
    const OwnError own = own_error(run.error);
    noise.rms_error += own.rms / static_cast<double>(runs.size());
    noise.largest_token = std::max(noise.largest_token, own.largest_token);
  }
  noise_[target] = std::move(noise);
}

void Search::measure_honest(std::size_t site) {
  for (const TensorId& target : sites_[site].targets) measure_noise(target);
  for (const auto& meter : honest_) {
    honest_filters_[site].push_back(meter->each(sites_[site], {}, noise_));
  }
}

/// The filter of one deviation over some sites; none where it acts in none of them.
std::optional<MatchedFilter> pool(const std::vector<std::size_t>& sites, std::size_t number,
                                  const std::function<const Filters&(std::size_t)>& filters) {
  std::optional<MatchedFilter> sum;
  for (const std::size_t site : sites) {
    const auto& filter = filters(site)[number];
    if (!filter) continue;
    if (sum) {
      sum->add(*filter);
    } else {
      sum = filter;
    }
  }
  return sum;
}

double Search::null_of(const std::vector<std::size_t>& sites, std::size_t number) const {
  double squares = 0.0;
  for (std::size_t run = 0; run < honest_.size(); ++run) {
    const auto filter = pool(sites, number, [&](std::size_t site) -> const Filters& {
      return honest_filters_[site][run];
    });
    if (filter) squares += std::pow(filter->fit().beta[0], 2);
  }
  return std::sqrt(squares / static_cast<double>(honest_.size()));
}

double Search::honest_error_of(const std::vector<std::size_t>& sites, std::size_t number) const {
  double squares = 0.0;
  for (std::size_t run = 0; run < honest_.size(); ++run) {
    const auto filter = pool(sites, number, [&](std::size_t site) -> const Filters& {
      return honest_filters_[site][run];
    });
    if (!filter) return std::numeric_limits<double>::infinity();
    squares += std::pow(filter->fit().standard_error[0], 2);
  }
  return std::sqrt(squares / static_cast<double>(honest_.size()));
}

std::vector<std::size_t> Search::where_it_acts(std::size_t number) const {
  std::vector<std::size_t> sites;
  for (std::size_t site = 0; site < sites_.size(); ++site) {
    if (honest_filters_[site].front()[number]) sites.push_back(site);
  }
  return sites;
}

double Search::power_of(std::size_t number) const {
  const std::vector<std::size_t> sites = where_it_acts(number);
  if (sites.empty()) return 0.0;
  return 1.0 / std::hypot(honest_error_of(sites, number), null_of(sites, number));
}

Beta Search::beta_of(const std::vector<std::size_t>& sites, std::size_t number) const {
  const auto filter =
      pool(sites, number, [&](std::size_t site) -> const Filters& { return filters_[site]; });
  Beta beta;
  beta.null = null_of(sites, number);
  if (!filter) return beta;
  const FilterFit fit = filter->fit();
  beta.value = fit.beta[0];
  beta.standard_error = fit.standard_error[0];
  beta.change = filter->change_when_taken();
  if (fit.clusters < least_clusters) {
    beta.standard_error = std::numeric_limits<double>::infinity();
  }
  return beta;
}

bool Search::allowed(std::size_t site, std::size_t number) const {
  return filters_[site][number] && can_be_told_[number] && !refused_[site].contains(number);
}

/// Takes what brings the unit nearest to the other's, one after the other, each time around all that was
/// taken before; then looks whether all still stand together.
void Search::decide_site(std::size_t site) {
  for (;;) {
    remeasure(site);
    std::optional<std::size_t> best;
    double change = 0.0;
    for (std::size_t number = 0; number < known_.size(); ++number) {
      if (!allowed(site, number)) continue;
      const Beta beta = beta_of({site}, number);
      if (beta.change < change && beta.is_not_zero(options_.flag_at)) {
        change = beta.change;
        best = number;
      }
    }
    if (best) {
      base_[site].insert(*best);
    } else if (!drop_worst(site)) {
      return;
    }
  }
}

/// Of what was taken, the one whose beta is furthest from 1, where that is not 1. False: all stand.
bool Search::drop_worst(std::size_t site) {
  if (base_[site].empty()) return false;
  const FilterFit fit = other_->together(sites_[site], base_[site], noise_).fit();
  std::optional<std::size_t> worst;
  double furthest = 0.0;
  std::size_t at = 0;
  for (const std::size_t number : base_[site]) {
    Beta beta;
    beta.value = 1.0 + fit.beta[at];
    beta.standard_error = fit.standard_error[at];
    beta.null = null_of({site}, number);
    ++at;
    const bool stands = beta.is_one(free_play) && beta.is_not_zero(options_.flag_at);
    if (!stands && (!worst || std::abs(beta.value - 1.0) > furthest)) {
      furthest = std::abs(beta.value - 1.0);
      worst = number;
    }
  }
  if (!worst) return false;
  base_[site].erase(*worst);
  refused_[site].insert(*worst);
  return true;
}

/// What is too weak in each layer may be clear in all of them.
void Search::decide_together() {
  for (;;) {
    std::optional<std::size_t> best;
    double change = 0.0;
    std::vector<std::size_t> best_sites;
    for (std::size_t number = 0; number < known_.size(); ++number) {
      std::vector<std::size_t> open;
      for (std::size_t site = 0; site < sites_.size(); ++site) {
        if (allowed(site, number)) open.push_back(site);
      }
      if (open.size() < 2) continue;
      const Beta beta = beta_of(open, number);
      if (beta.change < change && beta.is_not_zero(options_.flag_at) && beta.is_one(free_play)) {
        change = beta.change;
        best = number;
        best_sites = open;
      }
    }
    if (!best) return;
    for (const std::size_t site : best_sites) {
      base_[site].insert(*best);
      remeasure(site);
    }
  }
}

/// The filter of a deviation over some sites, around all that is held there but its family.
Beta Search::beta_around(const std::vector<std::size_t>& sites, const std::string& family,
                         std::size_t number) {
  std::vector<Filters> around(sites_.size());
  for (const std::size_t site : sites) {
    Set base = base_[site];
    std::erase_if(base, [&](std::size_t held) { return known_[held].family == family; });
    around[site] = other_->each(sites_[site], base, noise_);
  }
  const auto filter =
      pool(sites, number, [&](std::size_t site) -> const Filters& { return around[site]; });
  Beta beta;
  beta.null = null_of(sites, number);
  if (!filter) return beta;
  const FilterFit fit = filter->fit();
  beta.value = fit.beta[0];
  beta.standard_error = fit.standard_error[0];
  beta.change = filter->change_when_taken();
  return beta;
}

/// Members of a family can be much alike (values of eps), and layers may have settled on different ones:
/// then the one that fits all of those layers together best is taken in all, where it stands there.
void Search::agree_in_families() {
  std::map<std::string, Set> members;
  for (const Set& base : base_) {
    for (const std::size_t number : base) members[known_[number].family].insert(number);
  }
  for (const auto& [family, numbers] : members) {
    if (numbers.size() < 2) continue;
    std::vector<std::size_t> sites;
    for (std::size_t site = 0; site < sites_.size(); ++site) {
      for (const std::size_t number : base_[site]) {
        if (numbers.contains(number)) sites.push_back(site);
      }
    }
    std::optional<std::size_t> best;
    double change = 0.0;
    for (const std::size_t number : numbers) {
      const Beta beta = beta_around(sites, family, number);
      if (beta.change < change && beta.is_one(0.0)) {
        change = beta.change;
        best = number;
      }
    }
    if (!best) continue;
    for (const std::size_t site : sites) {
      if (!beta_around({site}, family, *best).is_one(0.0)) continue;
      std::erase_if(base_[site], [&](std::size_t held) { return numbers.contains(held); });
      base_[site].insert(*best);
      remeasure(site);
    }
  }
}

/// Over sites with the same deviations one fit; of such groups the mean by inverse variance.
Beta Search::flagged_beta(const std::vector<std::size_t>& sites, std::size_t number) {
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

void Search::add_finding(std::size_t number, DeviationReport& report) {
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
bool Search::within_bound(const TensorId& target) {
  if (!oracle_) oracle_ = std::make_unique<UnitOracle>(checkpoint_, team_, profile_);
  const std::optional<Matrix> output = source_->get(target);
  if (!output) return false;
  const UnitSummary summary = oracle_->measure(*source_, target, *output);
  return summary.without_bound == 0 && summary.over_bound == 0;
}

void Search::find_unexplained(DeviationReport& report) {
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

}  // namespace

DeviationReport find_deviations(const engine::Checkpoint& checkpoint, engine::Team& team,
                                const Profile& profile, const TensorSource& other,
                                const TensorSource* reference,
                                std::span<const TensorSource* const> honest,
                                const DeviationOptions& options) {
  return Search(checkpoint, team, profile, &other, reference, honest, options).run();
}

DeviationReport deviation_power(const engine::Checkpoint& checkpoint, engine::Team& team,
                                const Profile& profile, std::span<const TensorSource* const> honest,
                                const DeviationOptions& options) {
  return Search(checkpoint, team, profile, nullptr, nullptr, honest, options).run();
}

}  // namespace neoxref::eval
