// SPDX-License-Identifier: Apache-2.0
#include "eval/compare.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/error.hpp"
#include "eval/compare_parts.hpp"
#include "eval/golden_tensors.hpp"

namespace neoxref::eval {

using engine::Tensor;
using engine::TensorId;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// * stands for any characters.
bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern.front() != '*') {
    return !name.empty() && name.front() == pattern.front() &&
           matches(pattern.substr(1), name.substr(1));
  }
  for (std::size_t skip = 0; skip <= name.size(); ++skip) {
    if (matches(pattern.substr(1), name.substr(skip))) return true;
  }
  return false;
}

std::string place_text(std::size_t token, std::size_t channel) {
  return "token " + std::to_string(token) + ", channel " + std::to_string(channel);
}

/// A whole comparison while it goes on.
class Comparer {
public:
  Comparer(const ForeignFile& file, const ForeignSource& other, const TensorSource& reference,
           const engine::Checkpoint& checkpoint, engine::Team& team, const CompareOptions& options)
      : file_(file),
        other_(other),
        reference_(reference, other.alignment().count),
        checkpoint_(checkpoint),
        team_(team),
        options_(options),
        config_(checkpoint.config()),
        oracle_(checkpoint, team, options.profile, options.isa),
        comparing_(options.causes == Causes::never ? 1.0 : 0.6) {}

  CompareReport run() {
    describe_files();
    report_.golden_tokens = reference_.all();
    if (other_.alignment().agrees) {
      compare_rotary();
      const std::vector<TensorId> ids = forward_tensors(config_);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        progress(static_cast<double>(i) / static_cast<double>(ids.size()) * 0.7);
        compare_tensor(ids[i]);
      }
      use_envelope();
      for (std::size_t i = 0; i < report_.tensors.size(); ++i) {
        conclude(report_.tensors[i]);
        if (report_.tensors[i].fails && !report_.first_diverging) report_.first_diverging = i;
      }
      check_required();
      look_for_causes();
    }
    if (options_.progress) options_.progress(1.0);
    return std::move(report_);
  }

private:
  /// share   of comparing, without causes.
  void progress(double share) const {
    if (options_.progress) options_.progress(share * comparing_);
  }

  void describe_files() {
    report_.format = file_.format;
    report_.map = other_.bindings().map;
    report_.profile = options_.profile.name;
    report_.alignment = other_.alignment();
    report_.unknown = other_.bindings().unknown;
    report_.findings = file_.notes;
    for (const auto* const list : {&other_.unusable(), &other_.bindings().repeated}) {
      report_.findings.insert(report_.findings.end(), list->begin(), list->end());
    }
  }

  void compare_rotary() {
    const Bindings& bindings = other_.bindings();
    for (const bool sine : {false, true}) {
      const auto& array = sine ? bindings.rotary_sin : bindings.rotary_cos;
      if (!array) continue;
      TensorReport report;
      report.name = sine ? "rotary.sin" : "rotary.cos";
      const ForeignArray& found = file_.arrays[*array];
      report.other_name = found.name;
      report.type = foreign_type_name(found.type);
      measure_rotary(oracle_, other_, *array, config_, sine, report);
      report_.tensors.push_back(std::move(report));
    }
  }

  void compare_tensor(const TensorId& id) {
    const std::vector<QkvPart> parts = other_.parts(id);
    if (parts.empty()) {
      report_.missing.push_back(engine::tensor_name(id));
      return;
    }
    const std::optional<Matrix> reference = reference_.get(id);
    if (!reference) {
      throw engine::Error(engine::tensor_name(id), "the reference has no such tensor");
    }
    for (const QkvPart part : parts) compare_part(id, part, *reference);
  }

  void compare_part(const TensorId& id, QkvPart part, const Matrix& whole) {
    const Mapped mapped = other_.find(id, part);
    TensorReport report;
    report.name = engine::tensor_name(id);
    report.id = id;
    report.part = part;
    report.other_name = mapped.other_name;
    report.type = mapped.type;
    report.how = mapped.how;
    report.first_token = mapped.first_token;
    if (!mapped.how.empty()) {
      report_.findings.push_back(report.label() + ": stored otherwise (" + mapped.how +
                                 "), found by its values");
    }
    const bool is_part = part != QkvPart::whole;
    Matrix changed;
    if (is_part) changed = qkv_part(whole, part, config_.heads);
    if (mapped.log_probabilities) changed = log_base(whole);
    const Matrix& reference = is_part || mapped.log_probabilities ? changed : whole;
    report.figures = error_figures(mapped.matrix, reference, mapped.first_token);
    if (mapped.matrix.rows != reference.rows) {
      report_.findings.push_back(report.label() + ": only tokens " +
                                 std::to_string(mapped.first_token) + " to " +
                                 std::to_string(mapped.first_token + mapped.matrix.rows - 1));
    }
    if (is_part || mapped.matrix.rows != reference.rows) {
      report.unit = measure_part(oracle_, other_, id, part, mapped, config_.heads);
    } else {
      report.unit = oracle_.measure(other_, id, mapped.matrix, &whole);
    }
    if (id.tensor == Tensor::embed_out) {
      report_.logits = logit_figures(mapped.matrix, whole, mapped.first_token);
    }
    report_.tensors.push_back(std::move(report));
  }

  bool needs_envelope() const {
    if (options_.envelope_runs == 0) return false;
    if (report_.logits && !report_.logits->flips.empty()) return true;
    return std::any_of(report_.tensors.begin(), report_.tensors.end(),
                       [](const TensorReport& each) {
                         return each.id && each.unit && each.unit->without_bound > 0;
                       });
  }

  void use_envelope() {
    if (!needs_envelope()) return;
    EnvelopeOptions options;
    options.runs = options_.envelope_runs;
    options.isa = options_.isa;
    std::vector<Flip> none;
    std::vector<Flip>& flips = report_.logits ? report_.logits->flips : none;
    std::vector<std::array<double, 2>> logits(flips.size(), {0.0, 0.0});
    // The margins are differences of true logits, which pass by once.
    const EnvelopeWatcher watcher = [&](const TensorId& id, std::size_t run, std::size_t first,
                                        std::size_t columns, const float*, const double* truth,
                                        std::size_t stride) {
      progress(0.7 +
               0.3 * static_cast<double>(engine::execution_order(id, config_)) /
                   static_cast<double>(engine::execution_order({Tensor::embed_out}, config_)));
      if (id.tensor != Tensor::embed_out || run != 0) return;
      for (std::size_t i = 0; i < flips.size(); ++i) {
        const std::int32_t ids[] = {flips[i].reference_id, flips[i].other_id};
        for (std::size_t which = 0; which < 2; ++which) {
          const auto column = static_cast<std::size_t>(ids[which]);
          if (ids[which] < 0 || column < first || column >= first + columns) continue;
          logits[i][which] = truth[flips[i].token * stride + column - first];
        }
      }
    };
    const Envelope envelope = make_envelope(checkpoint_, team_, options_.profile,
                                            reference_.tokens(), options, &other_, watcher);
    report_.logit_error_999 = envelope.logit_error_999;
    for (std::size_t i = 0; i < flips.size(); ++i) {
      if (flips[i].other_id < 0) {
        flips[i].explained = false;
        continue;
      }
      flips[i].margin = logits[i][0] - logits[i][1];
      flips[i].exact = true;
      flips[i].explained = flips[i].margin < 2.0 * envelope.logit_error_999;
    }
    for (TensorReport& report : report_.tensors) {
      if (!report.id) continue;
      const auto found = envelope.tensors.find(*report.id);
      if (found == envelope.tensors.end()) continue;
      EnvelopeOfTensor measured = found->second;
      if (std::isnan(measured.rms_other)) measure_against(measured, report);
      report.envelope_rms = measured.rms;
      report.other_rms = measured.rms_other;
      report.verdict = judge(*report.unit, &measured);
    }
  }

  void conclude(TensorReport& report) const {
    if (report.id && report.verdict.yardstick == Yardstick::none) {
      report.verdict = judge(*report.unit, nullptr);
    }
    const ErrorFigures& figures = report.figures;
    const UnitSummary* const unit = report.unit ? &*report.unit : nullptr;
    report.fails = !report.verdict.passes;
    if (figures.not_finite > 0) {
      report.fails = true;
      report.verdict.ratio = infinity;
      report.why = std::to_string(figures.not_finite) + " values are not finite, first at " +
                   place_text(figures.first_not_finite->first, figures.first_not_finite->second);
    } else if (!report.fails) {
      return;
    } else if (report.verdict.yardstick == Yardstick::bound && unit != nullptr) {
      report.why = std::to_string(unit->over_bound) + " of " + std::to_string(unit->elements) +
                   " elements above their bound";
      if (unit->first_over) {
        report.why += ", first at " + place_text(unit->first_over->first, unit->first_over->second);
      }
    } else if (report.verdict.yardstick == Yardstick::envelope) {
      report.why = "RMS error above the envelope's";
    } else if (report.id) {
      report.why = "nothing to judge it with: no bound, and no envelope was made";
    }
  }

  void look_for_causes() {
    const bool wanted = options_.causes == Causes::always ||
                        (options_.causes == Causes::when_diverging && report_.failing() > 0);
    if (!wanted || report_.tensors.empty()) return;
    CompareOptions options = options_;
    options.progress = [this](double share) {
      if (options_.progress) options_.progress(comparing_ + (1.0 - comparing_) * share);
    };
    CauseSearch search = find_causes(other_, reference_, checkpoint_, team_, oracle_, options);
    report_.causes = std::move(search.found);
    report_.why_no_causes = std::move(search.why_not);
  }

  void check_required() {
    for (const std::string& pattern : options_.require) {
      bool known = pattern == "all";
      for (const TensorId& id : forward_tensors(config_)) {
        known = known || matches(pattern, engine::tensor_name(id));
      }
      if (!known) throw engine::Error("require", "the model has no such tensor", {}, pattern);
    }
    for (const std::string& name : report_.missing) {
      if (std::any_of(options_.require.begin(), options_.require.end(),
                      [&](const std::string& pattern) {
                        return pattern == "all" || matches(pattern, name);
                      })) {
        report_.required.push_back(name);
      }
    }
  }

  /// The reference, cut to the tokens that OTHER has too.
  class Reference : public FirstTokens {
  public:
    Reference(const TensorSource& source, std::size_t count)
        : FirstTokens(source, count), all_(source.tokens().size()) {}
    std::size_t all() const { return all_; }

  private:
    std::size_t all_;
  };

  const ForeignFile& file_;
  const ForeignSource& other_;
  Reference reference_;
  const engine::Checkpoint& checkpoint_;
  engine::Team& team_;
  const CompareOptions& options_;
  const engine::Config& config_;
  UnitOracle oracle_;
  double comparing_;  ///< share of the work that is not looking for causes
  CompareReport report_;
};

}  // namespace

std::optional<Matrix> FirstTokens::get(const TensorId& id) const {
  std::optional<Matrix> found = source_.get(id);
  if (found && found->rows > count_) {
    found->rows = count_;
    found->values.resize(count_ * found->columns);
  }
  return found;
}

std::string TensorReport::label() const {
  constexpr const char* parts[] = {"", " (q)", " (k)", " (v)"};
  return name + parts[static_cast<std::size_t>(part)];
}

std::size_t CompareReport::failing() const {
  return static_cast<std::size_t>(
      std::count_if(tensors.begin(), tensors.end(), [](const auto& each) { return each.fails; }));
}

bool CompareReport::agrees() const {
  return alignment.agrees && !tensors.empty() && failing() == 0 && required.empty();
}

CompareReport compare(const ForeignFile& file, const ForeignSource& other,
                      const TensorSource& reference, const engine::Checkpoint& checkpoint,
                      engine::Team& team, const CompareOptions& options) {
  return Comparer(file, other, reference, checkpoint, team, options).run();
}

}  // namespace neoxref::eval
