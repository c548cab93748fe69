// SPDX-License-Identifier: Apache-2.0
#include "eval/deviation_sites.hpp"

#include <algorithm>
#include <cmath>

namespace neoxref::eval {

using engine::Tensor;
using engine::TensorId;

std::vector<DeviationSite> deviation_sites(const TensorSource& source,
                                           const engine::Config& config) {
  std::vector<DeviationSite> sites;
  for (std::size_t layer = 0; layer <= config.layers; ++layer) {
    DeviationSite site{layer, {}};
    const auto take = [&](const TensorId& id) {
      if (source.has(id)) site.targets.push_back(id);
    };
    if (layer < config.layers) {
      for (const Tensor tensor : engine::layer_tensors) take({tensor, layer});
    } else {
      take({Tensor::final_layer_norm});
      take({Tensor::embed_out});
    }
    if (!site.targets.empty()) sites.push_back(std::move(site));
  }
  return sites;
}

Rules with_deviations(const engine::Config& config, std::span<const Deviation> known,
                      const std::set<std::size_t>& which) {
  Rules rules(config);
  for (const std::size_t number : which) known[number].apply(rules);
  return rules;
}

double rms(const Matrix64& matrix) {
  double sum = 0.0;
  std::size_t count = 0;
  for (const double value : matrix.values) {
    if (!std::isfinite(value)) continue;
    sum += value * value;
    ++count;
  }
  return count == 0 ? 0.0 : std::sqrt(sum / static_cast<double>(count));
}

SiteMeter::SiteMeter(const engine::Checkpoint& checkpoint, engine::Team& team,
                     const TensorSource& source, RuledUnits::Options options,
                     std::span<const Deviation> known)
    : config_(checkpoint.config()),
      known_(known),
      tokens_(options.tokens),
      units_(checkpoint, team, source, std::move(options)) {}

Rules SiteMeter::rules(const std::set<std::size_t>& which) const {
  return with_deviations(config_, known_, which);
}

SiteMeter::Error SiteMeter::error(const TensorId& target, const std::set<std::size_t>& base) {
  const Rules now = rules(base);
  units_.begin(exists_per_layer(target.tensor) ? target.layer : config_.layers, now);
  Error result{units_.of_source(target), units_.evaluate(target, now)};
  for (std::size_t i = 0; i < result.error.values.size(); ++i) {
    result.error.values[i] -= result.value->values[i];
  }
  return result;
}

std::vector<std::optional<MatchedFilter>> SiteMeter::each(
    const DeviationSite& site, const std::set<std::size_t>& base,
    const std::map<TensorId, UnitNoise>& noise) {
  std::vector<std::optional<MatchedFilter>> filters(known_.size());
  const Rules now = rules(base);
  std::set<std::string> families;
  for (const std::size_t number : base) families.insert(known_[number].family);
  for (const TensorId& target : site.targets) {
    const Error own = error(target, base);
    const std::size_t columns = own.error.columns;
    for (std::size_t number = 0; number < known_.size(); ++number) {
      if (families.contains(known_[number].family)) continue;
      Rules deviated = now;
      known_[number].apply(deviated);
      if (!units_.differs(target, now, deviated)) continue;
      Matrix64 signature = *units_.evaluate(target, deviated);
      for (std::size_t i = 0; i < signature.values.size(); ++i) {
        signature.values[i] -= own.value->values[i];
      }
      if (!filters[number]) filters[number].emplace(1, tokens_);
      for (std::size_t t = 0; t < tokens_; ++t) {
        const double* row = signature.row(t);
        filters[number]->add(t, {own.error.row(t), columns}, {&row, 1}, noise.at(target).weights);
      }
    }
  }
  return filters;
}

MatchedFilter SiteMeter::together(const DeviationSite& site, const std::set<std::size_t>& base,
                                  const std::map<TensorId, UnitNoise>& noise) {
  MatchedFilter filter(base.size(), tokens_);
  for (const TensorId& target : site.targets) {
    const Error own = error(target, base);
    std::vector<Matrix64> signatures;
    for (const std::size_t number : base) {
      std::set<std::size_t> without = base;
      without.erase(number);
      Matrix64 signature = *own.value;
      const Rules others = rules(without);
      if (units_.differs(target, rules(base), others)) {
        const auto value = units_.evaluate(target, others);
        for (std::size_t i = 0; i < signature.values.size(); ++i) {
          signature.values[i] -= value->values[i];
        }
      } else {
        std::fill(signature.values.begin(), signature.values.end(), 0.0);
      }
      signatures.push_back(std::move(signature));
    }
    for (std::size_t t = 0; t < tokens_; ++t) {
      std::vector<const double*> rows;
      for (const Matrix64& signature : signatures) rows.push_back(signature.row(t));
      filter.add(t, {own.error.row(t), own.error.columns}, rows, noise.at(target).weights);
    }
  }
  return filter;
}

}  // namespace neoxref::eval
