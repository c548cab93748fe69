#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the sources: which folder may include what, where bits could be lost, types of one name, and
plain form.

usage: tests/layering.py [ROOT]      prints each finding as "file:line: what"; exit status 1 if any
"""

import os
import re
import sys

# Folder -> project folders that it may include besides itself. docs/design.md, "Folders".
ARROWS = {
    "simd": set(),
    "engine": {"simd"},
    "eval": {"engine", "simd"},
    "datasets": set(),
    "tools": {"eval", "datasets", "engine", "simd"},
    "tests": {"tools", "eval", "datasets", "engine", "simd"},
}

# Library header (beginning of its name) -> files or folders that may include it.
LIBRARIES = {
    "xsimd/": {"simd/vector/lanes.hpp"},
    "xmmintrin.h": {"simd/float_environment.hpp", "tests/"},  # the control register only
    "nlohmann/": {"engine/json.hpp", "datasets/reader.cpp", "tools/", "tests/"},
    "oneapi/": {"engine/parallel_tbb.cpp"},
    "tbb/": {"engine/parallel_tbb.cpp"},
    "omp.h": {"engine/parallel_openmp.cpp"},
    "utf8proc.h": {"engine/unicode.cpp"},
    "openssl/": {"eval/sha256.cpp"},
    "xxh_x86dispatch.h": {"eval/digest_rows.cpp"},
    "xxhash.h": {"eval/digest.cpp", "eval/digest_rows.cpp", "tests/"},
    "simde/": {"tests/functions_elsewhere/"},
    "arm_neon.h": {"tests/functions_elsewhere/"},
    "zip.h": {"eval/foreign_npz.cpp"},
    "pybind11/": {"tools/python/"},
    "CLI/": {"tools/command_line.cpp", "tools/main.cpp"},
    "fmt/": {"tools/"},
    "boost/": {"tests/"},
    "benchmark/": {"tests/"},
    "mpfr.h": {"tests/"},
}
INTRINSICS = re.compile(r"(\w*intrin|arm_neon|arm_sve|arm_fp16|x86gprintrin)\.h$")
INTRINSICS_FILE = "simd/vector/lanes.hpp"

# In engine/ and simd/: what another library, machine or schedule could answer with other bits.
# engine/oracle.cpp is also compiled for binary64, where it may use libm.
LIBM = r"exp2?|expm1|log(?:2|10|1p)?|tanh?|sinh?|cosh?|erfc?|pow|fma|hypot|cbrt|[lt]gamma"
BIT_TRAPS = [
    (re.compile(r"(?:\bstd|(?<![\w>]))::(" + LIBM + r")[fl]?\s*\("),
     "{} of the C library on a result path"),
    (re.compile(r"(?<![\w.>:])((?:" + LIBM + r")[fl])\s*\("), "{} of the C library on a result path"),
    (re.compile(r"\b(parallel_(?:deterministic_)?reduce|parallel_scan|transform_reduce|"
                r"(?:in|ex)clusive_scan)\b"), "{}: the order of a sum is fixed by the contract"),
    (re.compile(r"\bstd::(reduce|execution)\b"), "{}: the order of a sum is fixed by the contract"),
    (re.compile(r"#\s*pragma\s+omp\b.*\b(reduction|simd)\b"), "OpenMP {}"),
    (re.compile(r"\batomic(?:_ref)?<\s*(float|double)\b"), "atomic {}"),
    (re.compile(r"(__attribute__\s*\(\(\s*optimize|#\s*pragma\s+GCC\s+optimize|"
                r"#\s*pragma\s+(?:clang\s+)?fp\b|#\s*pragma\s+STDC\s+FP_CONTRACT)"),
     "{}: the arithmetic is set for the whole build"),
]
BIT_TRAP_FILES = {"engine/oracle.cpp"}
FAST_FLAGS = re.compile(r"-(Ofast|ffast-math|funsafe-math-optimizations|fassociative-math|"
                        r"ffinite-math-only|freciprocal-math|ffp-contract=(?!off)\w+|mdaz-ftz)")

# Files over the limit, with the most lines they may have and why they are one file.
LINE_LIMIT = 400
LONG_FILES = {
    "simd/vector/lanes.hpp": (500, "one type on three machines"),
    "tests/tokenizer_test.cpp": (560, "the cases of one file format"),
    "tests/checkpoint_test.cpp": (470, "the cases of one file format"),
    "tests/safetensors_test.cpp": (440, "the cases of one file format"),
    "tests/function_judge.hpp": (440, "one judge, kept whole so that it can be read as a proof"),
}

CODE = (".cpp", ".hpp")
C_CODE = (".c", ".h")
TEXT = CODE + C_CODE + (".py", ".sh", ".md", ".build", ".ini", ".options", ".yml", ".in")
TEXT_NAMES = {"run", "meson_options.txt", ".clang-format", ".editorconfig", ".gitignore"}
# Data that must stay byte for byte as it is, and pages that come with it.
DATA = ("datasets/texts/", "datasets/mini/", "tests/fixtures/", "tests/golden/cases/")


def project_files(root):
    for folder, folders, names in os.walk(root):
        inside = os.path.relpath(folder, root)
        folders[:] = sorted(
            name for name in folders
            if name not in (".git", "__pycache__", "venv", ".venv")
            and not (inside == "." and name.startswith("build")))
        for name in sorted(names):
            path = os.path.normpath(os.path.join(inside, name)).replace(os.sep, "/")
            if name.endswith(TEXT) or name in TEXT_NAMES:
                yield path


def without_comments(text):
    """The code with comments and the insides of literals blanked; line numbers stay."""
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|R"(?P<d>[^(\s]*)\(.*?\)(?P=d)"|"(?:\\.|[^"\\\n])*"|'
        r"(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'", re.S)

    def blank(match):
        found = match.group(0)
        kept = '"' if found[0] in "\"R" else ""
        return kept + re.sub(r"[^\n]", " ", found[len(kept):len(found) - len(kept)]) + kept
    return pattern.sub(blank, text)


def may_include(path, allowed):
    return any(path == entry or (entry.endswith("/") and path.startswith(entry))
               for entry in allowed)


def check_includes(root, path, text, report):
    folder = path.split("/")[0]
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not match:
            if re.match(r"\s*#\s*include\b", line):
                report(path, number, "an include whose name is not written out")
            continue
        quote, name = match.groups()
        if INTRINSICS.search(name) and path != INTRINSICS_FILE and not may_include(
                path, LIBRARIES.get(name, ())):
            report(path, number, f"{name}: intrinsics belong in {INTRINSICS_FILE}")
            continue
        if quote == "<":
            for header, allowed in LIBRARIES.items():
                if name.startswith(header) and not may_include(path, allowed):
                    report(path, number, f"{name} belongs in {', '.join(sorted(allowed))}")
            if name.split("/")[0] in ARROWS:
                report(path, number, f"{name}: a file of the project is included with quotes")
            continue
        target = name.split("/")[0]
        if not os.path.isfile(os.path.join(root, name)):
            report(path, number, f'"{name}" is not a file under the root')
        elif target != folder and target not in ARROWS.get(folder, set()):
            report(path, number, f"{folder} may not include {target} ({name})")


def check_bits(path, text, report):
    if path.split("/")[0] not in ("engine", "simd") or path in BIT_TRAP_FILES:
        return
    for number, line in enumerate(without_comments(text).split("\n"), 1):
        for pattern, problem in BIT_TRAPS:
            for match in pattern.finditer(line):
                report(path, number, problem.format(match.group(1)))


def defined_types(text):
    """(line, full name) of each class and enumeration at namespace level that other files could name;
    ValueError when braces do not match."""
    code = re.sub(r"^[ ]*#(?:.*\\\n)*.*$", lambda found: "\n" * found.group(0).count("\n"),
                  without_comments(text), flags=re.M)
    blocks = []  # the name of each open namespace, "" for one without; None for any other block
    begin = 0
    for match in re.finditer(r"[{};]", code):
        head = " ".join(code[begin:match.start()].split())
        begin = match.end()
        if match.group() == "}":
            if not blocks:
                raise ValueError("more } than {")
            blocks.pop()
        elif match.group() == "{":
            space = re.fullmatch(r"(?:inline )?namespace ?([\w:]*)", head)
            name = re.fullmatch(r"(?:template ?<.*> )?(?:struct|class|union|enum(?: class| struct)?) "
                                r"(?:alignas ?\(.*?\) )?(\w+)(?: final)?(?: ?:[^:].*)?", head)
            if name and all(blocks):
                yield code.count("\n", 0, match.start()) + 1, "::".join([*blocks, name.group(1)])
            blocks.append(space.group(1) if space else None)
    if blocks:
        raise ValueError("more { than }")


def check_form(path, text, report):
    lines = text.split("\n")
    if path.endswith(CODE) and lines[0] != "// SPDX-License-Identifier: Apache-2.0":
        report(path, 1, "the first line is not the licence line")
    if path.endswith(C_CODE) and lines[0] != "/* SPDX-License-Identifier: Apache-2.0 */":
        report(path, 1, "the first line is not the licence line")
    if path.endswith((".py", ".sh")) or path == ".ci/run":
        if "# SPDX-License-Identifier: Apache-2.0" not in lines[:2]:
            report(path, 1, "no licence line among the first two")
    if path.endswith(".hpp") and "#pragma once" not in lines[:3]:
        report(path, 1, "no #pragma once below the licence line")
    if not text.endswith("\n"):
        report(path, len(lines), "the last line does not end")
    if text.endswith("\n\n"):
        report(path, len(lines) - 1, "blank lines at the end")
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            report(path, number, "blanks at the end of the line")
        if "\t" in line:
            report(path, number, "a tab")
    if path.endswith(CODE + C_CODE + (".py", ".sh")):
        limit, _ = LONG_FILES.get(path, (LINE_LIMIT, ""))
        if len(lines) - 1 > limit:
            report(path, limit + 1, f"{len(lines) - 1} lines, at most {limit}")


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "..")
    findings = []
    types = {}
    files = 0

    def report(path, number, problem):
        findings.append(f"{path}:{number}: {problem}")

    for path in project_files(root):
        if path.startswith(DATA) and not path.endswith((".py", ".md")):
            continue
        files += 1
        with open(os.path.join(root, path), encoding="utf-8", newline="") as file:
            text = file.read()
        check_form(path, text, report)
        if path.endswith(CODE):
            check_includes(root, path, text, report)
            check_bits(path, text, report)
            # Two of one name are one to the linker, which keeps the functions of either.
            try:
                for number, name in defined_types(text):
                    if (other := types.setdefault(name, path)) != path:
                        report(path, number, f"{name} is in {other} too")
            except ValueError as error:
                report(path, 1, f"{error}, outside comments and texts")
        if path.endswith("meson.build") or path.endswith(".ini"):
            for number, line in enumerate(text.split("\n"), 1):
                if match := FAST_FLAGS.search(line):
                    report(path, number, f"{match.group(0)} changes results")
    for path in LONG_FILES:
        if not os.path.isfile(os.path.join(root, path)):
            report(path, 1, "is named in tests/layering.py but does not exist")
    if files == 0:
        findings.append(f"{root}: no sources here")
    for finding in findings:
        print(finding)
    print(f"layering: {files} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
