// SPDX-License-Identifier: Apache-2.0
// Accuracy: what the contract loses against exact arithmetic, within bounds that are derived here.
// The scalar table is measured; every other table gives its bits (kernels_test). The exact values
// are taken in binary64, whose own error is 2^29 times smaller.
//
// u = 2^-24, g(n) = n u / (1 - n u). One rounded operation: RN(x) = x (1 + d), |d| <= u, or for
// results below 2^-126 an absolute error of at most 2^-150.
#define BOOST_TEST_MODULE accuracy
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "simd/kernels.hpp"
#include "tests/checkpoints.hpp"

namespace {

using namespace neoxref;

constexpr double u = 0x1p-24;
/// For the rounding of the bound's own evaluation and for terms below 2^-126.
constexpr double slack = 1.0 + 1e-6;
constexpr double tiny = 0x1p-140;

double g(std::size_t n) {
  const double nu = static_cast<double>(n) * u;
  return nu / (1.0 - nu);
}

/// dot of length K: a block is a chain of at most 64 fma, so its sum is off by at most
/// g(64) sum |a b|; adding the blocks is a chain of ceil(K / 64) - 1 additions that round (the first
/// one adds to +0). Together at most g(min(K, 64) + ceil(K / 64) - 1) sum |a b|.
double dot_bound(std::size_t length, double absolute_sum) {
  const std::size_t blocks = (length + 63) / 64;
  return g(std::min<std::size_t>(length, 64) + blocks - 1) * absolute_sum;
}

std::vector<float> numbers(std::size_t n, std::uint64_t seed, float scale, float offset = 0.0f) {
  tests::Numbers source(seed);
  std::vector<float> values(n);
  for (float& value : values) value = offset + scale * source.symmetric();
  return values;
}

/// Largest error over bound; the bound must hold, and must not be so loose that it says nothing.
class Ratio {
public:
  explicit Ratio(std::string name, double sharpest) : name_(std::move(name)), least_(sharpest) {}
  ~Ratio() {
    BOOST_TEST_MESSAGE(name_ << ": largest error over bound " << largest_);
    BOOST_CHECK_GE(largest_, least_);
  }
  Ratio(const Ratio&) = delete;
  Ratio& operator=(const Ratio&) = delete;
  void add(double error, double bound) {
    BOOST_CHECK_LE(std::abs(error), bound);
    largest_ = std::max(largest_, std::abs(error) / bound);
  }

private:
  std::string name_;
  double least_;
  double largest_ = 0.0;
};

const simd::Kernels& scalar() {
  return simd::kernels(simd::Isa::scalar);
}

}  // namespace

BOOST_AUTO_TEST_CASE(products) {
  Ratio ratio("product", 1e-2);
  for (const std::size_t depth : {1u, 7u, 64u, 65u, 200u, 512u, 2048u}) {
    constexpr std::size_t outputs = 32;
    const auto input = numbers(depth, depth, 1.0f);
    const auto weights = numbers(depth * outputs, depth + 1, 0.1f, 0.01f);
    const auto bias = numbers(outputs, 3, 1.0f);
    std::vector<float> output(outputs);
    std::vector<float> scratch(simd::product_scratch(1, depth));
    scalar().product({1,
                      depth,
                      outputs,
                      input.data(),
                      depth,
                      {weights.data(), simd::Dtype::f32, 16, depth * 16},
                      bias.data(),
                      output.data(),
                      outputs,
                      scratch.data()});
    for (std::size_t n = 0; n < outputs; ++n) {
      double exact = 0.0;
      double absolute = 0.0;
      for (std::size_t k = 0; k < depth; ++k) {
        const double term = static_cast<double>(input[k]) *
                            static_cast<double>(weights[(n / 16 * depth + k) * 16 + n % 16]);
        exact += term;
        absolute += std::abs(term);
      }
      exact += static_cast<double>(bias[n]);
      const double dot = dot_bound(depth, absolute);
      ratio.add(static_cast<double>(output[n]) - exact,
                (dot + u * (std::abs(exact) + dot)) * slack + tiny);
    }
  }
}

BOOST_AUTO_TEST_CASE(layer_norms) {
  Ratio ratio("layer_norm", 1e-2);
  for (const std::size_t n : {2u, 16u, 33u, 512u, 2048u}) {
    for (const float offset : {0.0f, 3.0f, -100.0f}) {
      const auto x = numbers(n, n, 2.0f, offset);
      const auto gamma = numbers(n, n + 1, 0.3f, 1.0f);
      const auto beta = numbers(n, n + 2, 0.2f);
      const float eps = 1e-5f;
      std::vector<float> y(n);
      BOOST_REQUIRE(scalar().layer_norm(x.data(), n, gamma.data(), beta.data(), eps, y.data(),
                                        simd::dot_block));
      const auto count = static_cast<double>(n);
      double mean = 0.0;
      for (const float value : x) mean += static_cast<double>(value);
      mean /= count;
      double variance = 0.0;
      for (const float value : x) {
        const double d = static_cast<double>(value) - mean;
        variance += d * d / count;
      }
      // mean is rounded once; d inherits that and is rounded; the variance is a mean of squares of
      // such d, rounded once; then eps is added (u), the root halves what came before and rounds
      // (u), and so does the quotient (u).
      const double mean_error = u * std::abs(mean);
      const auto d_error = [&](double d) { return mean_error + u * (std::abs(d) + mean_error); };
      double variance_error = 0.0;
      for (const float value : x) {
        const double d = static_cast<double>(value) - mean;
        const double e = d_error(d);
        variance_error += (2.0 * std::abs(d) * e + e * e) / count;
      }
      variance_error += u * (variance + variance_error);
      const double total = variance + static_cast<double>(eps);
      const double relative = variance_error / total * (1.0 + u) + u;
      BOOST_REQUIRE_LT(relative, 0.5);
      // 1 / sqrt(1 - t) <= 1 + t for t <= 1/2.
      const double r = 1.0 / std::sqrt(total);
      const double r_error = r * ((1.0 + relative) * (1.0 + u) * (1.0 + u) * (1.0 + u) - 1.0);
      for (std::size_t i = 0; i < n; ++i) {
        const double d = static_cast<double>(x[i]) - mean;
        const double scaled = std::abs(d) * r;
        double error = (std::abs(d) + d_error(d)) * (r + r_error) - scaled;
        error += u * (scaled + error);
        const double exact = d * r * static_cast<double>(gamma[i]) + static_cast<double>(beta[i]);
        error *= std::abs(static_cast<double>(gamma[i]));
        error += u * (std::abs(exact) + error);
        ratio.add(static_cast<double>(y[i]) - exact, error * slack + tiny);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(attention) {
  Ratio ratio("attention", 1e-3);
  for (const std::size_t slots : {1u, 5u, 64u, 200u, 700u}) {
    for (const std::size_t head_dim : {8u, 64u, 80u}) {
      const auto query = numbers(head_dim, slots, 2.0f);
      const auto keys = numbers(slots * head_dim, slots + 1, 1.5f, 0.1f);
      const std::size_t stride = simd::round_up(head_dim, 16);
      auto values = numbers(slots * stride, slots + 2, 1.0f, 0.3f);
      std::vector<float> panels(simd::round_up(slots, 16) * head_dim, 0.0f);
      scalar().store_keys(keys.data(), head_dim, slots, head_dim, panels.data(), 0);
      const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
      std::vector<float> output(head_dim);
      std::vector<float> scratch(simd::attention_scratch(1, slots, head_dim));
      scalar().attention({1, slots, head_dim, query.data(), head_dim, panels.data(), values.data(),
                          stride, scale, output.data(), head_dim, scratch.data()});
      std::vector<double> score(slots);
      std::vector<double> score_error(slots);
      double most_error = 0.0;
      for (std::size_t j = 0; j < slots; ++j) {
        double exact = 0.0;
        double absolute = 0.0;
        for (std::size_t d = 0; d < head_dim; ++d) {
          const double term =
              static_cast<double>(query[d]) * static_cast<double>(keys[j * head_dim + d]);
          exact += term;
          absolute += std::abs(term);
        }
        const double s = static_cast<double>(scale);
        score[j] = exact * s;
        const double dot = dot_bound(head_dim, absolute) * s;
        score_error[j] = dot + u * (std::abs(score[j]) + dot);
        most_error = std::max(most_error, score_error[j]);
      }
      const double max = *std::max_element(score.begin(), score.end());
      // The argument of exp is off by the score's error, the maximum's (at most the largest of any
      // score) and one rounding; exp multiplies by e^that, and rounds once, correctly.
      double z = 0.0;
      double z_error = 0.0;
      std::vector<double> e(slots);
      std::vector<double> e_error(slots);
      for (std::size_t j = 0; j < slots; ++j) {
        const double inherited = score_error[j] + most_error;
        const double argument = inherited + u * (std::abs(score[j] - max) + inherited);
        e[j] = std::exp(score[j] - max);
        e_error[j] = e[j] * ((1.0 + std::expm1(argument)) * (1.0 + u) - 1.0);
        z += e[j];
        z_error += e_error[j];
      }
      z_error += u * (z + z_error);
      BOOST_REQUIRE_LT(z_error, 0.5 * z);
      for (std::size_t d = 0; d < head_dim; ++d) {
        double exact = 0.0;
        double absolute = 0.0;
        double inherited = 0.0;
        for (std::size_t j = 0; j < slots; ++j) {
          const double v = static_cast<double>(values[j * stride + d]);
          exact += e[j] * v;
          absolute += (e[j] + e_error[j]) * std::abs(v);
          inherited += e_error[j] * std::abs(v);
        }
        const double sum_error = inherited + dot_bound(slots, absolute);
        // (x + dx) / (z - dz) - x / z = (dx z + |x| dz) / (z (z - dz)).
        double error = (sum_error * z + std::abs(exact) * z_error) / (z * (z - z_error));
        error += u * (std::abs(exact / z) + error);
        ratio.add(static_cast<double>(output[d]) - exact / z, error * slack + tiny);
      }
    }
  }
}
