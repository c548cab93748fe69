// SPDX-License-Identifier: Apache-2.0

/// Compares the functions of chosen instruction sets with the correctly rounded values, on all 2^32
/// arguments or a sample of them. Minutes per function on one core; exit status 1 on a mismatch.
///
///   functions_exhaustive [--function NAME|all] [--isa avx512,avx2] [--stride N] [--shard I/N]
///                        [--scalar-stride N] [--spot N] [--hard FILE] [--keep N]
///   functions_exhaustive --pow N
///
/// --stride         looks at every Nth argument only (default 1: all)
/// --shard          the I-th of N equal parts, I from 0
/// --scalar-stride  the scalar definition is compared on every Nth argument (default 4099), and
///                  always where a vector kernel asked for it
/// --spot           the judge itself is compared with MPFR on every Nth argument (default 16411)
/// --hard, --keep   appends the N (default 16) arguments closest to a midpoint to FILE
///
/// --pow            compares pow with MPFR on the arguments of rotary tables (some bases, every
///                  dimension up to 512) and N random pairs, half of them made to stay in range
///
/// Counts the lanes that went to the scalar definition by standing between the kernels and it: link
/// with -Wl,--wrap=_ZN7neoxref4simd8evaluateENS0_8FunctionEf.

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/function_judge.hpp"

using namespace neoxref;

namespace {
std::vector<float> redone;
}

extern "C" {
float __real__ZN7neoxref4simd8evaluateENS0_8FunctionEf(simd::Function function, float x) noexcept;
float __wrap__ZN7neoxref4simd8evaluateENS0_8FunctionEf(simd::Function function, float x) noexcept {
  redone.push_back(x);
  return __real__ZN7neoxref4simd8evaluateENS0_8FunctionEf(function, x);
}
}

namespace {

float scalar(simd::Function function, float x) {
  return __real__ZN7neoxref4simd8evaluateENS0_8FunctionEf(function, x);
}

constexpr std::array<std::string_view, 11> names = {"exp",  "log",       "tanh",      "silu",
                                                    "gelu", "gelu_tanh", "gelu_fast", "quick_gelu",
                                                    "relu", "sin",       "cos"};

struct Options {
  std::vector<simd::Function> functions;
  std::vector<simd::Isa> isas;
  std::uint64_t stride = 1;
  std::uint64_t shard = 0;
  std::uint64_t shards = 1;
  std::uint64_t scalar_stride = 4099;
  std::uint64_t spot = 16411;
  std::size_t keep = 16;
  std::uint64_t powers = 0;
  std::string hard;
};

struct HardCase {
  float x;
  float result;
  double distance;
};

std::uint32_t bits_of(float x) {
  return std::bit_cast<std::uint32_t>(x);
}

bool same(float a, float b) {
  return bits_of(a) == bits_of(b) || (a != a && b != b);
}

[[noreturn]] void usage(const std::string& problem) {
  std::fprintf(stderr, "functions_exhaustive: %s (options are listed atop its source)\n",
               problem.c_str());
  std::exit(2);
}

std::uint64_t number(const std::string& text) {
  char* end = nullptr;
  const unsigned long long value = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0') usage("not a number: '" + text + "'");
  return value;
}

Options parse(int count, char** arguments) {
  Options options;
  std::string function = "all";
  std::string isas;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string name = arguments[i];
    const std::string value = arguments[i + 1];
    if (name == "--function") {
      function = value;
    } else if (name == "--isa") {
      isas = value + ",";
    } else if (name == "--stride") {
      options.stride = std::max<std::uint64_t>(1, number(value));
    } else if (name == "--shard") {
      const std::size_t slash = value.find('/');
      if (slash == std::string::npos) usage("--shard wants I/N");
      options.shard = number(value.substr(0, slash));
      options.shards = number(value.substr(slash + 1));
      if (options.shard >= options.shards) usage("--shard wants I below N");
    } else if (name == "--scalar-stride") {
      options.scalar_stride = std::max<std::uint64_t>(1, number(value));
    } else if (name == "--spot") {
      options.spot = std::max<std::uint64_t>(1, number(value));
    } else if (name == "--hard") {
      options.hard = value;
    } else if (name == "--pow") {
      options.powers = number(value);
    } else if (name == "--keep") {
      options.keep = number(value);
    } else {
      usage("unknown option " + name);
    }
  }
  if (count % 2 == 0) usage("an option lacks its value");
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (function == "all" || function == names[i]) {
      options.functions.push_back(static_cast<simd::Function>(i));
    }
  }
  if (options.functions.empty()) usage("unknown function " + function);
  if (isas.empty()) {
    for (simd::Isa isa : simd::usable_isas()) {
      const auto same = [&](simd::Isa other) {
        return simd::kernels(other).map == simd::kernels(isa).map;
      };
      if (isa != simd::Isa::scalar && std::ranges::none_of(options.isas, same)) {
        options.isas.push_back(isa);
      }
    }
  }
  for (std::size_t comma = isas.find(','); comma != std::string::npos; comma = isas.find(',')) {
    options.isas.push_back(simd::kernels(std::string_view(isas).substr(0, comma)).isa);
    isas.erase(0, comma + 1);
  }
  return options;
}

struct Count {
  std::uint64_t mismatches = 0;
  std::uint64_t slow_normal = 0;
  std::uint64_t slow_subnormal = 0;
};

class Run {
public:
  Run(const tests::Filter& filter, simd::Function function, const Options& options)
      : filter_(filter), function_(function), options_(options), counts_(options.isas.size()) {}

  /// Looks at the shard's arguments; false on any mismatch.
  bool all() {
    constexpr std::uint64_t chunk = 4096;
    const std::uint64_t total = ((std::uint64_t{1} << 32) + options_.stride - 1) / options_.stride;
    const std::uint64_t first = total * options_.shard / options_.shards;
    const std::uint64_t last = total * (options_.shard + 1) / options_.shards;
    for (std::uint64_t i = first; i < last; i += chunk) block(i, std::min(last, i + chunk));
    report(last - first);
    bool good = scalar_.mismatches == 0 && judge_errors_ == 0;
    for (const Count& count : counts_) good = good && count.mismatches == 0;
    return good;
  }

private:
  void block(std::uint64_t begin, std::uint64_t end) {
    const std::size_t n = end - begin;
    x_.resize(n);
    y_.resize(n);
    truth_.resize(n);
    for (std::size_t j = 0; j < n; ++j) {
      x_[j] = std::bit_cast<float>(static_cast<std::uint32_t>((begin + j) * options_.stride));
      const tests::Verdict verdict = tests::judge(filter_, function_, x_[j]);
      truth_[j] = verdict.result;
      mpfr_calls_ += verdict.used_mpfr ? 1 : 0;
      if (verdict.distance < 1) remember({x_[j], verdict.result, verdict.distance});
      if ((begin + j) % options_.spot == 0) spot(x_[j], verdict.result);
      if ((begin + j) % options_.scalar_stride == 0) check_scalar(x_[j], verdict.result);
    }
    for (std::size_t k = 0; k < options_.isas.size(); ++k) {
      redone.clear();
      simd::kernels(options_.isas[k]).map(function_, x_.data(), y_.data(), n);
      for (float x : redone) {
        const bool small = x != x || (bits_of(x) & 0x7f800000u) == 0;
        ++(small ? counts_[k].slow_subnormal : counts_[k].slow_normal);
      }
      if (std::memcmp(y_.data(), truth_.data(), n * sizeof(float)) == 0) continue;
      for (std::size_t j = 0; j < n; ++j) {
        if (!same(y_[j], truth_[j])) {
          complain(simd::isa_name(options_.isas[k]), x_[j], y_[j], truth_[j],
                   counts_[k].mismatches++);
        }
      }
    }
  }

  /// A vector lane that was redone holds the scalar result, so those are compared with the rest.
  void check_scalar(float x, float truth) {
    ++scalar_checked_;
    const float y = scalar(function_, x);
    if (!same(y, truth)) complain("scalar", x, y, truth, scalar_.mismatches++);
  }

  void spot(float x, float truth) {
    float result = 0;
    const bool constant = tests::settled(function_, x, result);
    if (!std::isfinite(x) || (function_ == simd::Function::log && !(x > 0))) return;
    ++spots_;
    const float exact = tests::by_mpfr(function_, x);
    if (!same(exact, truth)) complain("judge", x, truth, exact, judge_errors_++);
    if (constant) return;
    tests::Real real(600);
    tests::real_value(function_, x, real);
    const tests::Pair value = filter_.value(function_, x);
    tests::Real difference(600);
    mpfr_sub_d(difference, real, value.h, MPFR_RNDN);
    mpfr_sub_d(difference, difference, value.l, MPFR_RNDN);
    const double error = mpfr_get_d(difference, MPFR_RNDN) / mpfr_get_d(real, MPFR_RNDN);
    if (std::fabs(error) > filter_error_) filter_error_ = std::fabs(error);
    if (std::fabs(error) > tests::Filter::bound / 8) complain("filter", x, 0, 0, judge_errors_++);
  }

  void remember(const HardCase& entry) {
    hard_.push_back(entry);
    if (hard_.size() > 4096) shorten();
  }

  void shorten() {
    std::sort(hard_.begin(), hard_.end(), [](const HardCase& a, const HardCase& b) {
      return a.distance < b.distance || (a.distance == b.distance && bits_of(a.x) < bits_of(b.x));
    });
    hard_.resize(std::min(hard_.size(), options_.keep));
  }

  void complain(std::string_view who, float x, float got, float expected, std::uint64_t before) {
    if (before >= 10) return;
    std::printf("MISMATCH %s %s x=%08x (%a) got=%08x (%a) expected=%08x (%a)\n",
                names[static_cast<std::size_t>(function_)].data(), std::string(who).c_str(),
                bits_of(x), static_cast<double>(x), bits_of(got), static_cast<double>(got),
                bits_of(expected), static_cast<double>(expected));
  }

  void report(std::uint64_t inputs) {
    const char* name = names[static_cast<std::size_t>(function_)].data();
    for (std::size_t k = 0; k < counts_.size(); ++k) {
      std::printf("%s %s inputs=%llu mismatches=%llu slow=%llu slow_subnormal=%llu\n", name,
                  std::string(simd::isa_name(options_.isas[k])).c_str(),
                  static_cast<unsigned long long>(inputs),
                  static_cast<unsigned long long>(counts_[k].mismatches),
                  static_cast<unsigned long long>(counts_[k].slow_normal),
                  static_cast<unsigned long long>(counts_[k].slow_subnormal));
    }
    std::printf("%s scalar inputs=%llu mismatches=%llu\n", name,
                static_cast<unsigned long long>(scalar_checked_),
                static_cast<unsigned long long>(scalar_.mismatches));
    std::printf("%s judge mpfr_calls=%llu spots=%llu errors=%llu largest_filter_error=2^%.1f\n",
                name, static_cast<unsigned long long>(mpfr_calls_),
                static_cast<unsigned long long>(spots_),
                static_cast<unsigned long long>(judge_errors_), std::log2(filter_error_));
    shorten();
    for (std::size_t i = 0; i < std::min<std::size_t>(hard_.size(), 3); ++i) {
      std::printf("%s hard x=%08x (%a) distance=2^%.1f\n", name, bits_of(hard_[i].x),
                  static_cast<double>(hard_[i].x), std::log2(hard_[i].distance));
    }
    std::fflush(stdout);
    if (options_.hard.empty()) return;
    std::FILE* file = std::fopen(options_.hard.c_str(), "a");
    if (file == nullptr) usage("cannot write " + options_.hard);
    for (const HardCase& entry : hard_) {
      std::fprintf(file, "%s %08x %08x\n", name, bits_of(entry.x), bits_of(entry.result));
    }
    std::fclose(file);
  }

  const tests::Filter& filter_;
  simd::Function function_;
  const Options& options_;
  std::vector<Count> counts_;
  Count scalar_;
  std::uint64_t scalar_checked_ = 0;
  std::uint64_t mpfr_calls_ = 0;
  std::uint64_t spots_ = 0;
  std::uint64_t judge_errors_ = 0;
  double filter_error_ = 0;
  std::vector<HardCase> hard_;
  std::vector<float> x_;
  std::vector<float> y_;
  std::vector<float> truth_;
};

bool check_pow(std::uint64_t pairs) {
  std::uint64_t checked = 0;
  std::uint64_t mismatches = 0;
  const auto check = [&](float x, float y) {
    ++checked;
    const float got = simd::pow(x, y);
    const float expected = tests::pow_by_mpfr(x, y);
    if (same(got, expected) || ++mismatches > 10) return;
    std::printf("MISMATCH pow x=%a y=%a got=%a expected=%a\n", static_cast<double>(x),
                static_cast<double>(y), static_cast<double>(got), static_cast<double>(expected));
  };
  for (float base :
       {100.0f, 1000.0f, 10000.0f, 25000.0f, 40000.0f, 100000.0f, 500000.0f, 1e6f, 5e6f, 1e7f}) {
    for (int dims = 2; dims <= 512; dims += 2) {
      for (int i = 0; i < dims / 2; ++i) {
        check(base, static_cast<float>(2 * i) / static_cast<float>(dims));
      }
    }
  }
  std::mt19937 random(1);
  for (std::uint64_t i = 0; i < pairs; ++i) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(random()) % 0x7f7fffffu + 1);
    float y = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (i % 2 == 0 || !std::isfinite(y)) {  // elsewhere the result is mostly 0, 1 or infinite
      const double exponent = static_cast<double>(random()) / 0x1p32 * 300 - 150;
      y = static_cast<float>(exponent / std::log2(static_cast<double>(x)));
      if (!std::isfinite(y)) continue;
    }
    check(x, y);
  }
  std::printf("pow inputs=%llu mismatches=%llu\n", static_cast<unsigned long long>(checked),
              static_cast<unsigned long long>(mismatches));
  return mismatches == 0;
}

}  // namespace

int main(int count, char** arguments) {
  const Options options = parse(count, arguments);
  if (options.powers > 0) return check_pow(options.powers) ? 0 : 1;
  const tests::Filter filter;
  bool good = true;
  for (simd::Function function : options.functions) {
    good = Run(filter, function, options).all() && good;
  }
  return good ? 0 : 1;
}
