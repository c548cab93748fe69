// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/json.hpp"
#include "eval/contract.hpp"

/// The conformance kit: questions about every rule of docs/contract.md with the answers of the oracle
/// and of the scalar definitions, as text that needs none of our code (docs/conformance.md).
namespace neoxref::eval {

/// From one rule to a whole run; the names are those of the kit.
inline constexpr std::string_view conformance_levels[] = {"operation", "layer", "model",
                                                          "generation"};

/// A question. Numbers with bits are text: each binary32 8 hexadecimal digits, each binary64 16, with
/// blanks between them.
struct ConformanceCase {
  std::string id;  ///< "dot/65", each once in a kit
  std::string level;
  std::string operation;
  nlohmann::ordered_json input;
  nlohmann::ordered_json expected;
};
using ConformanceKit = std::vector<ConformanceCase>;

/// Writes the models of the kit as folders below `folder` (which must exist, and have none of them)
/// and returns the questions about them and about each operation, the same on every machine.
ConformanceKit make_conformance_kit(const std::filesystem::path& folder);

/// The kit as JSON lines: a line that says what it is, then one for each case.
std::string conformance_text(const ConformanceKit& kit);
/// Errors: Error naming the line for what conformance_text has not written, and for another contract.
ConformanceKit parse_conformance_kit(std::string_view text, std::string_view where);

/// The first answer that is not the expected one, and where in it.
struct ConformanceFailure {
  const ConformanceCase* question;
  std::string place;     ///< "logits[3], number 17"
  std::string expected;  ///< that number, or a piece of text
  std::string found;     ///< "no answer" where there is none
};

struct ConformanceGrade {
  std::string level;
  std::size_t passed = 0;
  std::size_t failed = 0;  ///< with another answer
  std::size_t missing = 0;
  std::optional<ConformanceFailure> first;
};

/// Grades answers: JSON lines {"id", "output"} behind a line that names format and contract.
/// levels  those asked for; cases of others are neither graded nor missed.
/// Returns one grade for each, in their order; failures point into kit.
/// Errors  Error naming the line for text that is no answers file, an id that the kit has not, or has
///         got an answer before, and another contract.
std::vector<ConformanceGrade> grade_conformance(const ConformanceKit& kit, std::string_view answers,
                                                std::string_view where,
                                                std::span<const std::string> levels);

}  // namespace neoxref::eval
