// SPDX-License-Identifier: Apache-2.0
#include "tools/shape_options.hpp"

#include "engine/error.hpp"
#include "eval/synth.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {

Option add_shape(CommandLine app, std::string& shape) {
  std::string names;
  for (const eval::NamedShape& known : eval::named_shapes()) {
    names += names.empty() ? "" : (names.size() % 60 > 45 ? ",\n" : ", ");
    names += known.name;
  }
  return app.add_option("--shape", shape, "Extents of a published model:\n" + names)
      .type_name("NAME");
}

Option add_dtype(CommandLine app, std::string& dtype) {
  return app.add_option("--dtype", dtype, "Of the weights: f32, f16, bf16 (default: f16)")
      .type_name("NAME")
      .one_of({"f32", "f16", "bf16"});
}

engine::Config parse_shape(const std::string& name) {
  try {
    return eval::shape_config(name);
  } catch (const engine::Error& error) {
    throw UsageError(error.what());
  }
}

simd::Dtype parse_dtype(const std::string& name) {
  if (name == "f32") return simd::Dtype::f32;
  return name == "f16" ? simd::Dtype::f16 : simd::Dtype::bf16;
}

}  // namespace neoxref::tools
