# SPDX-License-Identifier: Apache-2.0
"""Section 4 of docs/contract.md: from logits on."""

import numpy as np

import functions
from arithmetic import F32, decimal, lane_sum

LOW = 0xFFFFFFFF


def philox(counter, key):
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (second >> 32) ^ b ^ k, second & LOW, (first >> 32) ^ d ^ m, first & LOW
        k, m = k + 0x9E3779B9 & LOW, m + 0xBB67AE85 & LOW
    return a, b, c, d


def nll(logits, token):
    largest = logits.max()
    total = F32(lane_sum(functions.apply("exp", logits - largest)))
    return functions.exact("log", float(total)) + (largest - logits[token])


def draw(logits, temperature, top_k, top_p, seed, position, sequence):
    """temperature and top_p are decimal texts."""
    heat = decimal(temperature)
    if heat == 0:
        return int(np.argmax(logits))
    scaled = logits / heat
    p = functions.apply("exp", scaled - scaled.max())
    ranked = sorted(range(len(p)), key=lambda token: (-float(p[token]), token))
    if top_k > 0:
        ranked = ranked[:top_k]
    total = 0.0
    for token in ranked:
        total += float(p[token])
    limit, prefix = float(top_p) * total, 0.0
    for count, token in enumerate(ranked, 1):
        prefix += float(p[token])
        if prefix >= limit:
            ranked = ranked[:count]
            break
    word = philox((position & LOW, position >> 32, sequence & LOW, sequence >> 32),
                  (seed & LOW, seed >> 32))[0]
    limit, running = (word + 0.5) * 2.0 ** -32 * prefix, 0.0
    for token in ranked:
        running += float(p[token])
        if running > limit:
            return token
    raise AssertionError("u is below 1, so some token is past it")
