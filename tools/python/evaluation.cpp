// SPDX-License-Identifier: Apache-2.0
#include <optional>
#include <string>
#include <tuple>

#include "engine/tokenizer.hpp"
#include "eval/statistics.hpp"
#include "eval/sweep.hpp"
#include "tools/python/bindings.hpp"

namespace neoxref::python {
namespace {

using eval::Row;
using eval::TextScore;
using eval::TokenScore;

/// Name, token ids, first token that a task asks for (0: none).
using TextParts = std::tuple<std::string, Ids, std::size_t>;
/// Label, press, schedule.
using ArmParts = std::tuple<std::string, engine::Press, std::size_t>;

eval::Text make_text(const engine::Tokenizer& tokenizer, const TextParts& parts) {
  const auto& [name, ids, target] = parts;
  eval::Text text;
  text.name = name;
  text.target = target;
  bool behind_blank = true;
  for (const std::int32_t id : view(ids)) {
    text.tokens.push_back(id);
    // A model may have more rows than its tokenizer has tokens; these stand for no text.
    const bool known = id >= 0 && static_cast<std::size_t>(id) < tokenizer.vocab_size();
    const std::string_view bytes = known ? tokenizer.bytes_of(id) : std::string_view{};
    std::uint32_t words = 0;
    for (const char c : bytes) {
      const bool blank = c == ' ' || (c >= '\t' && c <= '\r');
      if (behind_blank && !blank) ++words;
      behind_blank = blank;
    }
    text.bytes.push_back(static_cast<std::uint32_t>(bytes.size()));
    text.word_starts.push_back(words);
  }
  return text;
}

/// One member of every scored token.
template <class T, class Member>
py::array_t<T, py::array::c_style> column(const TextScore& text, Member member) {
  auto array = make_array<T>({text.scores.size()});
  T* out = array.mutable_data();
  for (const TokenScore& score : text.scores) *out++ = static_cast<T>(member(score));
  return array;
}

py::dict tokens_dict(const TextScore& text) {
  py::dict columns;
  columns["nll"] = column<float>(text, [](const TokenScore& s) { return s.nll; });
  columns["full_nll"] = column<float>(text, [](const TokenScore& s) { return s.full_nll; });
  columns["kl"] = column<double>(text, [](const TokenScore& s) { return s.kl; });
  columns["token"] = column<std::int32_t>(text, [](const TokenScore& s) { return s.token; });
  columns["position"] = column<std::int64_t>(text, [](const TokenScore& s) { return s.position; });
  columns["cuts"] = column<std::int64_t>(text, [](const TokenScore& s) { return s.cuts; });
  columns["since_cut"] =
      column<std::int64_t>(text, [](const TokenScore& s) { return s.since_cut; });
  columns["correct"] = column<bool>(text, [](const TokenScore& s) { return s.correct; });
  columns["agrees"] = column<bool>(text, [](const TokenScore& s) { return s.agrees; });
  return columns;
}

/// The sums that rows and texts have alike.
template <class Sums>
void add_sums(py::dict& dict, const Sums& sums) {
  dict["tokens"] = sums.tokens;
  dict["scored"] = sums.scored;
  dict["nll"] = sums.nll;
  dict["full_nll"] = sums.full_nll;
  dict["kl_sum"] = sums.kl;
  dict["correct"] = sums.correct;
  dict["agreed"] = sums.agreed;
  dict["after_cut"] = sums.after_cut;
  dict["bytes"] = sums.bytes;
  dict["words"] = sums.words;
  dict["cuts"] = py::tuple(py::cast(sums.cuts));
  dict["mean_slots"] = sums.mean_slots;
  dict["mean_bytes"] = sums.mean_bytes;
  dict["peak_bytes"] = sums.peak_bytes;
  dict["seconds"] = sums.seconds;
  dict["digest"] = sums.digest;
}

py::dict text_dict(const TextScore& text) {
  py::dict dict;
  add_sums(dict, text);
  dict["name"] = text.name;
  dict["before_first_cut"] = text.before_first_cut;
  dict["never_cut"] = text.never_cut;
  dict["effective_prune_after"] = text.windows.empty()
                                      ? py::object(py::none())
                                      : py::cast(text.windows.front().course.prune_after);
  dict["per_token"] = tokens_dict(text);
  return dict;
}

py::dict row_dict(const Row& row, std::size_t max_tokens) {
  py::dict dict;
  add_sums(dict, row);
  const engine::Press& press = row.arm.press;
  dict["label"] = row.arm.label;
  dict["score"] = row.compressed ? press.name() : std::string("none");
  dict["trigger"] = std::string(engine::trigger_name(press.trigger));
  dict["prune_after"] = press.prune_after;
  dict["seed"] = press.seed;
  dict["control"] = row.arm.control;
  dict["compressed"] = row.compressed;
  dict["full_row"] = row.full_row;
  dict["items_correct"] = row.items_correct();
  dict["document_perplexity"] = row.document_perplexity();
  dict["interval"] = py::none();
  if (row.compressed) {
    if (const auto interval = eval::log_ratio_interval(row.texts, max_tokens)) {
      dict["interval"] = py::make_tuple(interval->low, interval->high,
                                        std::string(eval::interval_name(interval->over)));
    }
  }
  py::list texts;
  for (const TextScore& text : row.texts) texts.append(text_dict(text));
  dict["texts"] = texts;
  return dict;
}

py::list evaluate(const std::shared_ptr<LoadedModel>& owner, const engine::Tokenizer& tokenizer,
                  const std::vector<TextParts>& texts, const std::vector<ArmParts>& arms,
                  const std::string& protocol, std::size_t max_tokens, std::size_t stride,
                  std::optional<std::int32_t> first_token, std::size_t control_seeds,
                  const py::object& progress) {
  std::vector<eval::Text> read;
  for (const TextParts& parts : texts) read.push_back(make_text(tokenizer, parts));
  std::vector<eval::Arm> all;
  for (const auto& [label, press, schedule] : arms) all.push_back({label, press, schedule, false});
  if (control_seeds > 0) all = eval::with_controls(all, control_seeds);
  eval::SweepOptions options;
  options.layout.protocol = eval::parse_protocol(protocol);
  options.layout.max_tokens = max_tokens;
  options.layout.stride = stride;
  options.first_token = first_token;
  if (!progress.is_none()) {
    options.progress = [&](double share) {
      const py::gil_scoped_acquire held;
      progress(share);
    };
  }
  eval::Sweep sweep;
  {
    const Turn turn(*owner);
    const py::gil_scoped_release released;
    sweep = eval::evaluate(owner->model, read, all, options);
  }
  py::list rows;
  for (const Row& row : sweep.rows) rows.append(row_dict(row, max_tokens));
  return rows;
}

}  // namespace

void bind_evaluation(py::module_& module) {
  module.def("evaluate", &evaluate);
}

}  // namespace neoxref::python
