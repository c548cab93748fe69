// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "eval/sweep.hpp"
#include "tools/eval_report.hpp"

namespace neoxref::tools {

/// A field of CSV (RFC 4180).
std::string csv_field(const std::string& text);

/// One line for each text of each row, and one for the row itself (text "all").
void write_csv(const std::string& path, const ReportContext& context);

/// One line for each scored token of each row: CSV, or JSON lines where the name ends in ".jsonl".
void write_per_token(const std::string& path, const eval::Sweep& sweep);

/// What was finished of a sweep, so that it can go on after an interruption: a line that says which
/// sweep it is, then a line for each text. A last line without its end is dropped.
class Journal {
public:
  /// identity  of the sweep, any JSON. Errors: Error for a file that is no journal, or that of another
  /// sweep, or cannot be written.
  Journal(std::string path, const nlohmann::ordered_json& identity);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  std::vector<eval::TextResult> take_done() { return std::move(done_); }
  void add(const eval::TextResult& result);

private:
  void append(const std::string& line);
  std::string path_;
  int file_ = -1;
  std::vector<eval::TextResult> done_;
};

}  // namespace neoxref::tools
