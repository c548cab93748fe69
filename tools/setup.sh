#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what a build needs and this machine lacks, on Debian 12 and Ubuntu 24.04.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tools/setup.sh [--python] [--tests] [--ci] [--dry-run]
Installs, with apt, the packages that building neoxref needs and that are missing here. Says first
which ones and what each is for. Does nothing, and needs no rights, when nothing is missing.
Otherwise it must run as root or find sudo. Asks no questions.
  --python   also what the Python package needs
  --tests    also what the tests need, and the Python package, which they test
  --ci       also what .ci/run needs: clang, the aarch64 cross compiler, emulation, arm64 libraries
             (on x86-64 Debian 12 only: Ubuntu keeps arm64 packages on another server)
  --dry-run  say what is missing, install nothing
TEXT
}

python=no tests=no ci=no dry_run=no
for option in "$@"; do
  case $option in
    --python) python=yes ;;
    --tests) python=yes tests=yes ;;
    --ci) python=yes tests=yes ci=yes ;;
    --dry-run) dry_run=yes ;;
    -h | --help) usage; exit 0 ;;
    *) echo "setup: unknown option $option" >&2; usage >&2; exit 2 ;;
  esac
done

say() { echo "setup: $*"; }

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  say "this system has no apt; install the packages named in this file by hand" >&2
  exit 1
fi
system=unknown
if [ -r /etc/os-release ]; then system=$(. /etc/os-release && echo "${ID:-} ${VERSION_ID:-}"); fi
case $system in
  "debian 12" | "ubuntu 24.04") ;;
  *) say "not tested on $system; trying" ;;
esac

missing=() optional=()
installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | sort -u)" = installed ]
}
# need PACKAGE REASON
need() {
  if installed "$1"; then return; fi
  say "missing: $1 ($2)"
  missing+=("$1")
}
# like PACKAGE REASON: as need, but left out where the system does not offer it
like() {
  if installed "$1"; then return; fi
  say "missing: $1 ($2; not required)"
  optional+=("$1")
}
# need_command COMMAND PACKAGE REASON: whoever put the command there, it will do
need_command() {
  if ! command -v "$1" >/dev/null; then need "$2" "$3"; fi
}

need_command g++ g++ "compiler; brings OpenMP"
# meson 1.0 is the oldest that will do; another one on the PATH may be too old.
meson_version=$(meson --version 2>/dev/null || echo 0)
if ! dpkg --compare-versions "$meson_version" ge 1.0; then need meson "build system"; fi
need_command ninja ninja-build "runs the build"
need_command pkg-config pkg-config "finds libraries"
need_command python3 python3 "meson and the checks of the sources"
need libxsimd-dev "vector types"
need libtbb-dev "default thread backend"
need nlohmann-json3-dev "JSON"
need libutf8proc-dev "Unicode"
need libcli11-dev "command line of the program"
need libfmt-dev "output of the program"
need libxxhash-dev "digests"
need libssl-dev "SHA-256 of checkpoints"
need libzip-dev "npz files of others"
if [ $python = yes ]; then
  need python3-dev "headers for the Python package"
  need python3-venv "a place to install the Python package"
  need python3-numpy "arrays of the Python package"
  need pybind11-dev "bindings of the Python package"
fi
if [ $tests = yes ]; then
  need libboost-test-dev "test framework"
  need libmpfr-dev "exact functions to test ours against"
  need python3-mpmath "functions of the second implementation of the contract"
  need_command gnuplot gnuplot-nox "draws the pictures of eval --html"
  like libbenchmark-dev "kernel benchmarks"
  like clang-format-14 "format check"
fi
cross=no
if [ $ci = yes ]; then
  need clang-14 "second compiler"
  need libomp-14-dev "OpenMP for clang"
  need libsimde-dev "carries out NEON's operations on x86-64"
  if [ "$system" = "debian 12" ] && [ "$(dpkg --print-architecture)" = amd64 ]; then
    cross=yes
    need g++-aarch64-linux-gnu "aarch64 cross compiler"
    need qemu-user "runs aarch64 programs"
    for package in libtbb-dev libfmt-dev libxxhash-dev libssl-dev libzip-dev libutf8proc-dev \
        libboost-test-dev libmpfr-dev libgomp1; do
      need "$package:arm64" "aarch64 cross build"
    done
  else
    say "no aarch64 cross build: it is set up on x86-64 Debian 12 only"
  fi
fi

if [ $((${#missing[@]} + ${#optional[@]})) -eq 0 ]; then
  say "nothing to install"
  exit 0
fi
if [ $dry_run = yes ]; then exit 0; fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
    say "installing needs root: run this as root or install sudo" >&2
    exit 1
  fi
  as_root=(sudo)
fi
as_root+=(env DEBIAN_FRONTEND=noninteractive)
apt=(apt-get -q -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3)

if [ $cross = yes ] && ! dpkg --print-foreign-architectures | grep -qx arm64; then
  say "adding the architecture arm64, for libraries to link the cross build against"
  "${as_root[@]}" dpkg --add-architecture arm64
fi
say "installing with apt, as root, the packages above and what they depend on"
"${as_root[@]}" "${apt[@]}" update </dev/null
for package in "${optional[@]}"; do
  if apt-cache show "$package" >/dev/null 2>&1; then
    missing+=("$package")
  else
    say "this system does not offer $package; going on without"
  fi
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
"${as_root[@]}" "${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null
say "done"
