#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test.sh PROGRAM DIGESTS OPTION...: runs PROGRAM OPTION..., whose digests of blocks must be those of the file.
set -euo pipefail
program=$1 digests=$2
shift 2
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
"$program" "$@" | tee "$lines"
test -s "$lines"
# A block that the file lacks would be compared with nothing.
while read -r function isa block digest; do
  grep -q "^$function [a-z0-9]* $block " "$digests" || { echo "no digest of $function $block"; exit 1; }
done <"$lines"
"$program" --join "$digests" "$lines"
