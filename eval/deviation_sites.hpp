// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "eval/deviations.hpp"
#include "eval/matched_filter.hpp"
#include "eval/ruled_units.hpp"

namespace neoxref::eval {

/// The tensors of one layer that a dump has, or those behind the last layer: what is decided together.
struct DeviationSite {
  std::size_t layer = 0;  ///< number of layers: behind the last
  std::vector<engine::TensorId> targets;
};
std::vector<DeviationSite> deviation_sites(const TensorSource& source,
                                           const engine::Config& config);

/// The rules of a model with those deviations of a list.
Rules with_deviations(const engine::Config& config, std::span<const Deviation> known,
                      const std::set<std::size_t>& which);

/// How honest runs are off their units, for one tensor.
struct UnitNoise {
  std::vector<double> weights;  ///< [columns] 1 / (mean square of the column + 10 % of that of all)
  double rms_error = 0.0;       ///< mean over runs
  double largest_token = 0.0;   ///< RMS error of the worst token of all runs
  double rms_value = 0.0;       ///< of the unit's value
};

/// Own errors of one source, as a matched filter needs them.
class SiteMeter {
public:
  SiteMeter(const engine::Checkpoint& checkpoint, engine::Team& team, const TensorSource& source,
            RuledUnits::Options options, std::span<const Deviation> known);

  /// source - unit under the deviations `base`, and the unit's value.
  struct Error {
    Matrix64 error;
    std::shared_ptr<const Matrix64> value;
  };
  Error error(const engine::TensorId& target, const std::set<std::size_t>& base);
  /// The deviations may change the target's unit.
  bool acts(const engine::TensorId& target, const std::set<std::size_t>& which) const {
    return units_.differs(target, rules(which), rules({}));
  }

  /// One filter per known deviation: own errors under `base`, signature unit(base + deviation) -
  /// unit(base). None for those in `base`, those of a family in it, and those that act nowhere here.
  std::vector<std::optional<MatchedFilter>> each(
      const DeviationSite& site, const std::set<std::size_t>& base,
      const std::map<engine::TensorId, UnitNoise>& noise);

  /// Own errors under `base` on the signatures unit(base) - unit(base - deviation) of all in `base`, in
  /// their order: beta - 1 of each.
  MatchedFilter together(const DeviationSite& site, const std::set<std::size_t>& base,
                         const std::map<engine::TensorId, UnitNoise>& noise);

private:
  Rules rules(const std::set<std::size_t>& which) const;

  const engine::Config& config_;
  std::span<const Deviation> known_;
  std::size_t tokens_;
  RuledUnits units_;
};

/// RMS of numbers that are finite; 0 where there are none.
double rms(const Matrix64& matrix);

}  // namespace neoxref::eval
