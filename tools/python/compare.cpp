// SPDX-License-Identifier: Apache-2.0
// Comparison with what another backend computed, from files or from arrays in memory.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <tuple>

#include "engine/checkpoint.hpp"
#include "engine/error.hpp"
#include "engine/mapped_file.hpp"
#include "engine/model_path.hpp"
#include "eval/compare.hpp"
#include "eval/golden.hpp"
#include "eval/golden_make.hpp"
#include "tools/compare_report.hpp"
#include "tools/python/bindings.hpp"

namespace neoxref::python {
namespace {

using engine::Error;
using Bytes = py::array_t<std::uint8_t, py::array::c_style>;

/// Name, dtype of eval/foreign.hpp, shape, bytes in C order.
using ArrayParts = std::tuple<std::string, std::string, std::vector<std::uint64_t>, Bytes>;

/// Arrays that stay alive with `parts`.
eval::ForeignFile arrays_of(const std::vector<ArrayParts>& parts) {
  eval::ForeignFile file;
  file.format = "arrays";
  for (const auto& [name, type_name, shape, bytes] : parts) {
    const auto type = eval::parse_foreign_type(type_name);
    if (!type) throw Error(name, "not of a type that is compared", {}, type_name);
    const std::span<const std::byte> view(reinterpret_cast<const std::byte*>(bytes.data()),
                                          static_cast<std::size_t>(bytes.size()));
    eval::ForeignArray array{name,  name,  *type,
                             shape, false, [view] { return eval::ForeignBytes{view, nullptr}; }};
    if (array.elements() * eval::foreign_type_bytes(*type) != view.size()) {
      throw Error(name, "has not the bytes of its shape", array.shape_text(),
                  std::to_string(view.size()) + " bytes");
    }
    file.arrays.push_back(std::move(array));
  }
  return file;
}

/// The golden of a folder, or one made here of tokens.
eval::Golden golden_of(engine::Model& model, const std::string& name, const std::string& golden,
                       const std::vector<std::int32_t>& tokens) {
  if (!golden.empty()) return eval::Golden::read(golden);
  eval::GoldenOptions options;
  options.tool = "neoxref.compare";
  return eval::make_golden(model, eval::make_recipe(model, name, tokens), options);
}

/// agrees, document (JSON), table, page, JUnit. golden or tokens, other or arrays: one of each pair.
std::tuple<bool, std::string, std::string, std::string, std::string> compare(
    std::string name, const std::string& golden_path, const Ids& tokens, const std::string& other,
    const std::vector<ArrayParts>& arrays, const std::string& rules_path,
    const std::optional<std::string>& profile, const std::vector<std::string>& require,
    std::size_t envelope_runs, const std::string& causes) {
  const std::span<const std::int32_t> ids = view(tokens);
  const std::vector<std::int32_t> token_list(ids.begin(), ids.end());
  const py::gil_scoped_release released;
  if (name.empty()) name = eval::Golden::read(golden_path).recipe.model;
  const eval::ForeignRules rules =
      rules_path.empty() ? eval::ForeignRules{}
                         : eval::parse_rules(engine::MappedFile(rules_path).text(), rules_path);
  const eval::ForeignFile file =
      other.empty() ? arrays_of(arrays) : eval::open_foreign(other, rules.raw);
  const auto folder = engine::resolve_model(name);
  engine::Model model = engine::Model::load(folder, engine::RunOptions{});
  const engine::Checkpoint checkpoint = engine::Checkpoint::open(folder);
  const eval::Golden golden = golden_of(model, name, golden_path, token_list);
  if (golden.recipe.press) {
    throw Error(golden_path, "a golden with a press has no tensors that others could be judged by",
                "one of an uncut run", golden.recipe.press->name());
  }
  const auto reference = eval::golden_source(model, golden);
  const eval::ForeignSource source(file, rules, model.config(), *reference);
  eval::CompareOptions options;
  options.profile = profile ? eval::read_profile(*profile)
                            : eval::shipped_profile(eval::fitting_profile(file, source));
  options.require = require;
  options.envelope_runs = envelope_runs;
  options.causes = tools::parse_causes(causes);
  const eval::CompareReport report =
      eval::compare(file, source, *reference, checkpoint, model.team(), options);
  const tools::CompareContext context{golden_path.empty() ? "a run of the reference" : golden_path,
                                      other.empty() ? "arrays" : other, name, "", 0.0};
  return {report.agrees(), tools::compare_json(report, context).dump(),
          tools::compare_text(report, context), tools::compare_page(report, context),
          tools::compare_junit(report, context)};
}

}  // namespace

void bind_compare(py::module_& module) {
  module.def("compare", &compare);
}

}  // namespace neoxref::python
