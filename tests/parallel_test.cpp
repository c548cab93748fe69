// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE parallel
#include <atomic>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "engine/error.hpp"
#include "engine/parallel.hpp"
#include "simd/float_environment.hpp"

using namespace neoxref;
using engine::Backend;
using engine::Phase;
using engine::Team;
using simd::FloatEnvironment;

namespace {

struct Work {
  std::vector<std::atomic<int>> done;  ///< times that each item ran
  std::atomic<int> out_of_order{0};
  std::atomic<int> wrong_environment{0};
  std::uint32_t items = 0;
};

void work(void* context, std::uint32_t phase, std::uint32_t item, std::size_t) noexcept {
  auto& state = *static_cast<Work*>(context);
  if (FloatEnvironment::read() != FloatEnvironment::standard) ++state.wrong_environment;
  for (std::uint32_t i = 0; phase > 0 && i < state.items; ++i) {
    if (state.done[(phase - 1) * state.items + i] != 1) ++state.out_of_order;
  }
  ++state.done[phase * state.items + item];
}

/// Flush-to-zero and denormals-are-zero on x86; flush-to-zero on Arm; round toward zero on both.
FloatEnvironment::Register hostile() {
#if defined(__x86_64__)
  return FloatEnvironment::standard | 0x8040u | 0x6000u;
#else
  return (FloatEnvironment::Register{1} << 24) | (FloatEnvironment::Register{3} << 22);
#endif
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_item_runs_once_and_phases_are_in_order) {
  for (const Backend backend : {Backend::tbb, Backend::openmp, Backend::serial}) {
    for (const std::size_t threads : {1u, 2u, 3u, 7u}) {
      const auto team = Team::create(backend, threads);
      BOOST_CHECK(team->backend() == backend);
      for (int round = 0; round < 50; ++round) {
        constexpr std::uint32_t phases = 20;
        Work state;
        state.items = 11;
        state.done = std::vector<std::atomic<int>>(phases * state.items);
        const std::vector<Phase> list(phases, Phase{state.items, work});
        FloatEnvironment::write(hostile());
        team->run(list, &state);
        const auto after = FloatEnvironment::read();
        FloatEnvironment::write(FloatEnvironment::standard);
        BOOST_REQUIRE_EQUAL(after, hostile());
        BOOST_REQUIRE_EQUAL(state.out_of_order, 0);
        BOOST_REQUIRE_EQUAL(state.wrong_environment, 0);
        for (const auto& count : state.done) BOOST_REQUIRE_EQUAL(count, 1);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_phase_without_items_is_passed) {
  const auto team = Team::create(Backend::tbb, 2);
  Work state;
  state.items = 1;
  state.done = std::vector<std::atomic<int>>(1);
  const Phase phases[] = {{1, work}, {0, nullptr}, {0, nullptr}};
  team->run(phases, &state);
  BOOST_CHECK_EQUAL(state.done[0], 1);
}

namespace {

/// Not inlined, so that it is computed where it is called and not after the next change of mode.
[[gnu::noinline]] float product(float a, float b) {
  return a * b;
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_environment_is_what_the_contract_needs) {
  const volatile float tiny = 0x1p-140f;
  FloatEnvironment::write(hostile());
  {
    const FloatEnvironment environment;
    BOOST_CHECK(product(tiny, 0.5f) == 0x1p-141f);
  }
  const bool flushed = product(tiny, 0.5f) == 0.0f;
  FloatEnvironment::write(FloatEnvironment::standard);
  BOOST_CHECK(flushed);
}

namespace {

struct Ends {
  std::vector<std::vector<std::uint32_t>> order;  ///< items of each participant, as it did them
  std::atomic<std::size_t> turned_up{0};
};

/// The first item of a participant waits until another has one too, or half a minute.
void note_end(void* context, std::uint32_t, std::uint32_t item, std::size_t participant) noexcept {
  auto& state = *static_cast<Ends*>(context);
  state.order[participant].push_back(item);
  if (state.order[participant].size() > 1) return;
  ++state.turned_up;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (state.turned_up < state.order.size() && std::chrono::steady_clock::now() < end) {
    std::this_thread::yield();
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(participants_claim_from_both_ends) {
  const auto team = Team::create(Backend::openmp, 2);
  for (const std::uint32_t items : {2u, 3u, 40u}) {
    Ends state;
    state.order.resize(2);
    for (auto& order : state.order) order.reserve(items);
    const Phase phase{items, note_end};
    team->run({&phase, 1}, &state);
    const std::vector<std::uint32_t>& front = state.order[0];
    const std::vector<std::uint32_t>& back = state.order[1];
    BOOST_TEST_REQUIRE(front.size() + back.size() == items);
    BOOST_TEST(!front.empty());
    BOOST_TEST(!back.empty());
    for (std::uint32_t i = 0; i < front.size(); ++i) BOOST_TEST(front[i] == i);
    for (std::uint32_t i = 0; i < back.size(); ++i) BOOST_TEST(back[i] == items - 1 - i);
  }
}

BOOST_AUTO_TEST_CASE(names_and_numbers_are_checked) {
  BOOST_CHECK(engine::parse_backend("openmp") == Backend::openmp);
  BOOST_CHECK_THROW(engine::parse_backend("OpenMP"), engine::Error);
  BOOST_CHECK_THROW(Team::create(Backend::tbb, 0), engine::Error);
  BOOST_CHECK_THROW(Team::create(Backend::openmp, 1000000), engine::Error);
  BOOST_CHECK_GE(engine::available_threads(), 1u);
}
