// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "tools/eval_series.hpp"
#include "tools/plots.hpp"

namespace neoxref::tools {

/// The cells of a sweep, and how each score is drawn: the same on the whole page.
class Cells {
public:
  explicit Cells(const eval::Sweep& sweep);

  const std::vector<std::string>& scores() const { return scores_; }
  const std::vector<std::string>& labels() const { return labels_; }
  /// Uncompressed rows that have compressed ones, by index.
  const std::vector<std::size_t>& full_rows() const { return full_rows_; }
  const Stroke& stroke(const std::string& score) const;
  /// Those of an uncompressed row, and of a budget where one is given.
  std::vector<const Cell*> of(std::size_t full_row, const std::string& label = {}) const;
  /// ", prune_after 256" where that tells panels apart.
  std::string setting(std::size_t full_row) const;

private:
  const eval::Sweep& sweep_;
  std::vector<Cell> all_;
  std::vector<std::string> scores_;
  std::vector<std::string> labels_;
  std::vector<std::size_t> full_rows_;
  std::vector<Stroke> strokes_;
};

// Pieces of the page. Titles and names are plain text; texts, captions and bodies are HTML.
std::string legend_item(const Stroke& stroke, const std::string& name);
std::string legend(const std::string& items);
/// Of all scores.
std::string legend(const Cells& cells);
std::string heat_legend(const std::string& low, const std::string& high);
std::string figure(const std::string& svg, const std::string& caption);
/// maps  narrow figures, more beside each other.
std::string grid(const std::string& figures, bool maps = false);
std::string section(const std::string& id, const std::string& title, const std::string& text,
                    const std::string& body);

}  // namespace neoxref::tools
