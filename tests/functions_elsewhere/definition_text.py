#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The series of the scalar definition with another type in the place of double: their text, cut out of
simd/scalar, for eight.cpp to compile on eight lanes.

usage: definition_text.py SOURCE_ROOT
"""

import re
import sys
from pathlib import Path


# In the definition these read the bits of a double.
OWN = """inline DoubleDouble scale(DoubleDouble a, int k) {
  const simd::DoubleDouble power = simd::scale({1}, k);
  return {a.head * power.head, a.tail * power.head};
}

const auto inverse = [] {
  std::array<DoubleDouble, simd::inverse.size()> table;
  for (std::size_t n = 1; n < table.size(); ++n) {
    table[n] = {simd::inverse[n].head, simd::inverse[n].tail};
  }
  return table;
}();

"""


def between(text, first, last):
    """From the line that starts with `first` up to the one that starts with `last`."""
    start = re.search("^" + re.escape(first), text, re.M)
    end = start and re.compile("^" + re.escape(last), re.M).search(text, start.end())
    if not end:
        sys.exit(f"definition_text: simd/scalar has no '{first}' ... '{last}' any more")
    return text[start.start():end.start()]


def main(root):
    numbers = (root / "simd/scalar/double_double.hpp").read_text(encoding="utf-8")
    functions = (root / "simd/scalar/functions.cpp").read_text(encoding="utf-8")
    parts = [
        between(numbers, "/// head + tail with", "/// a 2^k, exact"),
        between(functions, "constexpr DoubleDouble one{1};", "/// 1/n for n < 128."),
        between(functions, "int nearest_integer", "// ---- logarithm"),
        between(functions, "// ---- the normal distribution", "/// x F(x) for the five functions"),
        between(functions, "/// t - t^3/3! + ...", "/// sin(x + turns pi/2) for x >= 0."),
    ]
    text = "".join(parts)
    text = re.sub(r"^constexpr (DoubleDouble \w+\{)", r"const \1", text, flags=re.M)
    text = re.sub(r"^constexpr ", "inline ", text, flags=re.M)
    text = text.replace("  constexpr double split", "  const double split")
    text = re.sub(r"\bdouble\b", "Lanes", text)
    print(text.replace("int nearest_integer", OWN + "int nearest_integer", 1))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
