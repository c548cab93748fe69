// SPDX-License-Identifier: Apache-2.0
// The choice of instruction set: what is named is what runs, and nothing is replaced silently.
#define BOOST_TEST_MODULE dispatch
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "simd/kernels.hpp"

namespace neoxref::tests {
namespace {

using simd::Isa;
using simd::Kernels;

constexpr const char* variable = "NEOXREF_ISA";
constexpr Isa all_isas[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::zen4, Isa::neon};

/// Sets NEOXREF_ISA, or unsets it when null, and restores it at the end.
class Forced {
public:
  explicit Forced(const char* value) {
    const char* before = std::getenv(variable);
    had_ = before != nullptr;
    if (had_) before_ = before;
    set(value);
  }
  ~Forced() { set(had_ ? before_.c_str() : nullptr); }
  Forced(const Forced&) = delete;
  Forced& operator=(const Forced&) = delete;

private:
  static void set(const char* value) {
    if (value == nullptr) {
      unsetenv(variable);
    } else {
      setenv(variable, value, 1);
    }
  }
  bool had_ = false;
  std::string before_;
};

bool usable(Isa isa) {
  const auto isas = simd::usable_isas();
  return std::find(isas.begin(), isas.end(), isa) != isas.end();
}

bool built(Isa isa) {
  const auto isas = simd::built_isas();
  return std::find(isas.begin(), isas.end(), isa) != isas.end();
}

std::string error_of(const std::string& name) {
  try {
    simd::kernels(name);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

#if defined(__x86_64__)
/// As the system tells it.
bool is_amd_family_19h() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  bool amd = false;
  bool family = false;
  while (std::getline(file, line) && !line.empty()) {
    amd |= line.rfind("vendor_id", 0) == 0 && contains(line, "AuthenticAMD");
    family |= line.rfind("cpu family", 0) == 0 && contains(line, ": 25");
  }
  return amd && family;
}
#endif

}  // namespace

BOOST_AUTO_TEST_CASE(scalar_is_always_there) {
  BOOST_TEST(built(Isa::scalar));
  BOOST_TEST(usable(Isa::scalar));
  for (const Isa isa : simd::usable_isas()) BOOST_TEST(built(isa));
}

BOOST_AUTO_TEST_CASE(every_usable_table_is_its_own) {
  std::vector<const Kernels*> tables;
  for (const Isa isa : simd::usable_isas()) {
    const Kernels& table = simd::kernels(isa);
    BOOST_TEST((table.isa == isa));
    BOOST_TEST(table.name == simd::isa_name(isa));
    BOOST_TEST(&simd::kernels(simd::isa_name(isa)) == &table);
    for (const Kernels* other : tables) {
      BOOST_TEST((other->product != table.product));
      // zen4 is avx512 with other products.
      const bool kin = std::min(other->isa, table.isa) == Isa::avx512 &&
                       std::max(other->isa, table.isa) == Isa::zen4;
      BOOST_TEST((other->attention != table.attention) != kin);
      BOOST_TEST((other->map != table.map) != kin);
    }
    tables.push_back(&table);
  }
}

BOOST_AUTO_TEST_CASE(best_is_last_and_the_default) {
  const Forced nothing(nullptr);
  BOOST_TEST((simd::kernels("").isa == simd::usable_isas().back()));
  const Forced empty("");
  BOOST_TEST((simd::kernels("").isa == simd::usable_isas().back()));
#if defined(__x86_64__)
  BOOST_TEST(usable(Isa::zen4) == usable(Isa::avx512));
  if (usable(Isa::avx512)) {
    const Isa best = is_amd_family_19h() ? Isa::zen4 : Isa::avx512;
    BOOST_TEST((simd::usable_isas().back() == best));
  }
#endif
}

BOOST_AUTO_TEST_CASE(the_variable_forces_a_table) {
  for (const Isa isa : simd::usable_isas()) {
    const std::string name(simd::isa_name(isa));
    const Forced forced(name.c_str());
    BOOST_TEST((simd::kernels("").isa == isa));
    BOOST_TEST(simd::kernels("").name == name);
    // A name that is given wins over the variable.
    BOOST_TEST((simd::kernels("scalar").isa == Isa::scalar));
  }
}

BOOST_AUTO_TEST_CASE(what_cannot_run_is_an_error) {
  for (const Isa isa : all_isas) {
    if (usable(isa)) continue;
    const std::string name(simd::isa_name(isa));
    BOOST_CHECK_THROW(simd::kernels(isa), std::invalid_argument);
    BOOST_TEST(contains(error_of(name), built(isa) ? "not supported by this CPU" : "not built"));
    const Forced forced(name.c_str());
    BOOST_CHECK_THROW(simd::kernels(""), std::invalid_argument);
  }
  BOOST_CHECK_THROW(simd::kernels(static_cast<Isa>(99)), std::invalid_argument);
}

BOOST_AUTO_TEST_CASE(unknown_names_are_errors_that_name_the_known) {
  for (const char* name : {"sse2", "AVX2", "avx", " scalar", "scalar "}) {
    const std::string error = error_of(name);
    BOOST_TEST(contains(error, name));
    for (const Isa isa : all_isas) BOOST_TEST(contains(error, simd::isa_name(isa)));
    BOOST_TEST(contains(error, "usable here: scalar"));
    const Forced forced(name);
    BOOST_CHECK_THROW(simd::kernels(""), std::invalid_argument);
  }
}

BOOST_AUTO_TEST_CASE(scratch_grows_with_the_shape_and_is_bounded) {
  BOOST_TEST(simd::product_scratch(1, 64) > 0u);
  BOOST_TEST(simd::product_scratch(12, 512) >= 12u * 512u);
  // Rows are packed in chunks, so a long prompt needs no more than a short one.
  BOOST_TEST(simd::product_scratch(100000, 2048) == simd::product_scratch(1000, 2048));
  BOOST_TEST(simd::attention_scratch(1, 1000, 64) >= 1000u);
  BOOST_TEST(simd::attention_scratch(1000, 1000, 64) == simd::attention_scratch(100, 1000, 64));
}

}  // namespace neoxref::tests
