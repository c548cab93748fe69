// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace neoxref::engine {

/// Receives a document piece by piece (see read_json). A handler refuses a piece by throwing Error.
using JsonEvents = nlohmann::json_sax<nlohmann::json>;

/// A handler that says no to everything: a reader overrides what its format allows.
class JsonRefusal : public JsonEvents {
public:
  bool null() override { return refuse("null"); }
  bool boolean(bool value) override { return refuse(value ? "true" : "false"); }
  bool number_integer(number_integer_t) override { return refuse("a negative number"); }
  bool number_unsigned(number_unsigned_t value) override { return refuse(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return refuse(text); }
  bool string(string_t& value) override { return refuse('"' + value + '"'); }
  bool binary(binary_t&) override { return refuse("binary data"); }
  bool start_object(std::size_t) override { return refuse("an object"); }
  bool key(string_t& value) override { return refuse('"' + value + '"'); }
  bool end_object() override { return refuse("the end of an object"); }
  bool start_array(std::size_t) override { return refuse("an array"); }
  bool end_array() override { return refuse("the end of an array"); }
  /// Never called: read_json handles it.
  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::json::exception& problem) override {
    return refuse(problem.what());
  }

protected:
  /// Throws Error. found: what came, in words.
  virtual bool refuse(const std::string& found) = 0;
};

/// Reads exactly one JSON document.
/// where   names the text in errors.
/// Errors  Error for a byte-order mark, a NUL byte, a comment, bytes after the document, invalid
///         UTF-8, a lone surrogate and a number beyond binary64.
void read_json(std::string_view text, std::string_view where, JsonEvents& events);

/// Reads a document into memory.
/// max_bytes   bound of the text.
/// max_depth   bound of its nesting; 1 is an array or object of scalars.
/// Errors      as read_json, and Error for a key that appears twice in one object.
nlohmann::json parse_json(std::string_view text, std::string_view where, std::size_t max_bytes,
                          std::size_t max_depth);

/// A value in a few words, for the "found" of an error.
std::string describe(const nlohmann::json& value);

/// The fields of one JSON object, each read once with its type and range checked; finish() then
/// finds the fields that nobody asked for.
class JsonFields {
public:
  /// where   names the object in errors ("config.json").
  /// Errors  Error when `object` is none. It must outlive this view.
  JsonFields(const nlohmann::json& object, std::string where);

  /// The value of a field whatever its type; null pointer when it is absent.
  const nlohmann::json* take(std::string_view name);

  /// A whole number in [least, most], written without sign, fraction or exponent.
  std::optional<std::uint64_t> integer(std::string_view name, std::uint64_t least,
                                       std::uint64_t most);
  /// A number in [least, most], rounded to binary64; -0 is refused.
  std::optional<double> number(std::string_view name, double least, double most);
  std::optional<bool> boolean(std::string_view name);
  std::optional<std::string> text(std::string_view name);

  /// Fields that may have any value, or none.
  void ignore(std::initializer_list<std::string_view> names);
  /// Errors: Error naming the first field that was neither taken nor ignored.
  void finish(std::string_view problem) const;

  /// "where: name", for errors about one field.
  std::string place(std::string_view name) const;

private:
  const nlohmann::json* object_;
  std::string where_;
  std::set<std::string, std::less<>> known_;
};

}  // namespace neoxref::engine
