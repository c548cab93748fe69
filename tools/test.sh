#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds and tests. Arguments go to meson setup (first time: a build folder is kept).
set -euo pipefail
cd "$(dirname "$0")/.."

tools/setup.sh --tests
if [ -f build/build.ninja ]; then
  # A folder configured before the test libraries were there finds them only when asked again, and one
  # older than an option knows that only afterwards.
  meson setup --reconfigure build
  meson configure build -Dtests=enabled "$@"
else
  meson setup build -Dtests=enabled "$@"
fi
meson compile -C build
meson test -C build --print-errorlogs
