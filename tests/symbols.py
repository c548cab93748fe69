#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what the libraries of the vector instruction sets, and the one of the C interface, show the linker.

usage: tests/symbols.py BUILD [NM]

An inline function that was compiled for a wide machine, and that other objects define too, could
become the copy that the linker keeps for everyone. So no such library may define a function that
others could define (weak, common, unique), and all that it does define for others lies in its own
namespace, neoxref::simd::ISA.
"""

import glob
import os
import re
import subprocess
import sys

# No function of the kernels: the pointer to the exception handler, and the end of the process.
HARMLESS = {"DW.ref.__gxx_personality_v0", "__clang_call_terminate"}


def global_symbols(nm, archive):
    """(kind, mangled name) of each symbol that is defined and not local."""
    output = subprocess.run([nm, "--defined-only", "--extern-only", archive], check=True,
                            capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    for line in output.stdout.splitlines():
        match = re.fullmatch(r"[0-9a-f]* *([A-Za-z]) (\S+)", line)
        if match:
            yield match.groups()


def hidden_by_c_interface(nm, build, findings):
    """The shared library of the C interface shows the functions of its header and nothing else."""
    header = os.path.join(os.path.dirname(__file__), "..", "tools", "c", "neoxref.h")
    with open(header, encoding="utf-8") as file:
        declared = set(re.findall(r"\b(neoxref_\w+)\(", file.read()))
    for library in glob.glob(os.path.join(build, "tools", "c", "libneoxref_c.so")):
        output = subprocess.run([nm, "-D", "--defined-only", library], check=True,
                                capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        shown = {line.split()[-1] for line in output.stdout.splitlines()}
        for name in sorted(shown ^ declared):
            findings.append(f"{library}: {name} is " +
                            ("not in the header" if name in shown else "not to be seen"))


def main():
    if len(sys.argv) not in (2, 3):
        print(__doc__)
        return 2
    build = sys.argv[1]
    nm = sys.argv[2] if len(sys.argv) == 3 else "nm"
    archives = sorted(glob.glob(os.path.join(build, "simd", "libsimd_*.a")))
    if not archives:
        print("SKIP symbols: this build has no vector instruction set")
        return 0
    findings = []
    seen = {}
    for archive in archives:
        isa = re.search(r"libsimd_(\w+)\.a$", archive).group(1)
        prefixes = tuple(f"{start}7neoxref4simd{len(isa)}{isa}" for start in ("_ZN", "_ZNK"))
        defined = set()
        for kind, name in global_symbols(nm, archive):
            if name in HARMLESS:
                continue
            defined.add(name)
            if kind in "WwVvCcui":
                findings.append(f"{archive}: {name} could be replaced by another copy ({kind})")
            if not name.startswith(prefixes):
                findings.append(f"{archive}: {name} is not in neoxref::simd::{isa}")
            if name in seen:
                findings.append(f"{archive}: {name} is also in {seen[name]}")
            seen[name] = archive
        if not any(name.endswith("5tableE") for name in defined):
            findings.append(f"{archive}: its kernel table was not found; {len(defined)} symbols")
    hidden_by_c_interface(nm, build, findings)
    for finding in findings:
        print(finding)
    print(f"symbols: {len(archives)} libraries, {len(seen)} symbols, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
