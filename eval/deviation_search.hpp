// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "eval/deviation_sites.hpp"
#include "eval/deviations.hpp"
#include "eval/units.hpp"

namespace neoxref::eval {

/// An estimate of one beta.
struct Beta {
  /// Standard errors that a beta of 1 may be off, and how far that may go: the errors of another cause
  /// are large, and would excuse anything. As many standard errors at the least power are as much.
  static constexpr double most_off = 4.0;
  static constexpr double farthest = 0.5;

  double value = 0.0;
  double standard_error = std::numeric_limits<double>::infinity();
  double null = 0.0;
  double change = 0.0;  ///< of the sum of squares when the deviation is taken

  double error() const { return std::hypot(standard_error, null); }
  bool is_not_zero(double at) const { return std::abs(value) > at * error(); }
  bool is_one(double play) const {
    return std::abs(value - 1.0) <= std::max(play, std::min(most_off * error(), farthest));
  }
};

struct OwnError {
  double rms = 0.0;
  double largest_token = 0.0;  ///< RMS of the worst token
};
/// Over the tokens whose errors are numbers.
OwnError own_error(const Matrix64& error);

/// One search: measures honest runs, decides layer by layer and over all layers, reports.
class DeviationSearch {
public:
  DeviationSearch(const engine::Checkpoint& checkpoint, engine::Team& team, const Profile& profile,
                  const TensorSource* other, const TensorSource* reference,
                  std::span<const TensorSource* const> honest, const DeviationOptions& options);

  /// The report of find_deviations, or without another backend that of deviation_power.
  DeviationReport run();

private:
  using TensorId = engine::TensorId;
  using Set = std::set<std::size_t>;  ///< numbers of known deviations
  using Filters = std::vector<std::optional<MatchedFilter>>;

  /// All that a source has of what is looked at.
  std::vector<TensorId> compared(const TensorSource& source) const;

  void measure_honest(std::size_t site);
  void measure_noise(const TensorId& target);
  double null_of(const std::vector<std::size_t>& sites, std::size_t number) const;
  double honest_error_of(const std::vector<std::size_t>& sites, std::size_t number) const;
  std::vector<std::size_t> where_it_acts(std::size_t number) const;
  double power_of(std::size_t number) const;
  Beta beta_of(const std::vector<std::size_t>& sites, std::size_t number) const;
  bool allowed(std::size_t site, std::size_t number) const;
  void remeasure(std::size_t site);
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

}  // namespace neoxref::eval
