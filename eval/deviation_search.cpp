// SPDX-License-Identifier: Apache-2.0
#include "eval/deviation_search.hpp"

#include <algorithm>
#include <functional>

#include "engine/error.hpp"

namespace neoxref::eval {

using engine::TensorId;

namespace {

using Filters = std::vector<std::optional<MatchedFilter>>;

/// A beta that is off 1 by this much is no sign of anything: rounding inside a unit does that.
constexpr double free_play = 0.1;
/// Tokens that must show a deviation.
constexpr std::size_t least_clusters = 6;

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

}  // namespace

DeviationSearch::DeviationSearch(const engine::Checkpoint& checkpoint, engine::Team& team,
                                 const Profile& profile, const TensorSource* other,
                                 const TensorSource* reference,
                                 std::span<const TensorSource* const> honest,
                                 const DeviationOptions& options)
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
    runs_.push_back(std::make_unique<OnlyThese>(*run, compared(other ? *other : *honest.front())));
    honest_.push_back(std::make_unique<SiteMeter>(checkpoint, team, *runs_.back(), limits, known_));
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

std::vector<TensorId> DeviationSearch::compared(const TensorSource& source) const {
  std::vector<TensorId> all;
  if (source.has({engine::Tensor::embed_in})) all.push_back({engine::Tensor::embed_in});
  for (const DeviationSite& site : sites_) {
    all.insert(all.end(), site.targets.begin(), site.targets.end());
  }
  return all;
}

void DeviationSearch::remeasure(std::size_t site) {
  filters_[site] = other_->each(sites_[site], base_[site], noise_);
}

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

void DeviationSearch::measure_noise(const TensorId& target) {
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

void DeviationSearch::measure_honest(std::size_t site) {
  for (const TensorId& target : sites_[site].targets) measure_noise(target);
  for (const auto& meter : honest_) {
    honest_filters_[site].push_back(meter->each(sites_[site], {}, noise_));
  }
}

double DeviationSearch::null_of(const std::vector<std::size_t>& sites, std::size_t number) const {
  double squares = 0.0;
  for (std::size_t run = 0; run < honest_.size(); ++run) {
    const auto filter = pool(sites, number, [&](std::size_t site) -> const Filters& {
      return honest_filters_[site][run];
    });
    if (filter) squares += std::pow(filter->fit().beta[0], 2);
  }
  return std::sqrt(squares / static_cast<double>(honest_.size()));
}

double DeviationSearch::honest_error_of(const std::vector<std::size_t>& sites,
                                        std::size_t number) const {
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

std::vector<std::size_t> DeviationSearch::where_it_acts(std::size_t number) const {
  std::vector<std::size_t> sites;
  for (std::size_t site = 0; site < sites_.size(); ++site) {
    if (honest_filters_[site].front()[number]) sites.push_back(site);
  }
  return sites;
}

double DeviationSearch::power_of(std::size_t number) const {
  const std::vector<std::size_t> sites = where_it_acts(number);
  if (sites.empty()) return 0.0;
  return 1.0 / std::hypot(honest_error_of(sites, number), null_of(sites, number));
}

Beta DeviationSearch::beta_of(const std::vector<std::size_t>& sites, std::size_t number) const {
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

bool DeviationSearch::allowed(std::size_t site, std::size_t number) const {
  return filters_[site][number] && can_be_told_[number] && !refused_[site].contains(number);
}

/// Takes what brings the unit nearest to the other's, one after the other, each time around all that was
/// taken before; then looks whether all still stand together.
void DeviationSearch::decide_site(std::size_t site) {
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
bool DeviationSearch::drop_worst(std::size_t site) {
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
void DeviationSearch::decide_together() {
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
Beta DeviationSearch::beta_around(const std::vector<std::size_t>& sites, const std::string& family,
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
void DeviationSearch::agree_in_families() {
  std::map<std::string, Set> members;
  for (const Set& base : base_) {
    for (const std::size_t number : base) members[known_[number].family].insert(number);
  }
  for (const auto& member : members) {
    const std::string& family = member.first;
    const Set& numbers = member.second;
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
      if (beta.change < change && beta.is_one(free_play)) {
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

}  // namespace neoxref::eval
