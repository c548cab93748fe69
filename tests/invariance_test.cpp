// SPDX-License-Identifier: Apache-2.0
// The same bits whatever computes them: threads, backends, instruction sets, chunks, company in a
// batch, storage, room in the cache. Each axis in full against one base point, then a pairwise cover of all of them.
// With NEOXREF_SLOW_MACHINE set (emulators, sanitizers) fewer tokens and one point an axis are used,
// and that is printed.
#define BOOST_TEST_MODULE invariance
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/model.hpp"
#include "engine/tokenizer.hpp"
#include "eval/digest.hpp"
#include "simd/float_environment.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;
using engine::Backend;
using engine::LogitRows;
using engine::Model;
using engine::Sequence;
using engine::Step;

constexpr std::size_t few_tokens = 64;
constexpr std::size_t spares[] = {0, 1, 16, 100, 5000};

struct Point {
  std::string isa;
  Backend backend = Backend::tbb;
  std::size_t threads = 2;
  std::size_t chunk = 0;    ///< 0: the whole prompt
  std::size_t company = 0;  ///< 0: alone; else the place in a batch of three, 1 to 3
  bool widened = false;
  std::size_t spare = 0;  ///< slots of the cache beyond those that the tokens need

  std::string text() const {
    return isa + " " + std::string(engine::backend_name(backend)) + " x " +
           std::to_string(threads) + ", chunks of " + std::to_string(chunk) + ", batch place " +
           std::to_string(company) + (widened ? ", float32 file" : "") + ", spare slots " +
           std::to_string(spare);
  }
};

bool slow_machine() {
  return std::getenv("NEOXREF_SLOW_MACHINE") != nullptr;
}

/// Models stay loaded: loading is most of a run on few tokens.
class Subject {
public:
  Subject(std::filesystem::path narrow, std::filesystem::path wide,
          std::vector<std::int32_t> tokens, std::optional<engine::Press> press = {})
      : narrow_(std::move(narrow)),
        wide_(std::move(wide)),
        tokens_(std::move(tokens)),
        press_(std::move(press)) {
    if (slow_machine()) tokens_.resize(std::min(tokens_.size(), few_tokens));
    base_.isa = std::string(simd::isa_name(simd::usable_isas().back()));
    expected_ = digest(base_, tokens_.size());
    expected_few_ = tokens_.size() == few_tokens ? expected_ : digest(base_, few_tokens);
  }

  void check(const Point& point) {
    const bool few = point.isa == "scalar";
    const std::string found = digest(point, few ? few_tokens : tokens_.size());
    BOOST_CHECK_MESSAGE(found == (few ? expected_few_ : expected_),
                        point.text() << ": other bits: " << found);
    ++checked_;
  }

  void check_base() { check(base_); }

  /// One point off the base on each axis.
  void check_some() {
    check(with([](Point& p) { p.isa = "scalar"; }));
    check(with([](Point& p) { p.backend = Backend::serial, p.threads = 1; }));
    check(with([](Point& p) { p.backend = Backend::openmp, p.threads = 3; }));
    check(with([](Point& p) { p.chunk = 7; }));
    check(with([](Point& p) { p.company = 2; }));
    check(with([](Point& p) { p.widened = true; }));
    check(with([](Point& p) { p.spare = 1000; }));
  }

  void check_all() {
    if (slow_machine()) return check_some();
    for (const simd::Isa isa : simd::usable_isas()) {
      check(with([&](Point& p) { p.isa = simd::isa_name(isa); }));
    }
    for (const Backend backend : {Backend::tbb, Backend::openmp, Backend::serial}) {
      for (const std::size_t threads : {1u, 2u, 3u, 7u}) {
        if (backend == Backend::serial && threads > 1) continue;
        check(with([&](Point& p) {
          p.backend = backend;
          p.threads = threads;
        }));
      }
    }
    for (const std::size_t chunk : {1u, 7u, 64u, 256u}) {
      check(with([&](Point& p) { p.chunk = chunk; }));
    }
    for (const std::size_t place : {1u, 2u, 3u}) {
      check(with([&](Point& p) { p.company = place; }));
    }
    check(with([](Point& p) { p.widened = true; }));
    for (const std::size_t spare : spares) {
      check(with([&](Point& p) { p.spare = spare; }));
    }
    for (const Point& point : pairwise()) check(point);
    BOOST_CHECK_GE(checked_, 30u);
  }

  const std::string& few_digest() const { return expected_few_; }
  const std::string& whole_digest() const { return expected_; }
  std::size_t tokens() const { return tokens_.size(); }

private:
  template <class Change>
  Point with(Change change) const {
    Point point = base_;
    change(point);
    return point;
  }

  /// Every pair of values of two axes stands together in at least one point.
  static std::vector<Point> pairwise() {
    std::vector<std::string> isas;
    for (const simd::Isa isa : simd::usable_isas()) isas.emplace_back(simd::isa_name(isa));
    const std::pair<Backend, std::size_t> pools[] = {{Backend::serial, 1},
                                                     {Backend::tbb, 3},
                                                     {Backend::openmp, 2},
                                                     {Backend::tbb, 7},
                                                     {Backend::openmp, 7}};
    const std::size_t chunks[] = {0, 1, 7, 64, 256};
    // Five is prime, so i, j and i + j, i + 2j run through all pairs of five values.
    std::vector<Point> points;
    for (std::size_t i = 0; i < 5; ++i) {
      for (std::size_t j = 0; j < 5; ++j) {
        Point point;
        point.backend = pools[i].first;
        point.threads = pools[i].second;
        point.chunk = chunks[j];
        point.isa = isas[(i + j) % 5 % isas.size()];
        point.company = (i + 2 * j) % 5 % 4;
        point.widened = (i + 3 * j) % 5 % 2 == 1;
        point.spare = spares[(i + 4 * j) % 5];
        points.push_back(point);
      }
    }
    return points;
  }

  Model& model(const Point& point) {
    const std::string key = point.isa + std::string(engine::backend_name(point.backend)) +
                            std::to_string(point.threads) + (point.widened ? "w" : "n");
    // One pool at a time: two of them would fight for the cores.
    if (key != loaded_) {
      model_.reset();
      model_ = std::make_unique<Model>(
          Model::load(point.widened ? wide_ : narrow_, {point.isa, point.backend, point.threads}));
      loaded_ = key;
    }
    BOOST_REQUIRE_EQUAL(model_->kernels().name, point.isa);
    return *model_;
  }

  std::string digest(const Point& point, std::size_t count) {
    Model& on = model(point);
    const std::size_t vocab = on.config().vocab;
    std::vector<float> logits(count * vocab);
    Sequence sequence = on.sequence(count + point.spare, press_);
    std::vector<std::vector<std::int32_t>> other_tokens;
    std::vector<Sequence> others;
    std::vector<std::vector<float>> other_logits(2, std::vector<float>(vocab));
    for (std::size_t i = 0; point.company > 0 && i < 2; ++i) {
      other_tokens.push_back(tests::random_tokens(count, vocab, 77 + i));
      others.push_back(on.sequence(count));
    }
    const std::size_t chunk = point.chunk == 0 ? count : point.chunk;
    for (std::size_t first = 0; first < count; first += chunk) {
      const std::size_t size = std::min(chunk, count - first);
      std::vector<Step> steps;
      for (std::size_t i = 0; i < others.size(); ++i) {
        // Neighbours of another length, so that rows do not line up.
        const std::size_t theirs = std::max<std::size_t>(1, size - std::min(size - 1, 5 * (i + 1)));
        steps.push_back({&others[i], std::span(other_tokens[i]).subspan(first, theirs),
                         LogitRows::last, other_logits[i].data()});
      }
      const Step mine{&sequence, std::span(tokens_).subspan(first, size), LogitRows::all,
                      logits.data() + first * vocab};
      const std::size_t place = point.company == 0 ? 0 : point.company - 1;
      steps.insert(steps.begin() + static_cast<std::ptrdiff_t>(place), mine);
      BOOST_REQUIRE(on.forward(steps));
    }
    BOOST_CHECK_EQUAL(sequence.cuts.empty(), !press_);
    eval::Digest result;
    result.add(logits);
    return result.hex();
  }

  std::filesystem::path narrow_, wide_;
  std::vector<std::int32_t> tokens_;
  std::optional<engine::Press> press_;
  Point base_;
  std::string expected_, expected_few_;
  std::unique_ptr<Model> model_;
  std::string loaded_;
  std::size_t checked_ = 0;
};

void check_random(const tests::Shape& narrow, std::size_t tokens) {
  const tests::TemporaryFolder a;
  const tests::TemporaryFolder b;
  tests::Shape wide = narrow;
  wide.dtype = simd::Dtype::f32;
  tests::write_checkpoint(a.path(), narrow);
  tests::write_checkpoint(b.path(), wide);
  Subject subject(a.path(), b.path(), tests::random_tokens(tokens, narrow.vocab, 5));
  subject.check_all();
}

std::vector<std::int32_t> embedded_tokens(const std::string& text, std::size_t count) {
  const auto folder = tests::source_dir() / "datasets";
  std::ifstream file(folder / "texts" / text, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  auto tokens = engine::Tokenizer::open((folder / "mini/tokenizer.json").string()).encode(content);
  BOOST_REQUIRE_GE(tokens.size(), count);
  tokens.resize(count);
  return tokens;
}

}  // namespace

BOOST_AUTO_TEST_CASE(mini_and_its_committed_digest) {
  if (slow_machine()) std::printf("slow machine: %zu tokens, one point an axis\n", few_tokens);
  std::ifstream file(tests::source_dir() / "datasets/mini/digest.json");
  const auto known = nlohmann::json::parse(file);
  const tests::TemporaryFolder wide;
  const auto mini = tests::source_dir() / "datasets/mini";
  tests::write_widened(mini, wide.path());
  const auto count = known["tokens"].get<std::size_t>();
  Subject subject(mini, wide.path(), embedded_tokens(known["text"].get<std::string>(), count));
  BOOST_CHECK_EQUAL(subject.few_digest(), known["first_64"].get<std::string>());
  if (subject.tokens() == count) {
    BOOST_CHECK_EQUAL(subject.whole_digest(), known["digest"].get<std::string>());
  }
  subject.check_all();
}

BOOST_AUTO_TEST_CASE(mini_under_presses) {
  const tests::TemporaryFolder wide;
  const auto mini = tests::source_dir() / "datasets/mini";
  tests::write_widened(mini, wide.path());
  const auto tokens = embedded_tokens("pg19_10146_excerpt.txt", 300);
  const auto check = [&](const engine::Press& press) {
    Subject subject(mini, wide.path(), tokens, press);
    subject.check_some();
    // The second run in a process is the first.
    subject.check_base();
  };
  engine::Press press;
  press.budget.keep_ratio = engine::KeepRatio::parse("0.6");
  press.prune_after = 48;
  check(press);
  press.score = engine::Score::snapkv;
  press.trigger = engine::Trigger::reaches;
  check(press);
  press.score = engine::Score::observed;
  press.positions = engine::Positions::cache_length;
  check(press);
  press.score = engine::Score::keydiff;
  press.positions = engine::Positions::rerotate;
  press.trigger = engine::Trigger::every;
  press.interval = 29;
  press.skip_layers = {};
  check(press);
}

BOOST_AUTO_TEST_CASE(heads_of_80_past_512_slots) {
  tests::Shape shape;
  shape.heads = 8;
  shape.head_dim = 80;
  shape.intermediate = 700;
  shape.vocab = 203;
  shape.max_positions = 1024;
  shape.dtype = simd::Dtype::f16;
  check_random(shape, 600);
}

BOOST_AUTO_TEST_CASE(sequential_heads_of_96_full_rotary) {
  tests::Shape shape;
  shape.heads = 7;
  shape.head_dim = 96;
  shape.rotary_pct = 1.0;
  shape.parallel_residual = false;
  shape.intermediate = 500;
  shape.activation = "gelu_new";
  shape.dtype = simd::Dtype::bf16;
  shape.max_positions = 512;
  check_random(shape, 300);
}

BOOST_AUTO_TEST_CASE(no_rotary) {
  tests::Shape shape;
  shape.heads = 5;
  shape.head_dim = 20;
  shape.rotary_pct = 0.0;
  shape.dtype = simd::Dtype::f16;
  shape.max_positions = 512;
  check_random(shape, 270);
}

BOOST_AUTO_TEST_CASE(a_hostile_caller_changes_nothing) {
  const tests::TemporaryFolder folder;
  tests::Shape shape;
  // Products of weights this small are subnormal: flushing them would show.
  tests::write_checkpoint(folder.path(), shape,
                          [](const std::string& name, std::vector<float>& values) {
                            if (name != "embed_out.weight") return;
                            for (float& value : values) value *= 0x1p-128f;
                          });
  const auto tokens = tests::random_tokens(30, shape.vocab, 9);
  const auto run = [&] {
    Model model = Model::load(folder.path(), {"", Backend::tbb, 2});
    Sequence sequence = model.sequence(30);
    std::vector<float> logits(30 * shape.vocab);
    Step step{&sequence, tokens, LogitRows::all, logits.data()};
    BOOST_REQUIRE(model.forward({&step, 1}));
    eval::Digest digest;
    digest.add(logits);
    return digest.hex();
  };
  const std::string expected = run();
#if defined(__x86_64__)
  const simd::FloatEnvironment::Register hostile = simd::FloatEnvironment::standard | 0xe040u;
#else
  const simd::FloatEnvironment::Register hostile = (1u << 24) | (3u << 22);
#endif
  simd::FloatEnvironment::write(hostile);
  const std::string found = run();
  simd::FloatEnvironment::write(simd::FloatEnvironment::standard);
  BOOST_CHECK_EQUAL(found, expected);
}
