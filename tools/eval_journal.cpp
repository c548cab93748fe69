// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/error.hpp"
#include "eval/accounts.hpp"
#include "tools/eval_files.hpp"

namespace neoxref::tools {
namespace {

using Json = nlohmann::ordered_json;
using eval::TextScore;
using eval::WindowScore;

constexpr const char* kind = "neoxref eval journal 1";

Json window_json(const WindowScore& window) {
  Json log = Json::array();
  for (const engine::Cut& cut : window.log) {
    log.push_back({cut.layer, cut.position, cut.before, cut.after, cut.protection_won});
  }
  return {
      {"window", {window.window.begin, window.window.tokens, window.window.first_scored}},
      {"course", {window.course.untouched, window.course.first_scored, window.course.prune_after}},
      {"first_token", window.first_token},
      {"scored", window.scored},
      {"log", std::move(log)},
      {"lengths", window.lengths}};
}

WindowScore window_of(const Json& json) {
  WindowScore window;
  window.window = {json.at("window").at(0), json.at("window").at(1), json.at("window").at(2)};
  window.course = {json.at("course").at(0), json.at("course").at(1), json.at("course").at(2)};
  window.first_token = json.at("first_token");
  window.scored = json.at("scored");
  for (const Json& cut : json.at("log")) {
    window.log.push_back({cut.at(0), cut.at(1), cut.at(2), cut.at(3), cut.at(4), {}});
  }
  json.at("lengths").get_to(window.lengths);
  return window;
}

/// Every number of a text but those that follow from its tokens.
template <class Score, class Visit>
void visit_numbers(Score& score, Visit visit) {
  visit("tokens", score.tokens);
  visit("scored", score.scored);
  visit("nll", score.nll);
  visit("full_nll", score.full_nll);
  visit("kl", score.kl);
  visit("correct", score.correct);
  visit("agreed", score.agreed);
  visit("after_cut", score.after_cut);
  visit("before_first_cut", score.before_first_cut);
  visit("bytes", score.bytes);
  visit("words", score.words);
  visit("peak_slots", score.peak_slots);
  visit("mean_slots", score.mean_slots);
  visit("mean_bytes", score.mean_bytes);
  visit("peak_bytes", score.peak_bytes);
  visit("physical_bytes", score.physical_bytes);
  visit("mean_resident_bytes", score.mean_resident_bytes);
  visit("peak_resident_bytes", score.peak_resident_bytes);
  visit("seconds", score.seconds);
}

Json text_json(const TextScore& text) {
  Json json{{"name", text.name},
            {"cuts", text.cuts},
            {"never_cut", text.never_cut},
            {"digest", text.digest}};
  visit_numbers(text, [&](const char* name, const auto& value) { json[name] = value; });
  Json windows = Json::array();
  for (const WindowScore& window : text.windows) windows.push_back(window_json(window));
  json["windows"] = std::move(windows);
  Json nll = Json::array();
  Json full = Json::array();
  Json kl = Json::array();
  Json tokens = Json::array();
  std::string flags;
  for (const eval::TokenScore& score : text.scores) {
    nll.push_back(score.nll);
    full.push_back(score.full_nll);
    kl.push_back(score.kl);
    tokens.push_back(score.token);
    flags += static_cast<char>('0' + (score.correct ? 1 : 0) + (score.agrees ? 2 : 0));
  }
  json["token_nll"] = std::move(nll);
  json["token_full_nll"] = std::move(full);
  json["token_kl"] = std::move(kl);
  json["token_ids"] = std::move(tokens);
  json["token_flags"] = flags;
  return json;
}

TextScore text_of(const Json& json) {
  TextScore text;
  text.name = json.at("name");
  json.at("cuts").get_to(text.cuts);
  text.never_cut = json.at("never_cut");
  text.digest = json.at("digest");
  visit_numbers(text, [&](const char* name, auto& value) { json.at(name).get_to(value); });
  const std::string flags = json.at("token_flags");
  text.scores.resize(text.scored);
  for (std::size_t i = 0; i < text.scored; ++i) {
    eval::TokenScore& score = text.scores[i];
    score.nll = json.at("token_nll").at(i);
    score.full_nll = json.at("token_full_nll").at(i);
    score.kl = json.at("token_kl").at(i);
    score.token = json.at("token_ids").at(i);
    const int flag = flags.at(i) - '0';
    score.correct = (flag & 1) != 0;
    score.agrees = (flag & 2) != 0;
  }
  for (const Json& entry : json.at("windows")) {
    text.windows.push_back(window_of(entry));
    const WindowScore& window = text.windows.back();
    if (window.first_token + window.scored > text.scores.size()) throw std::out_of_range("windows");
    for (std::size_t i = 0; i < window.scored; ++i) {
      text.scores[window.first_token + i].position =
          static_cast<std::uint32_t>(window.course.first_scored + i);
    }
    eval::date_scores(window, text.scores.data() + window.first_token);
  }
  return text;
}

Json result_json(const eval::TextResult& result) {
  Json rows = Json::array();
  for (const TextScore& text : result.rows) rows.push_back(text_json(text));
  Json survival = Json::array();
  for (const eval::Survival& one : result.survival) {
    Json drops = Json::array();
    for (const eval::DropAges& ages : one.drops) {
      drops.push_back({ages.dropped, ages.sum, ages.youngest, ages.oldest});
    }
    survival.push_back({one.layers, one.heads, one.positions, one.held, one.entered,
                        one.held_by_age, one.dropped_by_age, std::move(drops)});
  }
  return {{"rows", std::move(rows)},
          {"digest_states", result.digest_states},
          {"survival", std::move(survival)}};
}

eval::TextResult result_of(const Json& json) {
  eval::TextResult result;
  for (const Json& row : json.at("rows")) result.rows.push_back(text_of(row));
  json.at("digest_states").get_to(result.digest_states);
  for (const Json& one : json.at("survival")) {
    eval::Survival survival;
    survival.layers = one.at(0);
    survival.heads = one.at(1);
    survival.positions = one.at(2);
    one.at(3).get_to(survival.held);
    one.at(4).get_to(survival.entered);
    one.at(5).get_to(survival.held_by_age);
    one.at(6).get_to(survival.dropped_by_age);
    for (const Json& ages : one.at(7)) {
      survival.drops.push_back({ages.at(0), ages.at(1), ages.at(2), ages.at(3)});
    }
    result.survival.push_back(std::move(survival));
  }
  return result;
}

}  // namespace

Journal::Journal(std::string path, const Json& identity) : path_(std::move(path)) {
  const auto fail = [&](const char* problem) {
    throw engine::Error(path_, problem, "", std::strerror(errno));
  };
  file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND, 0666);
  if (file_ < 0) fail("cannot be opened");
  const Json first{{"kind", kind}, {"sweep", identity}};
  std::string text;
  try {
    struct stat status {};
    if (fstat(file_, &status) != 0) fail("cannot be read");
    if (status.st_size > 0 || !S_ISREG(status.st_mode)) text = read_file(path_);
    const std::size_t end = text.rfind('\n');
    const std::size_t whole = end == std::string::npos ? 0 : end + 1;
    if (whole == 0 && !text.empty() && !first.dump().starts_with(text)) {
      throw engine::Error(path_, "is not a journal of eval");
    }
    std::size_t line = 0;
    for (std::size_t begin = 0; begin < whole; ++line) {
      const std::size_t stop = text.find('\n', begin);
      const Json json = Json::parse(text.substr(begin, stop - begin), nullptr, false);
      begin = stop + 1;
      if (line == 0 && (!json.is_object() || json.value("kind", "") != kind)) {
        throw engine::Error(path_, "is not a journal of eval");
      }
      if (line == 0 && json != first) {
        throw engine::Error(path_, "is the journal of another sweep",
                            "the same model, texts and settings", "");
      }
      if (line == 0) continue;
      try {
        done_.push_back(result_of(json));
      } catch (const std::exception&) {
        throw engine::Error(path_ + ": line " + std::to_string(line + 1), "is not usable");
      }
    }
    if (ftruncate(file_, static_cast<off_t>(whole)) != 0) fail("cannot be written");
    if (whole == 0) append(first.dump());
  } catch (...) {
    close(file_);
    throw;
  }
}

Journal::~Journal() {
  close(file_);
}

void Journal::append(const std::string& line) {
  const std::string with_end = line + "\n";
  std::string_view bytes = with_end;
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      throw engine::Error(path_, "cannot be written", "", std::strerror(errno));
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

void Journal::add(const eval::TextResult& result) {
  append(result_json(result).dump());
}

}  // namespace neoxref::tools
