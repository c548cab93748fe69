// SPDX-License-Identifier: Apache-2.0
// Memory from the system: what it holds, and where large pages are asked for.
#define BOOST_TEST_MODULE pages
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "engine/kv_cache.hpp"
#include "engine/model.hpp"
#include "engine/pages.hpp"
#include "engine/saved_sequence.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using engine::KvCache;
using engine::PagePool;
using engine::Pages;

/// Whether large pages were asked for where `address` lies; nothing where the system does not say.
std::optional<bool> asked_for_large(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t first = 0;
    std::uintptr_t last = 0;
    char dash = 0;
    std::istringstream text(line);
    if (text >> std::hex >> first >> dash >> last && dash == '-') {
      inside = first <= wanted && wanted < last;
    } else if (inside && line.starts_with("VmFlags:")) {
      return (line + " ").find(" hg ") != std::string::npos;
    }
  }
  return std::nullopt;
}

/// Asked without the code that is tested.
bool system_has_large_pages() {
  const Pages pages(std::size_t{4} << 20, Pages::Use::whole);
  if (::madvise(pages.data(), pages.size(), MADV_HUGEPAGE) == 0 &&
      asked_for_large(pages.data()).value_or(false)) {
    return true;
  }
  std::printf("SKIP pages: this system does not say where large pages were asked for\n");
  return false;
}

}  // namespace

BOOST_AUTO_TEST_CASE(pages_are_zero_and_keep_what_is_written) {
  constexpr std::size_t bytes = (std::size_t{5} << 20) + 3;
  for (const Pages::Use use : {Pages::Use::whole, Pages::Use::sparse}) {
    Pages pages(bytes, use);
    BOOST_TEST(pages.size() == bytes);
    const auto zero = [](std::byte value) { return value == std::byte{0}; };
    BOOST_TEST(std::all_of(pages.data(), pages.data() + bytes, zero));
    pages.data()[0] = std::byte{7};
    pages.data()[bytes - 1] = std::byte{9};
    pages.prefer_large();
    std::byte* const data = pages.data();
    Pages moved(std::move(pages));
    BOOST_TEST(moved.data() == data);
    Pages assigned;
    assigned = std::move(moved);
    BOOST_TEST(assigned.data() == data);
    BOOST_TEST((assigned.data()[0] == std::byte{7}));
    BOOST_TEST((assigned.data()[bytes - 1] == std::byte{9}));
  }
  BOOST_TEST(Pages(0, Pages::Use::whole).data() == nullptr);
  BOOST_CHECK_THROW(Pages(std::size_t{1} << 60, Pages::Use::sparse), std::bad_alloc);
}

BOOST_AUTO_TEST_CASE(a_pool_gives_the_smallest_that_fits_and_never_grows) {
  constexpr std::size_t page = 4096;
  PagePool pool;
  Pages small = pool.take(page);
  Pages large = pool.take(8 * page);
  small.data()[0] = std::byte{1};
  std::byte* const first = small.data();
  std::byte* const second = large.data();
  pool.give(std::move(large));
  pool.give(std::move(small));
  Pages again = pool.take(page / 2);
  BOOST_TEST(again.data() == first);
  Pages other = pool.take(2 * page);
  BOOST_TEST(other.data() == second);
  pool.give(std::move(again));
  // Too small for this one, which takes its place.
  Pages larger = pool.take(16 * page);
  BOOST_TEST(larger.size() == 16 * page);
  pool.give(std::move(larger));
  pool.give(std::move(other));
  std::vector<Pages> all;
  for (const std::size_t size : {8 * page, 16 * page, page}) {
    all.push_back(pool.take(size));
    BOOST_TEST(all.back().size() == size);
  }
  BOOST_TEST(all[0].data() == second);
  BOOST_CHECK_THROW(pool.take(std::size_t{1} << 60), std::bad_alloc);
}

BOOST_AUTO_TEST_CASE(a_pool_lets_go_of_all_it_keeps_before_it_gives_up) {
  std::ifstream sizes("/proc/self/statm");
  std::size_t in_use = 0;
  sizes >> in_use;
  in_use *= 4096;
  if (in_use == 0 || in_use > std::size_t{1} << 40) {
    std::printf("SKIP pages: how much a process may address cannot be limited here\n");
    return;
  }
  constexpr std::size_t large = std::size_t{1} << 30;
  PagePool pool;
  rlimit before{};
  BOOST_TEST_REQUIRE(::getrlimit(RLIMIT_AS, &before) == 0);
  std::vector<Pages> three;
  for (int i = 0; i < 3; ++i) three.push_back(pool.take(large));
  for (Pages& pages : three) pool.give(std::move(pages));
  rlimit limit = before;
  limit.rlim_cur = in_use + 3 * large + large / 2;
  BOOST_TEST_REQUIRE(::setrlimit(RLIMIT_AS, &limit) == 0);
  std::optional<Pages> wide;
  BOOST_CHECK_NO_THROW(wide = pool.take(3 * large));
  BOOST_CHECK_THROW(pool.take(3 * large), std::bad_alloc);
  BOOST_TEST(::setrlimit(RLIMIT_AS, &before) == 0);
  BOOST_TEST(wide->size() == 3 * large);
}

BOOST_AUTO_TEST_CASE(a_copy_of_a_sequence_goes_back_where_its_original_came_from) {
  const auto pool = std::make_shared<PagePool>();
  std::optional<KvCache> cache(std::in_place, engine::CacheShape{1, 2, 16}, 32, 0, pool);
  std::optional<KvCache> copy = cache->fork();
  const float* const memory = copy->keys(0, 0);
  BOOST_TEST(memory != cache->keys(0, 0));
  copy.reset();
  BOOST_TEST(KvCache(cache->shape(), 32, 0, pool).keys(0, 0) == memory);
  // Moved, it goes back once.
  cache.emplace(KvCache({1, 2, 16}, 32, 0, pool));
  KvCache moved = std::move(*cache);
  cache.reset();
  BOOST_TEST(moved.keys(0, 0) != nullptr);
}

BOOST_AUTO_TEST_CASE(what_another_sequence_left_in_memory_changes_no_bit) {
  struct Case {
    std::size_t heads, head_dim, threads;
    bool press;
  };
  for (const Case& run :
       {Case{2, 16, 1, false}, Case{3, 20, 1, false}, Case{3, 20, 2, true}, Case{2, 16, 2, true}}) {
    const tests::TemporaryFolder folder;
    tests::Shape shape;
    shape.heads = run.heads;
    shape.head_dim = run.head_dim;
    shape.rotary_pct = 0.5;
    tests::write_checkpoint(folder.path(), shape);
    std::optional<engine::Press> chosen;
    if (run.press) {
      chosen.emplace();
      chosen->budget.keep_ratio = engine::KeepRatio::parse("0.5");
      chosen->prune_after = 20;
      chosen->positions = engine::Positions::rerotate;
      chosen->skip_layers = {};
    }
    const auto ids = tests::random_tokens(100, shape.vocab, 1);
    engine::RunOptions options;
    options.threads = run.threads;
    engine::Model model = engine::Model::load(folder.path(), options);
    /// Logits of the tokens from `first` on, in pieces of which some end inside a panel, some at its end.
    const auto feed = [&](engine::Sequence& sequence, std::size_t first = 0) {
      std::vector<float> logits;
      std::size_t done = 0;
      for (const std::size_t count : {37u, 1u, 10u, 1u, 1u, 14u, 36u}) {
        if (done >= first) {
          logits.resize(logits.size() + count * shape.vocab);
          engine::Step step{&sequence, std::span(ids).subspan(done, count), engine::LogitRows::all,
                            logits.data() + logits.size() - count * shape.vocab};
          BOOST_TEST_REQUIRE(model.forward({&step, 1}));
        }
        done += count;
      }
      BOOST_TEST_REQUIRE(done == ids.size());
      return logits;
    };
    /// The next sequence lies there, if it is no larger.
    const auto poison = [&] {
      engine::Sequence before = model.sequence(ids.size(), chosen);
      std::fill_n(before.cache.keys(0, 0), before.cache.physical_bytes() / sizeof(float),
                  std::numeric_limits<float>::quiet_NaN());
      return before.cache.keys(0, 0);
    };
    const auto all_finite = [&](const engine::Sequence& sequence) {
      const auto finite = [](float x) { return std::isfinite(x); };
      const engine::KvCache& cache = sequence.cache;
      bool all = true;
      for (std::size_t layer = 0; layer < shape.layers; ++layer) {
        for (std::size_t head = 0; head < shape.heads; ++head) {
          const std::size_t slots = cache.length(layer, head);
          const float* const key = cache.keys(layer, head);
          const float* const value = cache.values(layer, head);
          const std::size_t keys = simd::round_up(slots, simd::lanes) * shape.head_dim;
          all = all && std::all_of(key, key + keys, finite) &&
                std::all_of(value, value + slots * cache.value_stride(), finite);
        }
      }
      return all;
    };
    engine::Sequence fresh = model.sequence(ids.size(), chosen);
    const std::vector<float> expected = feed(fresh);
    const float* memory = poison();
    engine::Sequence after = model.sequence(ids.size(), chosen);
    BOOST_TEST_REQUIRE(after.cache.keys(0, 0) == memory);
    const std::vector<float> found = feed(after);
    BOOST_TEST(std::equal(expected.begin(), expected.end(), found.begin(), tests::same_bits));
    BOOST_TEST(all_finite(after));

    engine::Sequence begun = model.sequence(ids.size(), chosen);
    engine::Step step{&begun, std::span(ids).first(37), engine::LogitRows::none, nullptr};
    BOOST_TEST_REQUIRE(model.forward({&step, 1}));
    const auto saved = engine::save_sequence(model, begun);
    memory = poison();
    engine::Sequence loaded =
        engine::load_sequence(model, std::as_bytes(std::span(saved)), "saved", ids.size(), chosen);
    BOOST_TEST_REQUIRE(loaded.cache.keys(0, 0) == memory);
    BOOST_TEST(all_finite(loaded));
    const std::vector<float> rest = feed(loaded, 37);
    BOOST_TEST(
        std::equal(rest.begin(), rest.end(), expected.end() - std::ssize(rest), tests::same_bits));
  }
}

BOOST_AUTO_TEST_CASE(weights_ask_for_large_pages) {
  if (!system_has_large_pages()) return;
  const tests::TemporaryFolder folder;
  tests::write_checkpoint(folder.path(), {});
  const auto team = engine::Team::create(engine::Backend::serial, 1);
  const auto weights = engine::Weights::pack(engine::Checkpoint::open(folder.path()), *team);
  BOOST_TEST(asked_for_large(weights.embed_out.packed).value());
  BOOST_TEST(asked_for_large(weights.layers[0].query_key_value.packed).value());
}

BOOST_AUTO_TEST_CASE(a_cache_that_fills_at_once_asks_for_large_pages) {
  if (!system_has_large_pages()) return;
  const engine::CacheShape shape{2, 4, 64};
  for (const auto& [slots, large] : {std::pair{767u, false}, {768u, true}, {1024u, true}}) {
    KvCache cache(shape, 1024);
    cache.expect(slots);
    BOOST_TEST(asked_for_large(cache.keys(0, 0)).value() == large);
    for (std::size_t head = 0; head < 4; ++head) {
      cache.set_length(0, head, slots);
      cache.set_length(1, head, slots);
    }
    const KvCache fork = cache.fork();
    BOOST_TEST(asked_for_large(fork.keys(0, 0)).value() == large);
  }
  KvCache uneven(shape, 1024);
  for (std::size_t head = 0; head < 4; ++head) uneven.set_length(0, head, 1024);
  const KvCache fork = uneven.fork();
  BOOST_TEST(!asked_for_large(fork.keys(0, 0)).value());
}

BOOST_AUTO_TEST_CASE(a_prompt_asks_for_them_and_a_press_or_a_short_one_does_not) {
  if (!system_has_large_pages()) return;
  const tests::TemporaryFolder folder;
  tests::Shape shape;
  shape.max_positions = 512;
  tests::write_checkpoint(folder.path(), shape);
  engine::Press press;
  press.budget.keep_ratio = engine::KeepRatio::parse("0.5");
  press.prune_after = 32;
  struct Case {
    std::size_t tokens;
    std::optional<engine::Press> press;
    bool large;
  };
  for (const auto& [tokens, chosen, large] :
       {Case{400, {}, true}, Case{100, {}, false}, Case{400, press, false}}) {
    // A model of its own: another would give it the memory of the sequence before.
    engine::Model model = engine::Model::load(folder.path(), {"", engine::Backend::serial, 1});
    engine::Sequence sequence = model.sequence(512, chosen);
    const auto ids = tests::random_tokens(tokens, shape.vocab, 1);
    std::vector<float> logits(shape.vocab);
    engine::Step step{&sequence, ids, engine::LogitRows::last, logits.data()};
    BOOST_TEST_REQUIRE(model.forward({&step, 1}));
    BOOST_TEST(asked_for_large(sequence.cache.keys(1, 0)).value() == large);
  }
}
