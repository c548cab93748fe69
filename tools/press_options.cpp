// SPDX-License-Identifier: Apache-2.0
#include "tools/press_options.hpp"

#include <algorithm>
#include <charconv>

#include "engine/error.hpp"
#include "tools/options.hpp"

namespace neoxref::tools {
namespace {

constexpr const char* press_group = "Compression";

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (;;) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, comma - begin));
    if (comma == text.size()) return parts;
    begin = comma + 1;
  }
}

std::vector<std::size_t> parse_layers(const std::string& text) {
  std::vector<std::size_t> layers;
  if (text == "none") return layers;
  for (const std::string& part : split(text)) {
    std::uint32_t layer = 0;
    const char* const end = part.data() + part.size();
    const auto [next, error] = std::from_chars(part.data(), end, layer);
    if (error != std::errc{} || next != end) {
      throw UsageError(engine::Error("--skip-layers", "not usable",
                                     "layer numbers with commas between, such as 0,1, or none",
                                     text.empty() ? "nothing" : text)
                           .what());
    }
    layers.push_back(layer);
  }
  return layers;
}

}  // namespace

CLI::Option* add_keep_ratio(CLI::App& app, std::vector<std::string>& ratios, bool many,
                            const std::string& help) {
  const auto read = [&ratios, many](const std::string& text) {
    ratios = many ? split(text) : std::vector<std::string>{text};
    for (const std::string& ratio : ratios) {
      try {
        engine::KeepRatio::parse(ratio);
      } catch (const engine::Error&) {
        throw UsageError(engine::Error("--keep-ratio", "not usable",
                                       "a decimal number above 0 and at most 1, such as 0.9, with "
                                       "at most 9 digits behind the point",
                                       ratio.empty() ? "nothing" : ratio)
                             .what());
      }
    }
  };
  return app.add_option_function<std::string>("--keep-ratio", read, help)
      ->type_name(many ? "R,R,..." : "R")
      ->group(press_group);
}

void PressOptions::add_to(CLI::App& app, bool many) {
  add_keep_ratio(
      app, keep_ratios, many,
      many ? "Shares of the slots that a cut keeps\n(default: 1,0.9,0.5,0.1; 1 cuts nothing)"
           : "Cut the cache by key norm; R is the share of the slots\nthat a cut keeps");
  dependent_ = {
      add_count(app, "--prune-after", prune_after, 0, largest_count,
                "Cut a layer that holds more slots than this after a\ntoken has entered "
                "(default: 256)"),
      app.add_option_function<std::string>(
             "--skip-layers", [this](const std::string& text) { skip_layers = parse_layers(text); },
             "Layers that are never cut, such as 0,1, or none\n(default: 0)")
          ->type_name("N,N,..."),
      app.add_flag("--allow-no-cuts", allow_no_cuts,
                   "Exit with 0 instead of 3 when nothing was cut")};
  for (CLI::Option* option : dependent_) option->group(press_group);
}

void PressOptions::check_usage() const {
  if (!keep_ratios.empty()) return;
  for (const CLI::Option* option : dependent_) {
    if (option->count() > 0) throw UsageError(option->get_name() + ": needs --keep-ratio");
  }
}

const std::vector<std::size_t>& PressOptions::skipped(const engine::Config& config) const {
  for (const std::size_t layer : skip_layers) {
    if (layer >= config.layers) {
      throw engine::Error("--skip-layers", "no such layer",
                          "0 to " + std::to_string(config.layers - 1), std::to_string(layer));
    }
  }
  return skip_layers;
}

std::optional<engine::Press> PressOptions::make(const engine::Config& config) const {
  if (keep_ratios.empty()) return std::nullopt;
  return engine::Press{engine::KeepRatio::parse(keep_ratios.front()), prune_after, skipped(config)};
}

}  // namespace neoxref::tools
