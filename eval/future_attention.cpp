// SPDX-License-Identifier: Apache-2.0
#include "eval/future_attention.hpp"

#include <algorithm>
#include <set>

#include "engine/error.hpp"
#include "eval/plan.hpp"

namespace neoxref::eval {
namespace {

constexpr const char* future_attention = "future-attention";

}  // namespace

void ScoreMaker::score(const engine::LayerSlots&, std::span<float>) const {
  throw engine::Error("score " + name(), "has not seen the text",
                      "a run that asks it for the score of each window", "");
}

FutureAttention::FutureAttention(const engine::CacheShape& shape, std::size_t first_query)
    : shape_(shape),
      first_query_(first_query),
      sums_(shape.layers * shape.heads * first_query, 0.0) {}

void FutureAttention::see(std::size_t layer, std::size_t head, std::size_t first_position,
                          std::size_t queries, std::size_t, const float* weights,
                          std::size_t weights_stride) noexcept {
  double* sums = sums_.data() + (layer * shape_.heads + head) * first_query_;
  for (std::size_t i = 0; i < queries; ++i) {
    if (first_position + i < first_query_) continue;
    const float* given = weights + i * weights_stride;
    for (std::size_t slot = 0; slot < first_query_; ++slot) {
      sums[slot] += static_cast<double>(given[slot]);
    }
  }
}

std::span<const double> FutureAttention::sums(std::size_t layer, std::size_t head) const {
  return {sums_.data() + (layer * shape_.heads + head) * first_query_, first_query_};
}

std::string FutureAttention::name() const {
  return future_attention;
}

void FutureAttention::score(const engine::LayerSlots& slots, std::span<float> scores) const {
  if (slots.slots != first_query_) {
    throw engine::Error(std::string("score ") + future_attention, "a cut at another place",
                        "one cut, of " + std::to_string(first_query_) + " slots",
                        std::to_string(slots.slots) + " slots");
  }
  for (std::size_t head = 0; head < slots.heads; ++head) {
    const std::span<const double> from = sums(slots.layer, head);
    std::transform(from.begin(), from.end(),
                   scores.begin() + static_cast<std::ptrdiff_t>(head * slots.slots),
                   [](double sum) { return static_cast<float>(sum); });
  }
}

std::string FutureReference::name() const {
  return future_attention;
}

std::shared_ptr<const engine::OwnScore> FutureReference::of(engine::Model& model,
                                                            std::span<const std::int32_t> tokens,
                                                            const engine::Press& press,
                                                            std::size_t untouched) const {
  const engine::Config& config = model.config();
  std::set<std::size_t> moments;
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    if (press.skips(layer)) continue;
    for (const PlannedCut& cut : plan(press, tokens.size(), untouched, layer)) {
      moments.insert(cut.token + 1);
    }
  }
  if (moments.size() > 1) {
    throw engine::Error(std::string("score ") + future_attention,
                        "the press cuts more than once, and after the first cut the uncompressed "
                        "run is another run",
                        "one cut, such as that of trigger after-prompt",
                        std::to_string(moments.size()) + " cuts");
  }
  // Where nothing is cut nobody asks.
  const std::size_t first_query = moments.empty() ? 0 : *moments.begin();
  auto future = std::make_shared<FutureAttention>(
      engine::CacheShape{config.layers, config.heads, config.head_dim}, first_query);
  if (moments.empty()) return future;
  engine::Sequence sequence = model.sequence(tokens.size());
  engine::Step step{&sequence, tokens, engine::LogitRows::none, nullptr};
  sequence.watcher = future.get();
  if (!model.forward({&step, 1})) {
    throw engine::Error(std::string("score ") + future_attention,
                        "the uncompressed run stopped, " + engine::describe(*step.failure));
  }
  return future;
}

}  // namespace neoxref::eval
