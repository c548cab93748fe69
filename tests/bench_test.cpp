// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE bench
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <set>

#include "engine/error.hpp"
#include "eval/bench_press.hpp"
#include "eval/digest.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using engine::Backend;

struct Loaded {
  Loaded() {
    tests::write_checkpoint(folder.path(), {});
    model.emplace(engine::Model::load(folder.path(), {{}, engine::built_backends().front(), 2}));
  }
  tests::TemporaryFolder folder;
  std::optional<engine::Model> model;
};

class Counting : public eval::BenchArm {
public:
  explicit Counting(double each) : each_(each) {}
  void run(bool counts) override {
    ++runs;
    if (counts) seconds_ += each_;
  }
  double seconds() const override { return seconds_; }
  int runs = 0;

private:
  double each_;
  double seconds_ = 0.0;
};

BOOST_AUTO_TEST_CASE(spread_of_odd_and_even) {
  const eval::Spread odd = eval::spread({3.0, 1.0, 2.0});
  BOOST_TEST(odd.median == 2.0);
  BOOST_TEST(odd.least == 1.0);
  BOOST_TEST(odd.most == 3.0);
  BOOST_TEST(odd.n == 3u);
  BOOST_TEST(eval::spread({4.0, 1.0, 2.0, 3.0}).median == 2.5);
}

BOOST_AUTO_TEST_CASE(everything_takes_turns) {
  std::set<std::vector<std::size_t>> orders;
  for (std::uint64_t round = 0; round < 20; ++round) {
    auto order = eval::turn_order(4, true, 1, round);
    orders.insert(order);
    std::sort(order.begin(), order.end());
    BOOST_TEST(order == (std::vector<std::size_t>{0, 1, 2, 3}), boost::test_tools::per_element());
  }
  BOOST_TEST(orders.size() > 8u);
  BOOST_TEST(eval::turn_order(3, false, 1, 7) == (std::vector<std::size_t>{0, 1, 2}),
             boost::test_tools::per_element());
  Counting slow(1.0);
  Counting fast(0.25);
  eval::BenchArm* const arms[] = {&slow, &fast};
  eval::take_turns(arms, {2, 3, 0.0, true, 1});
  BOOST_TEST(slow.runs == 5);
  BOOST_TEST(fast.runs == 5);
  // Until the fast one has its seconds too, and all get as many turns.
  Counting other(1.0);
  Counting quick(0.25);
  eval::BenchArm* const more[] = {&other, &quick};
  eval::take_turns(more, {1, 2, 2.0, true, 1});
  BOOST_TEST(quick.runs == 9);
  BOOST_TEST(other.runs == 9);
}

BOOST_FIXTURE_TEST_CASE(costs_by_hand, Loaded) {
  // 2 layers, hidden 32, 2 heads of 16, intermediate 96, vocab 61 padded to 64; float32.
  const double layers = 2.0 * (96.0 * 32 + 32.0 * 32 + 96.0 * 32 + 32.0 * 96);
  const double unembedding = 64.0 * 32;
  const eval::Cost prompt = eval::prefill_cost(model->config(), model->weights(), 10, 3);
  // Queries, dense, up and down of the last layer only for the last token; attention there too.
  const double behind = 2 * 32.0 * 32 + 2 * 96.0 * 32;
  BOOST_TEST(prompt.matrix_flops == 2.0 * 3 * (10 * layers - 9 * behind + unembedding));
  BOOST_TEST(prompt.weight_bytes == 4.0 * (layers + unembedding));
  BOOST_TEST(prompt.attention_flops == 3.0 * 4 * 2 * 16 * (55 + 10));
  const eval::Cost token = eval::decode_cost(model->config(), model->weights(), 20.0, 1);
  BOOST_TEST(token.matrix_flops == 2.0 * (layers + unembedding));
  BOOST_TEST(token.cache_bytes == 20.0 * 2 * 2 * 16 * 8);
  // 5 s of weights (read), then 4 s of attention (computed).
  const eval::Cost made{20.0, 50.0, 40.0, 30.0};
  BOOST_TEST(made.least_seconds(10.0, 10.0) == 9.0);
}

BOOST_FIXTURE_TEST_CASE(arms_do_the_work_they_say, Loaded) {
  const std::size_t vocab = model->config().vocab;
  const auto ids = eval::bench_tokens(24, vocab);
  engine::Sequence sequence = model->sequence(24);
  std::vector<float> logits(24 * vocab);
  engine::Step step{&sequence, ids, engine::LogitRows::all, logits.data()};
  BOOST_REQUIRE(model->forward({&step, 1}));
  const auto digest = [&](std::size_t first, std::size_t count, std::size_t copies) {
    eval::Digest made;
    for (std::size_t i = first; i < first + count; ++i) {
      for (std::size_t copy = 0; copy < copies; ++copy) {
        made.add({logits.data() + i * vocab, vocab});
      }
    }
    return made.hex();
  };
  eval::PrefillArm prefill(*model, 20, 2);
  prefill.run(false);
  BOOST_TEST(prefill.seconds() == 0.0);
  prefill.run(true);
  prefill.run(true);
  BOOST_TEST(prefill.tokens_per_second().n == 2u);
  BOOST_TEST(prefill.digest() == digest(19, 1, 2));
  eval::DecodeArm decode(*model, 20, 3, 2);
  decode.run(true);
  BOOST_TEST(decode.digest() == digest(20, 4, 2));
  BOOST_TEST(decode.seconds() > 0.0);
  // Three tokens counted, each one region.
  const auto shares = eval::phase_shares(decode.times(), model->config());
  BOOST_TEST(decode.times().at(eval::phase_names(model->config()).size()).runs == 3u);
  double sum = 0.0;
  for (const eval::PhaseShare& share : shares) sum += share.worked + share.waited;
  BOOST_TEST(shares.size() == 4u);
  BOOST_TEST(sum == 1.0, boost::test_tools::tolerance(1e-9));
  // Nobody watches any more.
  const std::size_t runs = decode.times().begin()->second.runs;
  prefill.run(false);
  BOOST_TEST(decode.times().begin()->second.runs == runs);
}

BOOST_FIXTURE_TEST_CASE(a_clock_around_kernels_changes_nothing, Loaded) {
  eval::TimedKernels timed(model->kernels());
  BOOST_CHECK_THROW(eval::TimedKernels(model->kernels()), engine::Error);
  engine::RunOptions options{{}, engine::built_backends().front(), 2};
  options.kernels = &timed.table();
  engine::Model watched = model->share(options);
  eval::PrefillArm plain(*model, 20, 2);
  plain.run(true);
  eval::PrefillArm prefill(watched, 20, 2);
  prefill.time_kernels(timed);
  prefill.run(false);
  BOOST_TEST(prefill.kernel_times().empty());
  prefill.run(true);
  prefill.run(true);
  BOOST_TEST(prefill.digest() == plain.digest());
  BOOST_TEST(prefill.units() == 2.0);
  double flops = 0.0;
  double seconds = 0.0;
  for (const eval::KernelTime& time : prefill.kernel_times()) {
    flops += time.flops;
    seconds += time.seconds;
  }
  BOOST_TEST(seconds <= 2.0 * prefill.seconds());
  // What the cost says, but for the queries of the last layer and padded outputs.
  BOOST_TEST(flops >= 2.0 * prefill.cost().flops() * 0.95);
  BOOST_TEST(flops <= 2.0 * prefill.cost().flops() * 1.1);
}

BOOST_AUTO_TEST_CASE(what_bounds_a_row) {
  const eval::Cost made{20.0, 50.0, 40.0, 30.0};
  BOOST_TEST(made.least_seconds(10.0, 10.0) == 9.0);
  BOOST_TEST(made.computing_seconds(10.0, 10.0) == 4.0);
}

BOOST_FIXTURE_TEST_CASE(presses_on_the_same_tokens, Loaded) {
  engine::Press press;
  press.prune_after = 16;
  press.budget.keep_ratio = engine::KeepRatio::parse("0.5");
  eval::PressGroup group(*model, 10, 40,
                         {{"1", std::nullopt}, {"0.5", press}, {"0.5", press, true}}, true);
  group.run(true);
  group.run(true);
  const auto& rows = group.rows();
  BOOST_TEST(rows[0].cut_times == 0u);
  BOOST_TEST(rows[0].mean_slots == 30.5);
  BOOST_TEST(rows[0].peak_slots == 2u * 50u);
  // 17 -> 9 after 17, 25, 33, 41 and 49 tokens.
  BOOST_TEST(rows[1].cuts == (std::vector<std::size_t>{0, 5}), boost::test_tools::per_element());
  BOOST_TEST(rows[1].cut_times == 5u);
  BOOST_TEST(rows[1].cut_bytes == 5.0 * 9 * 2 * (2 * 16 * 4 + 8));
  BOOST_TEST(rows[1].digest != rows[0].digest);
  // What the naive one does beside is thrown away.
  BOOST_TEST(rows[2].digest == rows[1].digest);
  BOOST_TEST(rows[2].cuts == rows[1].cuts, boost::test_tools::per_element());
  for (const eval::PressRow& row : rows) {
    BOOST_TEST(row.first_token_seconds.size() == 2u);
    BOOST_TEST(row.bucket_seconds.size() == 2u);
  }
  // The uncompressed one is a plain run.
  const std::size_t vocab = model->config().vocab;
  const auto ids = eval::bench_tokens(50, vocab);
  engine::Sequence sequence = model->sequence(50);
  std::vector<float> logits(50 * vocab);
  engine::Step step{&sequence, ids, engine::LogitRows::all, logits.data()};
  BOOST_REQUIRE(model->forward({&step, 1}));
  eval::Digest digest;
  digest.add({logits.data() + 9 * vocab, 41 * vocab});
  BOOST_TEST(rows[0].digest == digest.hex());
}

BOOST_FIXTURE_TEST_CASE(shared_weights_give_the_same_bits, Loaded) {
  eval::PrefillArm mine(*model, 20, 1);
  mine.run(true);
  for (const simd::Isa isa : simd::usable_isas()) {
    engine::Model other = model->share({std::string(simd::isa_name(isa)), Backend::serial, 1});
    BOOST_TEST(&other.weights() == &model->weights());
    eval::PrefillArm theirs(other, 20, 1);
    theirs.run(true);
    BOOST_TEST(theirs.digest() == mine.digest());
  }
}

BOOST_FIXTURE_TEST_CASE(limits_are_measured, Loaded) {
  eval::LimitMeter meter(model->team(), 1 << 20);
  for (const simd::Isa isa : simd::usable_isas()) {
    BOOST_TEST(meter.multiply_add(isa) > 0.0);
    BOOST_TEST(meter.read(isa, 1 << 20) > 0.0);
  }
  BOOST_TEST(meter.copy(1 << 18) > 0.0);
}

BOOST_FIXTURE_TEST_CASE(a_context_too_long_is_refused, Loaded) {
  eval::PrefillArm arm(*model, 129, 1);
  BOOST_CHECK_THROW(arm.run(true), engine::Error);
}

}  // namespace
