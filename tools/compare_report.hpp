// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "eval/compare.hpp"

namespace neoxref::tools {

/// What a comparison was made of, for those who read about it later.
struct CompareContext {
  std::string golden, other, model;
  std::string command;  ///< may be empty
  double seconds = 0.0;
};

/// auto, always, never. Errors: Error for another word.
eval::Causes parse_causes(const std::string& word);

/// One line that says how it went.
std::string compare_headline(const eval::CompareReport& report);
/// For a terminal: the first diverging tensor, what else fails, logits, coverage, findings.
std::string compare_text(const eval::CompareReport& report, const CompareContext& context);
/// Everything but what there is one of for each token.
nlohmann::ordered_json compare_json(const eval::CompareReport& report,
                                    const CompareContext& context);
/// JUnit XML: a test case for the ids and for each tensor; missing ones are skipped, or fail where they
/// were required.
std::string compare_junit(const eval::CompareReport& report, const CompareContext& context);
/// One HTML page that needs nothing else.
std::string compare_page(const eval::CompareReport& report, const CompareContext& context);

struct CauseList {
  std::string title;  ///< begins in lower case
  std::vector<std::string> items;
};
/// What is known of why OTHER diverges: deviations that fit, what none of them explains, and what could not
/// have been seen. Empty where nothing was looked for.
std::vector<CauseList> cause_lists(const eval::CompareReport& report);
/// All findings with their figures, flagged or not; null where nothing was looked for.
nlohmann::ordered_json causes_json(const eval::CompareReport& report);

/// "0 to 511 of 512 tokens".
std::string token_range_text(const eval::CompareReport& report);
/// Names that differ in their layer only, as one: "gpt_neox.layers.{0-5}.mlp.act".
std::vector<std::string> grouped(const std::vector<std::string>& names);

}  // namespace neoxref::tools
