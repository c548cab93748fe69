// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tools/compare_report.hpp"
#include "tools/html.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using eval::CompareReport;
using eval::TensorReport;

/// JSON has no infinity: null stands for it.
Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

Json figures_json(const eval::ErrorFigures& f) {
  Json histogram = Json::array();
  for (const std::uint64_t count : f.ulps) histogram.push_back(count);
  return {{"rows", f.rows},
          {"columns", f.columns},
          {"equal", f.equal},
          {"not_finite", f.not_finite},
          {"max_abs", number(f.max_abs)},
          {"max_abs_at", {f.max_token, f.max_channel}},
          {"expected", number(static_cast<double>(f.reference_at_max))},
          {"found", number(static_cast<double>(f.other_at_max))},
          {"rms", number(f.rms)},
          {"relative_rms", number(f.relative_rms())},
          {"cosine", number(f.cosine)},
          {"ulp_histogram", histogram}};
}

Json unit_json(const TensorReport& tensor) {
  const eval::UnitSummary& unit = *tensor.unit;
  Json inputs = Json::array();
  if (unit.unit.from_ids) inputs.push_back("input_ids");
  for (const auto& id : unit.unit.inputs) inputs.push_back(engine::tensor_name(id));
  Json first = nullptr;
  if (unit.first_over) first = {unit.first_over->first, unit.first_over->second};
  return {{"inputs", inputs},
          {"own_rms", number(unit.rms_own)},
          {"inherited_rms", number(unit.rms_inherited)},
          {"largest_own", number(unit.largest_own)},
          {"largest_ratio", number(unit.largest_ratio)},
          {"median_bound", number(unit.median_bound)},
          {"without_bound", unit.without_bound},
          {"over_bound", unit.over_bound},
          {"first_over_bound", first}};
}

Json tensor_json(const TensorReport& tensor) {
  Json result = {{"name", tensor.label()},
                 {"other_name", tensor.other_name},
                 {"dtype", tensor.type},
                 {"layout", tensor.how.empty() ? Json(nullptr) : Json(tensor.how)},
                 {"first_token", tensor.first_token},
                 {"fails", tensor.fails},
                 {"why", tensor.why.empty() ? Json(nullptr) : Json(tensor.why)},
                 {"yardstick", eval::yardstick_name(tensor.verdict.yardstick)},
                 {"ratio", number(tensor.verdict.ratio)},
                 {"error", figures_json(tensor.figures)}};
  result["unit"] = tensor.unit && tensor.id ? unit_json(tensor) : Json(nullptr);
  result["envelope_rms"] = tensor.envelope_rms ? number(*tensor.envelope_rms) : Json(nullptr);
  result["truth_rms"] = tensor.other_rms ? number(*tensor.other_rms) : Json(nullptr);
  return result;
}

Json logits_json(const eval::LogitFigures& logits, std::optional<double> error) {
  Json flips = Json::array();
  for (const eval::Flip& flip : logits.flips) {
    flips.push_back({{"token", flip.token},
                     {"expected", flip.reference_id},
                     {"found", flip.other_id},
                     {"margin", number(flip.margin)},
                     {"margin_is_exact", flip.exact},
                     {"explained", flip.explained ? Json(*flip.explained) : Json(nullptr)}});
  }
  Json quantiles = Json::object();
  for (std::size_t i = 0; i < eval::logit_quantiles.size(); ++i) {
    quantiles[fmt::format("{}", eval::logit_quantiles[i])] = number(logits.kl_quantiles[i]);
  }
  return {{"tokens", logits.tokens},
          {"kl_mean", number(logits.kl_mean)},
          {"kl_max", number(logits.kl_max)},
          {"kl_max_token", logits.kl_max_token},
          {"kl_quantiles", quantiles},
          {"top1_agreement", logits.top1},
          {"top5_agreement", logits.top5},
          {"logit_error_999", error ? number(*error) : Json(nullptr)},
          {"flips", flips}};
}

std::string test_case(const std::string& name, const std::string& inside) {
  return "    <testcase classname=\"neoxref.compare\" name=\"" + html_text(name) + "\"" +
         (inside.empty() ? "/>\n" : ">" + inside + "</testcase>\n");
}

std::string failure(const std::string& message) {
  return "<failure message=\"" + html_text(message) + "\"/>";
}

}  // namespace

Json compare_json(const CompareReport& report, const CompareContext& context) {
  const eval::Alignment& a = report.alignment;
  Json input = {{"ids_compared", a.from_ids},
                {"same", a.agrees},
                {"tokens", a.count},
                {"golden_tokens", report.golden_tokens},
                {"row", a.row},
                {"offset", a.offset}};
  if (!a.agrees) {
    input["difference"] = {{"token", a.difference},
                           {"expected", a.golden_id},
                           {"found", a.other_id ? Json(*a.other_id) : Json(nullptr)}};
  }
  Json tensors = Json::array();
  for (const TensorReport& tensor : report.tensors) tensors.push_back(tensor_json(tensor));
  Json document = {
      {"agrees", report.agrees()},
      {"summary", compare_headline(report)},
      {"golden", context.golden},
      {"other", context.other},
      {"model", context.model},
      {"profile", report.profile},
      {"format", report.format},
      {"map", report.map},
      {"input", input},
      {"first_diverging", report.first_diverging
                              ? Json(report.tensors[*report.first_diverging].label())
                              : Json(nullptr)},
      {"causes", causes_json(report)},
      {"why_no_causes", report.why_no_causes.empty() ? Json(nullptr) : Json(report.why_no_causes)},
      {"tensors", tensors},
      {"logits",
       report.logits ? logits_json(*report.logits, report.logit_error_999) : Json(nullptr)},
      {"missing", report.missing},
      {"required_missing", report.required},
      {"unknown", report.unknown},
      {"findings", report.findings},
      {"seconds", context.seconds}};
  return document;
}

std::string compare_junit(const CompareReport& report, const CompareContext& context) {
  std::string cases;
  std::size_t failures = 0, skipped = 0, tests = 1;
  const bool nothing = report.tensors.empty() || !report.alignment.agrees;
  cases += test_case("input", nothing ? failure(compare_headline(report)) : "");
  failures += nothing ? 1u : 0u;
  for (const TensorReport& tensor : report.tensors) {
    ++tests;
    failures += tensor.fails ? 1u : 0u;
    cases += test_case(tensor.label(), tensor.fails ? failure(tensor.why) : "");
  }
  for (const std::string& name : report.missing) {
    ++tests;
    const bool required =
        std::find(report.required.begin(), report.required.end(), name) != report.required.end();
    ++(required ? failures : skipped);
    cases += test_case(name, required ? failure("required, but missing")
                                      : "<skipped message=\"not in the file\"/>");
  }
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n"
      "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" "
      "time=\"{:.3f}\">\n{}  </testsuite>\n</testsuites>\n",
      html_text("neoxref compare " + context.golden + " " + context.other), tests, failures,
      skipped, context.seconds, cases);
}

}  // namespace neoxref::tools
