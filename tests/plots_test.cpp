// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE plots
#include <boost/test/unit_test.hpp>

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string>

#include "engine/error.hpp"
#include "tools/eval_page.hpp"
#include "tools/html.hpp"
#include "tools/plots.hpp"

namespace {

using namespace neoxref::tools;

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

bool has_gnuplot() {
  if (std::system("command -v gnuplot >/dev/null 2>&1") == 0) return true;
  std::cout << "SKIP plots: gnuplot is not installed\n";
  return false;
}

}  // namespace

BOOST_AUTO_TEST_CASE(html_escapes) {
  BOOST_TEST(html_text("a\"b<c>&'d") == "a&quot;b&lt;c&gt;&amp;&#39;d");
  BOOST_TEST(html_text("a\nb\x7f") == "a\\x0ab\\x7f");
  BOOST_TEST(html_text("\xc3\xa9 \xf0\x9f\x98\x80") == "\xc3\xa9 \xf0\x9f\x98\x80");
  const std::string unknown = "\xef\xbf\xbd";
  // Alone, cut short, overlong, a surrogate, no character, past the last.
  BOOST_TEST(html_text("\xff|\xc3") == unknown + "|" + unknown);
  BOOST_TEST(html_text("\xc0\xaf") == unknown + unknown);
  BOOST_TEST(html_text("\xed\xa0\x80") == unknown + unknown + unknown);
  BOOST_TEST(html_text("\xef\xbf\xbf") == unknown + unknown + unknown);
  BOOST_TEST(html_text("\xf4\x90\x80\x80") == unknown + unknown + unknown + unknown);
  BOOST_TEST(html_number(0.125, "0.13") == "<data value=\"0.125\">0.13</data>");
  BOOST_TEST(html_number(NAN, "x") == "-");
}

BOOST_AUTO_TEST_CASE(gnuplot_strings) {
  BOOST_TEST(gnuplot_text("it's\n`touch gone`") == "'it''s `touch gone`'");
  if (!has_gnuplot()) return;
  const std::string hard = "a'b\"c`touch gone`$(x)@d\\n{/*2 e}_f";
  BOOST_TEST(run_gnuplot("set print '-'\nprint " + gnuplot_text(hard) + "\n") == hard + "\n");
  Chart chart{"<what> & \"why\"", {hard}, {"y"}, {{{}, {{0, 1}, {1, 2}}}}};
  const std::string svg = draw(chart, "x");
  BOOST_TEST(count(svg, "aria-label=\"&lt;what&gt; &amp; &quot;why&quot;\"") == 1);
  BOOST_TEST(count(svg, "a&apos;b") + count(svg, "a'b") == 1);
  BOOST_TEST(count(svg, "rgb(") == 0);
  BOOST_TEST(count(svg, "http") == 0);
}

BOOST_AUTO_TEST_CASE(gnuplot_complains) {
  if (!has_gnuplot()) return;
  BOOST_CHECK_EXCEPTION(run_gnuplot("plot nothing_there\n"), neoxref::engine::Error,
                        [](const neoxref::engine::Error& error) {
                          const std::string what = error.what();
                          return what.starts_with("gnuplot: failed") &&
                                 what.find("nothing_there") != std::string::npos;
                        });
  BOOST_TEST(gnuplot_version().starts_with("gnuplot "));
}

BOOST_AUTO_TEST_CASE(a_heat_map_merges_equal_neighbours) {
  if (!has_gnuplot()) return;
  HeatMap map{"d", "x", "y", 2, 4, 8.0, false, {1, 1, 0, 0.5, NAN, NAN, 1, 1}};
  const std::string svg = draw(map, "h");
  BOOST_TEST(count(svg, "<polygon") == 4);  // 1 1, 0, 0.5; nothing for NaN; 1 1
  BOOST_TEST(count(svg, "fill = 'rgb(254,232,56)'") == 2);
  BOOST_TEST(count(svg, "fill = 'rgb(0,34,78)'") == 1);
}

BOOST_AUTO_TEST_CASE(alr_maps) {
  if (!has_gnuplot()) return;
  neoxref::eval::Analysis analysis;
  analysis.scores = {"knorm", "<own>"};
  analysis.is_static = {true, false};
  analysis.layers = 2;
  analysis.heads = 3;
  neoxref::eval::AnalysedWindow window{0, 0, 100, 68, {}};
  for (const double relative : {0.1, 1.6, 0.2, 0.3, 0.25, 0.15, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0}) {
    window.figures.push_back({0.0, 0.0, relative, 0.0});
  }
  analysis.windows = {window};
  const std::string section = alr_section(analysis);
  BOOST_TEST(count(section, "<section id=\"alr\">") == 1);
  BOOST_TEST(count(section, "<figure") == 2);
  BOOST_TEST(count(section, "<polygon") == 12);
  BOOST_TEST(count(section, "68 queries of 1 windows") == 1);
  BOOST_TEST(count(section, "&lt;own&gt;") >= 1);
  BOOST_TEST(count(section, "<own>") == 0);
  // One scale for all maps: the largest value alone has the last colour.
  BOOST_TEST(count(section, "fill = 'rgb(254,232,56)'") == 1);
}
