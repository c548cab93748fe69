// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/parallel.hpp"
#include "eval/compare_figures.hpp"
#include "eval/deviations.hpp"
#include "eval/envelope.hpp"
#include "eval/foreign_source.hpp"
#include "eval/matrices.hpp"
#include "eval/units.hpp"
#include "eval/verdict.hpp"

namespace neoxref::eval {

/// The first tokens of another source.
class FirstTokens : public TensorSource {
public:
  FirstTokens(const TensorSource& source, std::size_t count) : source_(source), count_(count) {}
  bool has(const engine::TensorId& id) const override { return source_.has(id); }
  std::optional<Matrix> get(const engine::TensorId& id) const override;
  std::span<const std::int32_t> tokens() const override { return source_.tokens().first(count_); }

private:
  const TensorSource& source_;
  std::size_t count_;
};

/// When known deviations are looked for.
enum class Causes : std::uint8_t {
  never,
  when_diverging,  ///< a tensor fails, and the search costs no more than comparing does
  always
};

struct CompareOptions {
  Profile profile;
  std::size_t envelope_runs = 8;     ///< 0: no envelope; made only where something needs it
  std::vector<std::string> require;  ///< names, * standing for any characters; "all"
  Causes causes = Causes::when_diverging;
  std::string isa{};
  std::function<void(double)> progress{};  ///< share from 0 to 1
};

/// One tensor, or a third of query_key_value, or the rotary table.
struct TensorReport {
  std::string name;                    ///< of docs/tensors.md
  std::optional<engine::TensorId> id;  ///< nothing for the rotary table
  QkvPart part = QkvPart::whole;
  std::string other_name;  ///< in OTHER's file
  std::string type;        ///< as stored there
  std::string how;         ///< layout that was found by value; "" for the plain one
  std::size_t first_token = 0;
  ErrorFigures figures;
  std::optional<UnitSummary> unit;  ///< own error: OTHER's output against binary64 on OTHER's input
  std::optional<double> envelope_rms, other_rms;  ///< against the truth from the ids
  Verdict verdict;
  bool fails = false;
  std::string why;  ///< of a failure, one clause

  /// "gpt_neox.layers.3.attention.query_key_value (v)".
  std::string label() const;
};

struct CompareReport {
  std::string format, map, profile;
  Alignment alignment;
  std::size_t golden_tokens = 0;
  std::vector<TensorReport> tensors;           ///< in the order of execution
  std::optional<std::size_t> first_diverging;  ///< in tensors: the first that fails
  std::optional<LogitFigures> logits;
  std::optional<double> logit_error_999;  ///< of the envelope
  std::vector<std::string> missing;       ///< tensors that OTHER has not, in the order of execution
  std::vector<std::string> required;      ///< those of them that were asked for
  std::vector<std::string> unknown;       ///< arrays that no map knows
  std::vector<std::string> findings;  ///< what a reader should know of the files, one clause each

  std::optional<DeviationReport> causes;  ///< nothing: not looked for
  std::string why_no_causes;              ///< they were to be looked for, but why not, one clause

  std::size_t failing() const;
  /// Something was compared, nothing fails, the ids are the same, nothing required is missing.
  bool agrees() const;
};

/// Compares OTHER with the reference, tensor by tensor in the order of execution, holding those of one
/// unit at a time. Where the input ids differ nothing else is compared. Known deviations are looked for in
/// the first tokens, at most 128, fewer where the units are large (docs/compare.md).
/// Errors: Error as TensorSource::get, UnitOracle and make_envelope.
CompareReport compare(const ForeignFile& file, const ForeignSource& other,
                      const TensorSource& reference, const engine::Checkpoint& checkpoint,
                      engine::Team& team, const CompareOptions& options);

/// The shipped profile that goes with how OTHER's tensors are stored: f32, bf16-acc32 or f16-acc32. float32
/// files whose every value is one of bfloat16 or float16 count as such.
std::string fitting_profile(const ForeignFile& file, const ForeignSource& other);

}  // namespace neoxref::eval
