// SPDX-License-Identifier: Apache-2.0
#include "tools/python/golden.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "engine/error.hpp"
#include "engine/oracle.hpp"
#include "eval/golden_make.hpp"
#include "eval/golden_run.hpp"
#include "eval/known_answers.hpp"

namespace neoxref::python {
namespace {

using engine::Error;
using Press = std::optional<engine::Press>;

/// A golden and, where it is at hand, its model.
struct HeldGolden {
  eval::Golden golden;
  std::shared_ptr<LoadedModel> owner;
  std::unique_ptr<eval::GoldenSource> source;
};

std::vector<std::int32_t> ids_of(const Ids& tokens) {
  const std::span<const std::int32_t> ids = view(tokens);
  return {ids.begin(), ids.end()};
}

/// Without the batch axis that files have.
std::vector<py::ssize_t> array_shape(const eval::NamedTensor& tensor) {
  const bool batch = tensor.shape.size() > 2;
  std::vector<py::ssize_t> shape;
  for (std::size_t i = batch ? 1 : 0; i < tensor.shape.size(); ++i) {
    shape.push_back(static_cast<py::ssize_t>(tensor.shape[i]));
  }
  return shape;
}

py::array empty_array(const eval::NamedTensor& tensor) {
  if (tensor.dtype == "I32") return py::array_t<std::int32_t>(array_shape(tensor));
  return py::array_t<float>(array_shape(tensor));
}

/// One run: {name: array} of what is asked for, in the order of a golden.
py::dict tensors(const std::shared_ptr<LoadedModel>& owner, const Ids& tokens, const Press& press,
                 std::size_t prompt_tokens, const std::vector<std::string>& asked) {
  const eval::GoldenRecipe recipe{"",    "",           owner->model.config(), ids_of(tokens),
                                  press, prompt_tokens};
  const std::vector<std::string> names = eval::select_tensors(asked, owner->model.config());
  std::map<std::string, py::array> arrays;
  eval::RunRequest request;
  request.digests = false;
  for (const std::string& name : names) {
    if (eval::extra_tensor(name, owner->model.config(), recipe.tokens.size())) {
      request.extras.push_back(name);
    }
  }
  request.keep = [&](const eval::NamedTensor& tensor) -> void* {
    if (std::find(names.begin(), names.end(), tensor.name) == names.end()) return nullptr;
    const py::gil_scoped_acquire acquired;
    py::array array = empty_array(tensor);
    void* const to = array.mutable_data();
    arrays[tensor.name] = std::move(array);
    return to;
  };
  {
    const Turn turn(*owner);
    const py::gil_scoped_release released;
    eval::run_recipe(owner->model, recipe, request);
  }
  py::dict result;
  for (const std::string& name : names) result[py::str(name)] = arrays.at(name);
  return result;
}

template <class Real>
py::dict run_oracle(const LoadedModel& held, const Ids& tokens, const Press& press) {
  typename engine::Oracle<Real>::Record record;
  const std::vector<std::int32_t> ids = ids_of(tokens);
  {
    const py::gil_scoped_release released;
    engine::Oracle<Real> oracle(held.model.checkpoint());
    if (press) oracle.set_press(*press);
    for (const std::int32_t token : ids) oracle.forward(token, &record);
  }
  py::dict result;
  for (const engine::TensorId& id : eval::forward_tensors(held.model.config())) {
    const std::string name = engine::tensor_name(id);
    const std::vector<Real>& values = record.at(name);
    py::array_t<Real> array({static_cast<py::ssize_t>(ids.size()),
                             static_cast<py::ssize_t>(values.size() / ids.size())});
    std::copy(values.begin(), values.end(), array.mutable_data());
    result[py::str(name)] = array;
  }
  return result;
}

std::shared_ptr<HeldGolden> make(const std::shared_ptr<LoadedModel>& owner, const std::string& name,
                                 const Ids& tokens, const Press& press, std::size_t prompt_tokens,
                                 bool all_leaves, const std::vector<std::string>& stored,
                                 const std::string& folder) {
  std::vector<std::int32_t> ids = ids_of(tokens);
  const Turn turn(*owner);
  const py::gil_scoped_release released;
  const eval::GoldenRecipe recipe =
      eval::make_recipe(owner->model, name, std::move(ids), press, prompt_tokens);
  eval::GoldenOptions options;
  options.tool = "neoxref " NEOXREF_VERSION;
  options.all_leaves = all_leaves;
  options.stored = stored;
  options.folder = folder;
  return std::make_shared<HeldGolden>(
      HeldGolden{eval::make_golden(owner->model, recipe, options), owner, nullptr});
}

std::shared_ptr<HeldGolden> load_golden(const std::string& folder) {
  const py::gil_scoped_release released;
  return std::make_shared<HeldGolden>(HeldGolden{eval::Golden::read(folder), nullptr, nullptr});
}

/// Makes the tensors to come with this model. Errors: Error for another one.
void use_model(HeldGolden& held, const std::shared_ptr<LoadedModel>& owner) {
  if (held.owner == owner && held.source != nullptr) return;
  const Turn turn(*owner);
  const py::gil_scoped_release released;
  held.source = eval::golden_source(owner->model, held.golden);
  held.owner = owner;
}

py::array to_array(const eval::NamedTensor& tensor, const void* values) {
  py::array array = empty_array(tensor);
  std::memcpy(array.mutable_data(), values, tensor.bytes());
  return array;
}

py::array tensor(const std::shared_ptr<HeldGolden>& held, const std::string& name) {
  if (const engine::TensorView* const stored = held->golden.stored(name)) {
    return to_array({name, stored->dtype, stored->shape}, stored->bytes.data());
  }
  if (held->owner == nullptr) {
    throw Error(name, "is not stored, and to make it again takes the model",
                "Golden.tensor(name, "
                "model)",
                "no model");
  }
  use_model(*held, held->owner);
  eval::TensorValues values;
  {
    const Turn turn(*held->owner);
    const py::gil_scoped_release released;
    values = held->source->find(name);
  }
  const bool floats = values.tensor.dtype == "F32";
  return to_array(values.tensor,
                  floats ? static_cast<const void*>(values.floats.data()) : values.integers.data());
}

py::list digests(const HeldGolden& held) {
  py::list list;
  for (const eval::TensorDigest& entry : held.golden.tensors) {
    auto leaves = make_array<std::uint64_t>({entry.leaves.size()});
    std::copy(entry.leaves.begin(), entry.leaves.end(), leaves.mutable_data());
    list.append(py::make_tuple(entry.name, entry.dtype, entry.shape,
                               eval::digest_text(entry.digest), leaves));
  }
  return list;
}

/// tensors, [(name, row, rows differing, channel, expected, found)], token behind.
py::tuple verify(const std::shared_ptr<LoadedModel>& owner,
                 const std::shared_ptr<HeldGolden>& held) {
  eval::Verification result;
  {
    const Turn turn(*owner);
    const py::gil_scoped_release released;
    result = eval::verify_golden(owner->model, held->golden);
  }
  py::list differences;
  for (const eval::GoldenDifference& each : result.differences) {
    const auto value = [&](auto get) {
      return each.value ? py::object(py::cast(get(*each.value))) : py::object(py::none());
    };
    differences.append(py::make_tuple(each.name, each.row, each.rows_differing,
                                      value([](const auto& v) { return v.channel; }),
                                      value([](const auto& v) { return v.expected; }),
                                      value([](const auto& v) { return v.found; })));
  }
  return py::make_tuple(result.tensors, differences, result.token_behind);
}

/// Names of kernels that differ from the scalar ones.
std::vector<std::string> wrong_kernels(const std::shared_ptr<LoadedModel>& owner) {
  const Turn turn(*owner);
  const py::gil_scoped_release released;
  std::vector<std::string> names;
  for (const eval::KernelAnswer& kernel : eval::check_kernels(owner->model.kernels())) {
    if (!kernel.same) names.push_back(kernel.name);
  }
  return names;
}

}  // namespace

void bind_golden(py::module_& module) {
  py::class_<HeldGolden, std::shared_ptr<HeldGolden>>(module, "Golden")
      .def_property_readonly("model", [](const HeldGolden& h) { return h.golden.recipe.model; })
      .def_property_readonly("sha256", [](const HeldGolden& h) { return h.golden.recipe.sha256; })
      .def_property_readonly("tokens",
                             [](const HeldGolden& h) {
                               const auto& tokens = h.golden.recipe.tokens;
                               Ids array = make_array<std::int32_t>({tokens.size()});
                               std::copy(tokens.begin(), tokens.end(), array.mutable_data());
                               return array;
                             })
      .def_property_readonly("press",
                             [](const HeldGolden& h) {
                               const auto& press = h.golden.recipe.press;
                               return press ? press->text() : std::string();
                             })
      .def_property_readonly("folder", [](const HeldGolden& h) { return h.golden.folder.string(); })
      .def_property_readonly("digests", &digests)
      .def("use_model", &use_model)
      .def("tensor", [](const std::shared_ptr<HeldGolden>& held, const std::string& name) {
        return tensor(held, name);
      });
  module.def("tensors", &tensors);
  module.def("select_tensors", [](const LoadedModel& held, const std::vector<std::string>& asked) {
    return eval::select_tensors(asked, held.model.config());
  });
  module.def("make_golden", &make);
  module.def("load_golden", &load_golden);
  module.def("verify", &verify);
  module.def("wrong_kernels", &wrong_kernels);
  module.def("oracle", [](const std::shared_ptr<LoadedModel>& owner, const Ids& tokens,
                          const Press& press, bool in_double) {
    eval::check_tokens(view(tokens), owner->model.config());
    return in_double ? run_oracle<double>(*owner, tokens, press)
                     : run_oracle<float>(*owner, tokens, press);
  });
}

}  // namespace neoxref::python
