// SPDX-License-Identifier: Apache-2.0
#include "tools/eval_files.hpp"

#include <fmt/core.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

namespace neoxref::tools {
namespace {

using eval::Row;
using eval::TextScore;

std::string number(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : "";
}

template <class Sums>
std::string figures(const Sums& sums, const std::optional<eval::Interval>& interval) {
  const auto scored = static_cast<double>(sums.scored);
  std::string cuts;
  for (const std::size_t count : sums.cuts) {
    cuts += (cuts.empty() ? "" : " ") + std::to_string(count);
  }
  const auto bits = sums.nll / std::log(2.0) / static_cast<double>(sums.bytes);
  return fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
                     number(sums.nll), number(std::exp(sums.nll / scored)),
                     number(std::exp(sums.full_nll / scored)), number(sums.log_ratio()),
                     interval ? number(interval->low) : "", interval ? number(interval->high) : "",
                     interval ? std::string(eval::interval_name(interval->over)) : "",
                     number(static_cast<double>(sums.correct) / scored),
                     number(static_cast<double>(sums.agreed) / scored), number(sums.kl / scored),
                     number(bits), number(static_cast<double>(sums.after_cut) / scored), cuts,
                     number(sums.mean_slots), number(sums.mean_bytes), sums.peak_bytes,
                     sums.physical_bytes, sums.peak_resident_bytes, number(sums.seconds),
                     sums.digest);
}

constexpr const char* heading =
    "text,protocol,trigger,press,control,budget,positions,order,sinks,recent,skip_layers,"
    "press_seed,prune_after,effective_prune_after,tokens,tokens_scored,nll,perplexity,"
    "baseline_perplexity,log_ratio,log_ratio_low,log_ratio_high,interval_over,accuracy,"
    "agreement,kl,bits_per_byte,"
    "share_after_cut,cuts,mean_slots,mean_bytes,peak_bytes,physical_bytes,peak_resident_bytes,"
    "seconds,digest,never_cut\n";

std::string arm_fields(const eval::Sweep& sweep, const Row& row) {
  const engine::Press& press = row.arm.press;
  std::string layers;
  for (const std::size_t layer : press.skip_layers) {
    layers += (layers.empty() ? "" : " ") + std::to_string(layer);
  }
  return fmt::format(
      "{},{},{},{},{},{},{},{},{},{},{},{}", eval::protocol_name(sweep.layout.protocol),
      engine::trigger_name(press.trigger), row.compressed ? press.name() : "none", row.arm.control,
      row.arm.label, engine::positions_name(press.positions), engine::order_name(press.order),
      press.sinks, press.recent, layers, press.seed, press.prune_after);
}

}  // namespace

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string result = "\"";
  for (const char c : text) {
    result += c;
    if (c == '"') result += c;
  }
  return result + "\"";
}

void write_csv(const std::string& path, const ReportContext& context) {
  const eval::Sweep& sweep = context.sweep;
  OutputFile file(path);
  file.write(heading);
  for (std::size_t i = 0; i < sweep.rows.size(); ++i) {
    const Row& row = sweep.rows[i];
    const std::string arm = arm_fields(sweep, row);
    for (const TextScore& text : row.texts) {
      const std::string limit =
          text.windows.empty() ? "" : std::to_string(text.windows.front().course.prune_after);
      file.write(fmt::format("{},{},{},{},{},{},{}\n", csv_field(text.name), arm, limit,
                             text.tokens, text.scored, figures(text, std::nullopt),
                             text.never_cut));
    }
    file.write(fmt::format("all,{},,{},{},{},\n", arm, row.tokens, row.scored,
                           figures(row, row.compressed ? context.intervals[i] : std::nullopt)));
  }
  file.commit();
}

void write_per_token(const std::string& path, const eval::Sweep& sweep) {
  const bool lines = path.ends_with(".jsonl");
  OutputFile file(path);
  if (!lines) {
    file.write(
        "row,press,budget,text,window,position,token,nll,baseline_nll,kl,correct,agrees,cuts,"
        "since_cut\n");
  }
  for (std::size_t i = 0; i < sweep.rows.size(); ++i) {
    const Row& row = sweep.rows[i];
    const std::string press = row.compressed ? row.arm.press.name() : "none";
    for (const TextScore& text : row.texts) {
      std::string block;
      for (std::size_t w = 0; w < text.windows.size(); ++w) {
        const eval::WindowScore& window = text.windows[w];
        for (std::size_t k = 0; k < window.scored; ++k) {
          const eval::TokenScore& score = text.scores[window.first_token + k];
          if (!lines) {
            block += fmt::format(
                "{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", i, press, row.arm.label,
                csv_field(text.name), w, score.position, score.token, score.nll, score.full_nll,
                score.kl, score.correct ? 1 : 0, score.agrees ? 1 : 0, score.cuts, score.since_cut);
            continue;
          }
          const nlohmann::ordered_json entry{{"row", i},
                                             {"press", press},
                                             {"budget", row.arm.label},
                                             {"text", text.name},
                                             {"window", w},
                                             {"position", score.position},
                                             {"token", score.token},
                                             {"nll", score.nll},
                                             {"baseline_nll", score.full_nll},
                                             {"kl", score.kl},
                                             {"correct", score.correct},
                                             {"agrees", score.agrees},
                                             {"cuts", score.cuts},
                                             {"since_cut", score.since_cut}};
          block += entry.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
          block += '\n';
        }
      }
      file.write(block);
    }
  }
  file.commit();
}

}  // namespace neoxref::tools
