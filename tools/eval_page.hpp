// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "eval/attention_analysis.hpp"
#include "tools/eval_report.hpp"

namespace neoxref::tools {

/// What a page says besides the sweep.
struct PageContext {
  const ReportContext& report;
  std::string command;           ///< as one types it
  std::string model;             ///< as it was named
  nlohmann::ordered_json files;  ///< of the model, see model_files_json()
  std::string gnuplot;           ///< its version
  /// Of the scores of the sweep that can be held against attention; none where there is nothing.
  std::optional<eval::Analysis> analysis{};
};

/// [{"name", "bytes", "digest"}] of config.json, tokenizer.json and the files of weights; a digest is
/// what xxh128sum prints. Errors: Error.
nlohmann::ordered_json model_files_json(const std::string& model);

/// Writes one HTML page that needs no other file. It is XML too. Errors: Error where gnuplot fails or
/// the page cannot be written; a page that was there before stays then.
void write_page(const std::string& path, const PageContext& context);

/// The sections of the page, each a <section> with an id.
std::string ratio_section(const PageContext& context);
std::string length_section(const PageContext& context);
std::string survival_section(const PageContext& context);
std::string age_section(const PageContext& context);
std::string bucket_sections(const PageContext& context);
std::string tables_section(const PageContext& context);

/// A map of layers x heads for each score: relative ALR (docs/analysis.md).
std::string alr_section(const eval::Analysis& analysis);

}  // namespace neoxref::tools
