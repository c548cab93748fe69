// SPDX-License-Identifier: Apache-2.0
#include "engine/json.hpp"

#include <cmath>
#include <utility>
#include <vector>

#include "engine/error.hpp"

namespace neoxref::engine {
namespace {

using Json = nlohmann::json;

/// Hands everything on, but turns the parser's own complaint into an Error.
class Checked final : public JsonEvents {
public:
  Checked(JsonEvents& events, std::string_view where) : events_(events), where_(where) {}

  bool null() override { return events_.null(); }
  bool boolean(bool value) override { return events_.boolean(value); }
  bool number_integer(number_integer_t value) override { return events_.number_integer(value); }
  bool number_unsigned(number_unsigned_t value) override { return events_.number_unsigned(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    return events_.number_float(value, text);
  }
  bool string(string_t& value) override { return events_.string(value); }
  bool binary(binary_t& value) override { return events_.binary(value); }
  bool start_object(std::size_t size) override { return events_.start_object(size); }
  bool key(string_t& value) override { return events_.key(value); }
  bool end_object() override { return events_.end_object(); }
  bool start_array(std::size_t size) override { return events_.start_array(size); }
  bool end_array() override { return events_.end_array(); }

  bool parse_error(std::size_t, const std::string&, const Json::exception& problem) override {
    std::string_view text = problem.what();
    if (const auto prefix = text.find("] "); prefix != text.npos) text.remove_prefix(prefix + 2);
    // What follows repeats the input, perhaps bytes that are not UTF-8.
    text = text.substr(0, text.find("; last read"));
    text = text.substr(0, text.find("; expected"));
    throw Error(where_, "is not valid JSON", {}, text);
  }

private:
  JsonEvents& events_;
  std::string_view where_;
};

class TreeBuilder final : public JsonEvents {
public:
  TreeBuilder(std::string_view where, std::size_t max_depth)
      : where_(where), max_depth_(max_depth) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(Json(nullptr)); }
  bool boolean(bool value) override { return add(Json(value)); }
  bool number_integer(number_integer_t value) override { return add(Json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return add(Json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return add(Json(value)); }
  bool string(string_t& value) override { return add(Json(std::move(value))); }
  bool binary(binary_t& value) override { return add(Json(std::move(value))); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t, const std::string&, const Json::exception&) override {
    return false;
  }

  bool key(string_t& value) override {
    const auto [place, added] = open_.back()->emplace(value, nullptr);
    if (!added) throw Error(where_, "a key appears twice in one object", {}, value);
    slot_ = &*place;
    return true;
  }

private:
  Json& place(Json value) {
    if (open_.empty()) return root_ = std::move(value);
    if (open_.back()->is_object()) return *slot_ = std::move(value);
    open_.back()->push_back(std::move(value));
    return open_.back()->back();
  }

  bool add(Json value) {
    place(std::move(value));
    return true;
  }

  bool open(Json value) {
    if (open_.size() == max_depth_) {
      throw Error(where_, "is nested too deeply", "at most " + std::to_string(max_depth_));
    }
    open_.push_back(&place(std::move(value)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view where_;
  std::size_t max_depth_;
  Json root_;
  std::vector<Json*> open_;  // the arrays and objects not yet closed, outermost first
  Json* slot_ = nullptr;     // where the value of the last key goes
};

std::string shown(double value) {
  return Json(value).dump();
}

}  // namespace

void read_json(std::string_view text, std::string_view where, JsonEvents& events) {
  // The parser skips a byte-order mark and takes a NUL for the end of its input.
  if (text.starts_with("\xef\xbb\xbf")) {
    throw Error(where, "is not valid JSON", {}, "a byte-order mark");
  }
  if (const auto nul = text.find('\0'); nul != text.npos) {
    throw Error(where, "is not valid JSON", {}, "a NUL at byte " + std::to_string(nul));
  }
  Checked checked(events, where);
  if (!Json::sax_parse(text.begin(), text.end(), &checked)) {
    throw Error(where, "is not valid JSON");
  }
}

Json parse_json(std::string_view text, std::string_view where, std::size_t max_bytes,
                std::size_t max_depth) {
  if (text.size() > max_bytes) {
    throw Error(where, "is too large", "at most " + std::to_string(max_bytes) + " bytes",
                std::to_string(text.size()));
  }
  TreeBuilder builder(where, max_depth);
  read_json(text, where, builder);
  return builder.take();
}

std::string describe(const Json& value) {
  if (value.is_object()) return "an object of " + std::to_string(value.size()) + " fields";
  if (value.is_array()) return "an array of " + std::to_string(value.size()) + " values";
  return value.dump();
}

JsonFields::JsonFields(const Json& object, std::string where)
    : object_(&object), where_(std::move(where)) {
  if (!object.is_object()) throw Error(where_, "has the wrong type", "an object", describe(object));
}

std::string JsonFields::place(std::string_view name) const {
  return where_ + ": " + std::string(name);
}

const Json* JsonFields::take(std::string_view name) {
  known_.emplace(name);
  const auto field = object_->find(name);
  return field == object_->end() ? nullptr : &*field;
}

std::optional<std::uint64_t> JsonFields::integer(std::string_view name, std::uint64_t least,
                                                 std::uint64_t most) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_unsigned() || value->get<std::uint64_t>() < least ||
      value->get<std::uint64_t>() > most) {
    throw Error(place(name), "has a value that cannot be used",
                "a whole number from " + std::to_string(least) + " to " + std::to_string(most),
                describe(*value));
  }
  return value->get<std::uint64_t>();
}

std::optional<double> JsonFields::number(std::string_view name, double least, double most) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  const bool minus_zero = number == 0 && std::signbit(number);
  if (!(number >= least && number <= most) || minus_zero) {
    throw Error(place(name), "has a value that cannot be used",
                "a number from " + shown(least) + " to " + shown(most), describe(*value));
  }
  return number;
}

std::optional<bool> JsonFields::boolean(std::string_view name) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    throw Error(place(name), "has the wrong type", "true or false", describe(*value));
  }
  return value->get<bool>();
}

std::optional<std::string> JsonFields::text(std::string_view name) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) {
    throw Error(place(name), "has the wrong type", "a string", describe(*value));
  }
  return value->get<std::string>();
}

void JsonFields::ignore(std::initializer_list<std::string_view> names) {
  known_.insert(names.begin(), names.end());
}

void JsonFields::finish(std::string_view problem) const {
  for (const auto& [name, value] : object_->items()) {
    if (!known_.contains(name)) throw Error(place(name), problem, {}, describe(value));
  }
}

}  // namespace neoxref::engine
