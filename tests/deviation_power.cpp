// SPDX-License-Identifier: Apache-2.0
// The power table of docs/deviations.md: deviation_power MODEL TOKENS [PROFILE ...]
// Standard errors between beta 0 and 1 that honest runs of each profile leave, every tensor dumped.
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "engine/checkpoint.hpp"
#include "engine/parallel.hpp"
#include "eval/deviations.hpp"

int main(int count, char** words) try {
  using namespace neoxref;
  if (count < 3) {
    std::fputs("usage: deviation_power MODEL TOKENS [PROFILE ...]\n", stderr);
    return 2;
  }
  const auto checkpoint = engine::Checkpoint::open(words[1]);
  const auto team =
      engine::Team::create(engine::built_backends().front(), engine::available_threads());
  std::vector<std::int32_t> tokens;
  // Any tokens do; these are the same on every machine.
  for (std::uint64_t i = 0; i < std::stoull(words[2]); ++i) {
    tokens.push_back(
        static_cast<std::int32_t>((i + 1) * 2654435761u % 4294967296u % checkpoint.config().vocab));
  }
  std::vector<std::string> profiles(words + 3, words + count);
  if (profiles.empty()) {
    for (const std::string_view name : eval::shipped_profiles()) profiles.emplace_back(name);
  }
  std::map<std::string, std::map<std::string, double>> powers;
  std::vector<std::string> names;
  for (const std::string& name : profiles) {
    const eval::Profile profile = eval::read_profile(name);
    const auto runs = eval::honest_runs(checkpoint, *team, profile, tokens, nullptr, 3);
    std::vector<const eval::TensorSource*> honest;
    for (const auto& run : runs) honest.push_back(run.get());
    for (const auto& finding : eval::deviation_power(checkpoint, *team, profile, honest).findings) {
      if (name == profiles.front()) names.push_back(finding.name);
      powers[finding.name][name] = finding.power;
    }
  }
  std::printf("| deviation |");
  for (const std::string& name : profiles) std::printf(" %s |", name.c_str());
  std::printf("\n|---|");
  for (std::size_t i = 0; i < profiles.size(); ++i) std::printf("---|");
  for (const std::string& name : names) {
    std::printf("\n| %s |", name.c_str());
    for (const std::string& profile : profiles) {
      const auto found = powers[name].find(profile);
      if (found == powers[name].end()) {
        std::printf(" |");
      } else if (found->second < eval::DeviationOptions{}.least_power) {
        std::printf(" no (%.2g) |", found->second);
      } else {
        std::printf(" %.2g |", found->second);
      }
    }
  }
  std::printf("\n");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 4;
}
