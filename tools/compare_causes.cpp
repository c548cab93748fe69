// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/error.hpp"
#include "tools/compare_report.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using eval::CompareReport;
using eval::DeviationFinding;

/// JSON has no infinity: null stands for it.
Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

/// "layers 0-5, behind the last".
std::string layers_text(const std::vector<std::size_t>& layers, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < layers.size();) {
    if (layers[i] == count) {
      text += text.empty() ? "behind the last layer" : ", behind the last";
      ++i;
      continue;
    }
    std::size_t last = i;
    while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1 &&
           layers[last + 1] < count) {
      ++last;
    }
    text += text.empty() ? "layers " : ",";
    text += std::to_string(layers[i]);
    if (last > i) text += "-" + std::to_string(layers[last]);
    i = last + 1;
  }
  return text;
}

Json finding_json(const DeviationFinding& finding, std::size_t count) {
  Json layers = Json::array();
  bool behind = false;
  for (const std::size_t layer : finding.layers) {
    if (layer < count) {
      layers.push_back(layer);
    } else {
      behind = true;
    }
  }
  return {{"name", finding.name},
          {"beta", number(finding.beta)},
          {"standard_error", number(finding.standard_error)},
          {"null", number(finding.null)},
          {"power", number(finding.power)},
          {"can_be_told", finding.can_be_told},
          {"flagged", finding.flagged},
          {"layers", layers},
          {"behind_last_layer", behind},
          {"alternatives", finding.alternatives}};
}

}  // namespace

eval::Causes parse_causes(const std::string& word) {
  if (word == "auto") return eval::Causes::when_diverging;
  if (word == "always") return eval::Causes::always;
  if (word == "never") return eval::Causes::never;
  throw engine::Error("causes", "not known", "auto, always or never", word);
}

std::vector<CauseList> cause_lists(const CompareReport& report) {
  std::vector<CauseList> lists;
  if (!report.why_no_causes.empty()) {
    lists.push_back({"causes were not looked for", {report.why_no_causes}});
  }
  if (!report.causes) return lists;
  const eval::DeviationReport& causes = *report.causes;
  CauseList fitting{"causes that fit", {}};
  std::vector<std::string> hidden;
  for (const DeviationFinding& finding : causes.findings) {
    if (!finding.flagged) {
      if (!finding.can_be_told) hidden.push_back(finding.name);
      continue;
    }
    std::string line = fmt::format("{}: beta {:.4f} +- {:.1e}, null {:.1e}, power {:.3g}; {}",
                                   finding.name, finding.beta, finding.standard_error, finding.null,
                                   finding.power, layers_text(finding.layers, causes.layers));
    if (!finding.alternatives.empty()) {
      line += "; as good: " + joined(finding.alternatives);
    }
    fitting.items.push_back(std::move(line));
  }
  if (fitting.items.empty()) fitting.items.push_back("no known deviation");
  fitting.items.push_back(
      fmt::format("(looked at {} tokens, {} honest runs)", causes.tokens, causes.runs));
  lists.push_back(std::move(fitting));
  if (causes.none_explains()) {
    CauseList unexplained{"no known deviation explains", {}};
    for (const eval::UnexplainedError& error : causes.unexplained) {
      unexplained.items.push_back(fmt::format("{}: own error {:.3g} times that of honest runs",
                                              engine::tensor_name(error.tensor), error.ratio));
    }
    lists.push_back(std::move(unexplained));
  }
  if (!hidden.empty()) lists.push_back({"cannot be told here", {joined(hidden)}});
  return lists;
}

Json causes_json(const CompareReport& report) {
  if (!report.causes) return nullptr;
  const eval::DeviationReport& causes = *report.causes;
  Json findings = Json::array();
  for (const DeviationFinding& finding : causes.findings) {
    findings.push_back(finding_json(finding, causes.layers));
  }
  Json unexplained = Json::array();
  for (const eval::UnexplainedError& error : causes.unexplained) {
    unexplained.push_back(
        {{"name", engine::tensor_name(error.tensor)}, {"ratio", number(error.ratio)}});
  }
  return {{"tokens", causes.tokens},
          {"honest_runs", causes.runs},
          {"findings", findings},
          {"none_explains", causes.none_explains()},
          {"unexplained", unexplained}};
}

}  // namespace neoxref::tools
