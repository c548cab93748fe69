// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "engine/config.hpp"
#include "engine/json.hpp"
#include "engine/press.hpp"

namespace neoxref::eval {

/// The facts of a config that a result depends on, under their names in config.json.
nlohmann::ordered_json config_facts(const engine::Config& config);
/// Errors: Error for a fact that is missing or cannot be.
engine::Config config_of_facts(const nlohmann::json& facts, const std::string& where);

/// Every field of a press. Errors: Error for a score of somebody's own.
nlohmann::ordered_json press_fields(const engine::Press& press);
/// Errors: Error for a field that is missing, unknown or cannot be.
engine::Press press_of_fields(const nlohmann::json& fields, const std::string& where);

}  // namespace neoxref::eval
