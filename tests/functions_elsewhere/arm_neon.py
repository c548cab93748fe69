#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""arm_neon.h for a machine without NEON: a header that gives SIMDe's types and functions the names
that arm_neon.h gives them. SIMDe's own way is macros, and those would also rename xsimd's functions.

usage: arm_neon.py FOLDER_OF_SIMDE_NEON_HEADERS
"""

import re
import sys
from pathlib import Path

# What SIMDe 0.7 lacks: IEEE operations of this machine, one for one.
MISSING = """
inline float32x4_t vdivq_f32(float32x4_t a, float32x4_t b) { return a / b; }
inline float64x2_t vdivq_f64(float64x2_t a, float64x2_t b) { return a / b; }
inline float32x4_t vsqrtq_f32(float32x4_t a) {
  for (int i = 0; i < 4; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
inline float64x2_t vcvt_high_f64_f32(float32x4_t a) {
  return float64x2_t{static_cast<double>(a[2]), static_cast<double>(a[3])};
}
inline float32x4_t vcvt_high_f32_f64(float32x2_t low, float64x2_t high) {
  return float32x4_t{low[0], low[1], static_cast<float>(high[0]), static_cast<float>(high[1])};
}
inline uint64x1_t vreinterpret_u64_u32(uint32x2_t a) {
  uint64x1_t result;
  std::memcpy(&result, &a, sizeof result);
  return result;
}
"""


def names(headers: Path):
    aliases, macros, functions = set(), set(), set()
    for header in sorted(headers.glob("*.h")):
        text = header.read_text(encoding="utf-8")
        aliases.update(re.findall(r"#\s*define\s+(v\w+)\([^)]*\)\s+(?:\(\()?simde_v\w+\(", text))
        macros.update(re.findall(r"#\s*define\s+simde_(v\w+)\(", text))
        functions.update(re.findall(r"^simde_(v\w+)\s*\(", text, re.M))
    types = set(re.findall(r"\bsimde_((?:u?int|float)\d+x\d+(?:x\d)?_t)\b",
                           (headers / "types.h").read_text(encoding="utf-8")))
    yield "#pragma once"
    for name in sorted(types):
        if not name.startswith("float16"):
            yield f"using {name} = simde_{name};"
    for name in sorted(aliases):
        if name in macros:
            yield f"#define {name}(...) simde_{name}(__VA_ARGS__)"
        elif name in functions:
            yield (f"template <class... A> [[gnu::always_inline]] inline auto {name}(A... a) "
                   f"{{ return simde_{name}(a...); }}")
    for definition in MISSING.strip().split("\ninline "):
        definition = definition.removeprefix("inline ")
        name = definition.split("(")[0].split()[-1]
        if name not in aliases:
            yield "inline " + definition


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print("\n".join(names(Path(sys.argv[1]))))
