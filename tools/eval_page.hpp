// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "tools/eval_report.hpp"

namespace neoxref::tools {

/// What a page says besides the sweep.
struct PageContext {
  const ReportContext& report;
  std::string command;           ///< as one types it
  std::string model;             ///< as it was named
  nlohmann::ordered_json files;  ///< of the model, see model_files_json()
  std::string gnuplot;           ///< its version
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

/// A map of attention loss by norm. values  [layers][heads]; tokens  what was looked at, for the
/// caption.
std::string alr_section(const std::vector<double>& values, std::size_t layers, std::size_t heads,
                        const std::string& tokens);

}  // namespace neoxref::tools
