// SPDX-License-Identifier: Apache-2.0
#include "tools/command_line.hpp"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>

#include "engine/error.hpp"

namespace neoxref::tools {
namespace {

std::optional<std::uint64_t> whole_number(const std::string& text) {
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [next, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || next != end) return std::nullopt;
  return number;
}

}  // namespace

void refuse(const std::string& option, const std::string& expected, const std::string& found) {
  throw UsageError(
      engine::Error(option, "not usable", expected, found.empty() ? "nothing" : found).what());
}

Option Option::type_name(const std::string& name) const {
  option_->type_name(name);
  return *this;
}

Option Option::group(const std::string& name) const {
  option_->group(name);
  return *this;
}

Option Option::required() const {
  option_->required();
  return *this;
}

Option Option::one_of(const std::vector<std::string>& values) const {
  option_->check(CLI::IsMember(values));
  return *this;
}

Option Option::check(const std::function<std::string(const std::string&)>& problem) const {
  option_->check(problem);
  return *this;
}

Option Option::with_commas() const {
  option_->delimiter(',');
  return *this;
}

Option Option::one_at_a_time() const {
  option_->allow_extra_args(false);
  return *this;
}

bool Option::given() const {
  return option_->count() > 0;
}

std::string Option::name() const {
  return option_->get_name();
}

CommandLine CommandLine::add_subcommand(const std::string& name, const std::string& description,
                                        const std::string& footer) const {
  CLI::App* const app = app_->add_subcommand(name, description);
  app->footer(footer);
  return CommandLine(*app);
}

Option CommandLine::add_option(const std::string& name, std::string& value,
                               const std::string& help) const {
  return Option(*app_->add_option(name, value, help));
}

Option CommandLine::add_option(const std::string& name, std::vector<std::string>& values,
                               const std::string& help) const {
  return Option(*app_->add_option(name, values, help));
}

Option CommandLine::add_flag(const std::string& name, bool& value, const std::string& help) const {
  return Option(*app_->add_flag(name, value, help));
}

Option CommandLine::add_function(const std::string& name,
                                 const std::function<void(const std::string&)>& read,
                                 const std::string& help) const {
  return Option(*app_->add_option_function<std::string>(name, read, help));
}

Option CommandLine::add_text(const std::string& name, std::optional<std::string>& value,
                             const std::string& type, const std::string& help) const {
  const auto read = [&value](const std::string& text) { value = text; };
  return add_function(name, read, help).type_name(type);
}

Option CommandLine::add_count(const std::string& name, std::uint64_t& value, std::uint64_t least,
                              std::uint64_t most, const std::string& help) const {
  const auto read = [&value, name, least, most](const std::string& text) {
    const auto number = whole_number(text);
    if (!number || *number < least || *number > most) {
      refuse(name, fmt::format("a whole number from {} to {}", least, most), text);
    }
    value = *number;
  };
  return add_function(name, read, help).type_name("N");
}

Option CommandLine::add_number(const std::string& name, double& value, double least, double most,
                               bool or_zero, const std::string& help) const {
  const auto read = [=, &value](const std::string& text) {
    double number = NAN;
    const char* const end = text.data() + text.size();
    const auto [next, error] = std::from_chars(text.data(), end, number);
    const bool inside = (number >= least && number <= most) || (or_zero && number == 0.0);
    if (error != std::errc{} || next != end || !inside) {
      refuse(name, fmt::format("{}a number from {} to {}", or_zero ? "0, or " : "", least, most),
             text);
    }
    value = number;
  };
  return add_function(name, read, help).type_name("X");
}

}  // namespace neoxref::tools
