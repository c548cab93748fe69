// SPDX-License-Identifier: Apache-2.0
#include "eval/kernel_times.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <mutex>

#include "engine/error.hpp"

namespace neoxref::eval {
namespace {

using simd::Kernels;
using Clock = std::chrono::steady_clock;

enum Timed : std::size_t {
  product,
  product_of_few,
  attention,
  attention_of_one,
  layer_norm,
  rotate,
  store_keys,
  key_norms,
  compact_keys,
  compact_rows,
  map,
  add3,
  add,
  widen,
  max_and_sum,
  weighted_difference,
  all_finite,
  count_of_timed
};

constexpr std::array<std::string_view, count_of_timed> names = {
    "product",      "product, 1 to 4 rows",
    "attention",    "attention, one query",
    "layer_norm",   "rotate",
    "store_keys",   "key_norms",
    "compact_keys", "compact_rows",
    "map",          "add3",
    "add",          "widen",
    "max_and_sum",  "weighted_difference",
    "all_finite"};

/// Rows that a product takes with weights read once, in their order.
constexpr std::size_t few_rows = 4;

using Tally = std::array<KernelTime, count_of_timed>;

const Kernels* inner = nullptr;
std::mutex mutex;
std::deque<Tally> tallies;  ///< one for each thread that ever called; a place stays where it is

Tally& of_this_thread() {
  thread_local Tally* const mine = [] {
    const std::lock_guard lock(mutex);
    return &tallies.emplace_back();
  }();
  return *mine;
}

class Watch {
public:
  explicit Watch(Timed what, double flops = 0.0, double bytes = 0.0)
      : time_(of_this_thread()[what]) {
    ++time_.calls;
    time_.flops += flops;
    time_.bytes += bytes;
    start_ = Clock::now();
  }
  ~Watch() { time_.seconds += std::chrono::duration<double>(Clock::now() - start_).count(); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

private:
  KernelTime& time_;
  Clock::time_point start_;
};

template <Timed what, auto member, class Result, class... Arguments>
void wrap_as(Kernels& table, Result (*Kernels::*)(Arguments...) noexcept) {
  table.*member = [](Arguments... arguments) noexcept -> Result {
    const Watch watch(what);
    return (inner->*member)(arguments...);
  };
}

template <Timed what, auto member>
void wrap(Kernels& table) {
  wrap_as<what, member>(table, member);
}

void timed_product(const simd::Product& p) noexcept {
  const std::size_t unused = p.unused * (p.outputs / p.period);
  const auto weights = static_cast<double>(p.depth * (p.outputs - unused));
  const double size = p.weights.dtype == simd::Dtype::f32 ? 4.0 : 2.0;
  const Watch watch(p.rows <= few_rows ? product_of_few : product,
                    2.0 * static_cast<double>(p.rows) * weights, size * weights);
  inner->product(p);
}

void timed_attention(const simd::Attention& a) noexcept {
  const std::size_t pairs = a.queries * a.first_slots + a.queries * (a.queries - 1) / 2;
  const std::size_t slots = a.first_slots + a.queries - 1;
  const Watch watch(a.queries == 1 ? attention_of_one : attention,
                    4.0 * static_cast<double>(pairs * a.head_dim),
                    static_cast<double>(slots * (a.head_dim + a.value_stride) * sizeof(float)));
  inner->attention(a);
}

/// What a watch reads when nothing lies between its two looks.
double empty_watch_seconds() {
  constexpr int rounds = 1001;
  std::vector<double> seconds(rounds);
  for (double& each : seconds) {
    const auto start = Clock::now();
    each = std::chrono::duration<double>(Clock::now() - start).count();
  }
  std::nth_element(seconds.begin(), seconds.begin() + rounds / 2, seconds.end());
  return seconds[rounds / 2];
}

}  // namespace

KernelTime& KernelTime::operator+=(const KernelTime& other) {
  calls += other.calls;
  seconds += other.seconds;
  flops += other.flops;
  bytes += other.bytes;
  return *this;
}

TimedKernels::TimedKernels(const Kernels& table)
    : timed_(table), clock_seconds_(empty_watch_seconds()) {
  if (inner != nullptr) throw engine::Error("timed kernels", "two at a time");
  inner = &table;
  timed_.product = timed_product;
  timed_.attention = timed_attention;
  wrap<layer_norm, &Kernels::layer_norm>(timed_);
  wrap<rotate, &Kernels::rotate>(timed_);
  wrap<store_keys, &Kernels::store_keys>(timed_);
  wrap<key_norms, &Kernels::key_norms>(timed_);
  wrap<compact_keys, &Kernels::compact_keys>(timed_);
  wrap<compact_rows, &Kernels::compact_rows>(timed_);
  wrap<map, &Kernels::map>(timed_);
  wrap<add3, &Kernels::add3>(timed_);
  wrap<add, &Kernels::add>(timed_);
  wrap<widen, &Kernels::widen>(timed_);
  wrap<max_and_sum, &Kernels::max_and_sum>(timed_);
  wrap<weighted_difference, &Kernels::weighted_difference>(timed_);
  wrap<all_finite, &Kernels::all_finite>(timed_);
  take();
}

TimedKernels::~TimedKernels() {
  inner = nullptr;
}

std::vector<KernelTime> TimedKernels::take() {
  const std::lock_guard lock(mutex);
  Tally sum{};
  for (Tally& tally : tallies) {
    for (std::size_t i = 0; i < count_of_timed; ++i) sum[i] += tally[i];
    tally = {};
  }
  std::vector<KernelTime> found;
  for (std::size_t i = 0; i < count_of_timed; ++i) {
    if (sum[i].calls == 0) continue;
    sum[i].kernel = names[i];
    sum[i].seconds =
        std::max(0.0, sum[i].seconds - clock_seconds_ * static_cast<double>(sum[i].calls));
    found.push_back(sum[i]);
  }
  return found;
}

}  // namespace neoxref::eval
