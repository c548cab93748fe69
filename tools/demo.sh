#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds, runs the sweep on the embedded model and texts, and checks its bits.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/setup.sh
if [ ! -f build/build.ninja ]; then meson setup build; fi
meson compile -C build neoxref:executable

show() { echo; echo "\$ $*"; "$@"; }
show build/tools/neoxref eval mini --keep-ratio 1,0.9,0.5,0.1
show build/tools/neoxref verify
