#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs kvpress' scorers and l2compress' rule on random layers, and compares the slots that they
keep with ours.

usage: compare.py [--check]     writes kept.json beside this file; --check only compares with it

Needs torch, kvpress and neoxref in one environment: README.md beside this file.
"""

import argparse
import json
import math
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import inputs
import kvpress
import numpy as np
import torch
from ours import FEATURES, kept_by_us

KEPT = Path(__file__).parent / "kept.json"
PRESSES = {
    "knorm": kvpress.KnormPress,
    "keydiff": kvpress.KeyDiffPress,
    "observed": kvpress.ObservedAttentionPress,
    "tova": kvpress.TOVAPress,
    "snapkv": lambda ratio: kvpress.SnapKVPress(ratio, window_size=inputs.WINDOW,
                                                kernel_size=inputs.POOL),
}


def kept_by_kvpress(score, name, ratio):
    """[heads, kept], ascending. The values are numbered, so that what is left says who it is."""
    keys, values, _ = inputs.layer(name)
    heads, slots, head_dim = keys.shape
    values[:, :, 0] = np.arange(slots)
    attention = inputs.attention(name) if FEATURES[score] else None
    # kvpress takes no GPT-NeoX model; its scorers look at no more of a module than this.
    module = SimpleNamespace(head_dim=head_dim, config=SimpleNamespace(num_attention_heads=heads))
    _, left = PRESSES[score](ratio).compress(
        module, torch.zeros(1, slots, 1), torch.from_numpy(keys)[None], torch.from_numpy(values)[None],
        None if attention is None else torch.from_numpy(attention)[None], {})
    return np.sort(left[0, :, :, 0].numpy().astype(int), axis=1)


def kept_by_l2compress(name, keep_ratio):
    """l2compress' rule on one layer: order by norm, the first ceil(keep_ratio * slots) stay."""
    keys = torch.from_numpy(inputs.layer(name)[0])
    order = torch.norm(keys, p=2, dim=-1).argsort(dim=-1)
    return np.sort(order[:, :math.ceil(keep_ratio * keys.shape[1])].numpy(), axis=1)


def masks(kept, slots):
    """A hexadecimal number for each head; bit j says that slot j is kept."""
    return [f"{sum(1 << int(slot) for slot in head):0{(slots + 3) // 4}x}" for head in kept]


def collect():
    rows = []
    for name, (_, _, slots, _) in inputs.CASES.items():
        for ratio in inputs.COMPRESSION_RATIOS:
            for score in PRESSES:
                rows.append({"rule": score, "case": name, "compression_ratio": ratio,
                             "kept": masks(kept_by_kvpress(score, name, ratio), slots)})
            keep_ratio = round(1 - ratio, 2)
            rows.append({"rule": "l2compress", "case": name, "keep_ratio": keep_ratio,
                         "kept": masks(kept_by_l2compress(name, keep_ratio), slots)})
    return rows


def show(rows):
    """Prints where ours are other slots; how many rows differ."""
    different = 0
    for row in rows:
        ours = masks(kept_by_us(row), inputs.CASES[row["case"]][2])
        others = [bin(int(a, 16) ^ int(b, 16)).count("1") for a, b in zip(ours, row["kept"], strict=True)]
        if any(others):
            different += 1
            ratio = row.get("compression_ratio", row.get("keep_ratio"))
            print(f"{row['rule']:10} {row['case']:16} {ratio:4}: other slots per head {others}")
    print(f"{len(rows)} kept sets, {len(rows) - different} the same as ours")
    return different


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with kept.json, write nothing")
    check = parser.parse_args().check
    rows = collect()
    show(rows)
    document = {"made_by": {name: version(name).split("+")[0] for name in ("kvpress", "torch", "numpy")},
                "rows": rows}
    if check:
        return 0 if json.loads(KEPT.read_text(encoding="utf-8"))["rows"] == rows else 1
    lines = ",\n".join(json.dumps(row) for row in rows)
    KEPT.write_text(f'{{"made_by": {json.dumps(document["made_by"])},\n"rows": [\n{lines}\n]}}\n',
                    encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
