#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Checks that every source looks as clang-format 14 would write it (other versions differ).
# To rewrite them: tests/format.sh --fix
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v clang-format-14 >/dev/null; then
  echo "SKIP format: clang-format-14 is not installed"
  exit 0
fi
mode=(--dry-run --Werror)
if [ "${1:-}" = --fix ]; then mode=(-i); fi
find engine simd eval datasets tools tests \( -name '*.cpp' -o -name '*.hpp' \) -print0 |
  xargs -0 -n 16 clang-format-14 --style=file "${mode[@]}"
echo "format: $(find engine simd eval datasets tools tests -name '*.[ch]pp' | wc -l) files"
