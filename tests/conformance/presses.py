# SPDX-License-Identifier: Apache-2.0
"""docs/presses.md: which slots a cut keeps."""

from fractions import Fraction

import numpy as np

from arithmetic import F32, F64, dot
from sampling import philox


class Head:
    """One head's slots in cache order, and what every query so far gave each of them."""

    def __init__(self):
        self.keys, self.raw, self.values, self.norms, self.positions = [], [], [], [], []
        self.weights = []  # for each token that has entered: as many as there were slots, or 0

    def keep(self, slots):
        for name in ("keys", "raw", "values", "norms", "positions"):
            column = getattr(self, name)
            setattr(self, name, [column[slot] for slot in slots] if column else [])
        self.weights = [[row[slot] if slot < len(row) else F32(0) for slot in slots]
                        for row in self.weights]


def keep_count(ratio, slots):
    exact = Fraction(ratio)
    return max(1, -(-slots * exact.numerator // exact.denominator))


def norm(x):
    return np.sqrt(dot(x, x))


def drawn(head, slot, window):
    """Of the last `window` queries, in their order."""
    total = 0.0
    for row in head.weights[max(0, len(head.weights) - window):]:
        if slot < len(row):
            total += float(row[slot])
    return total


def key_difference(head):
    directions = np.zeros(len(head.keys[0]), F64)
    for key, length in zip(head.keys, head.norms):
        if length != 0:
            directions = directions + key.astype(F64) / F64(length)
    scores = []
    for key, length in zip(head.keys, head.norms):
        total = 0.0
        for a, b in zip(key.astype(F64), directions):
            total = total + a * b
        scores.append(F32(0) if length == 0 else F32(-(total / F64(length))))
    return scores


def scores_of(press, heads, index, layer, cuts, rotary_dims, bias):
    """Of the slots of one head. heads are those of the layer; bias [head_dim] or None."""
    head, kind = heads[index], press["score"]
    slots, tokens = range(len(head.keys)), len(head.weights)
    seed = int(press["seed"], 16)

    def word(slot, last):
        counter = (head.positions[slot], layer, index, last)
        return F32(philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[0] >> 8)

    def age(slot):
        return tokens - head.positions[slot]

    if kind == "knorm":
        return [-length for length in head.norms]
    if kind == "knorm-high":
        return list(head.norms)
    if kind == "knorm-rot":
        return [-norm(key[:rotary_dims]) for key in head.keys]
    if kind == "knorm-pass":
        return [-norm(key[rotary_dims:]) for key in head.keys]
    if kind == "knorm-centered":
        centred = [key.copy() for key in head.keys]
        if bias is not None:
            for key in centred:
                key[rotary_dims:] -= bias[rotary_dims:]
        return [-norm(key) for key in centred]
    if kind == "vnorm":
        return [norm(value) for value in head.values]
    if kind == "vk-ratio":
        lengths = [norm(value) for value in head.values]
        return [F32(0) if v == 0 else v / k for v, k in zip(lengths, head.norms)]
    if kind == "recent":
        return [F32(slot) for slot in slots]
    if kind == "keydiff":
        return key_difference(head)
    if kind == "random":
        return [word(slot, 0) for slot in slots]
    if kind == "random-fresh":
        return [word(slot, cuts + 1) for slot in slots]
    if kind == "observed":
        return [F32(drawn(head, slot, tokens) / age(slot)) for slot in slots]
    if kind == "observed-sum":
        return [F32(drawn(head, slot, tokens)) for slot in slots]
    if kind == "tova":
        return [F32(2) if age(slot) == 1 else
                F32(sum(drawn(each, slot, 1) for each in heads) / len(heads)) for slot in slots]
    assert kind == "snapkv", kind
    window, reach = min(press["window"], tokens), press["pool"] // 2
    given = [0.0 if age(slot) <= window else drawn(head, slot, window) for slot in slots]
    result = []
    for slot in slots:
        total = 0.0
        for near in range(max(0, slot - reach), min(len(given), slot + reach + 1)):
            total += given[near]
        result.append(F32(2) if age(slot) <= window else F32(total / (window * press["pool"])))
    return result


def kept_slots(press, heads, layer, cuts, rotary_dims, biases):
    """Of each head, in the order in which the cut leaves them."""
    kept_of_heads = []
    slots = len(heads[0].keys)
    room = keep_count(press["keep_ratio"], slots)
    for index in range(len(heads)):
        scores = scores_of(press, heads, index, layer, cuts, rotary_dims,
                           biases[index] if biases is not None else None)

        def best_first(chosen):
            return sorted(chosen, key=lambda slot: (-float(scores[slot]), slot))

        protected = [slot for slot in range(slots)
                     if slot < press["sinks"] or slots - slot <= press["recent"]]
        others = best_first(set(range(slots)) - set(protected))
        kept = sorted(protected + others[:max(0, room - len(protected))])
        if press.get("order") == "score" and len(kept) < slots:
            kept = best_first(kept)
        kept_of_heads.append(kept)
    return kept_of_heads
