# SPDX-License-Identifier: Apache-2.0
"""Random layers for the comparison with other people's scorers: the same bytes on every machine.

Only the raw words of a bit generator are used, whose stream numpy promises never to change.
"""

from functools import lru_cache

import numpy as np

# name: seed, heads, slots, head_dim
CASES = {
    "pythia-70m head": (11, 4, 200, 64),
    "narrow": (12, 3, 129, 20),
    "short": (13, 2, 66, 32),
    "outliers": (14, 4, 256, 64),
    "ties": (15, 2, 100, 16),
}
# Shares that go, and what kvpress 0.5.5 keeps of n: max(1, int(n * (1 - ratio))).
COMPRESSION_RATIOS = (0.1, 0.25, 0.5, 0.9)
# Queries at the end that snapkv looks at, and slots that it smooths over.
WINDOW, POOL = 32, 5


def bell(words):
    """Numbers around 0 with a variance of 1/3, each a sum of four 16-bit parts of a word: exact."""
    parts = words[..., np.newaxis] >> np.array([0, 16, 32, 48], np.uint64) & np.uint64(0xffff)
    return ((parts.sum(axis=-1).astype(np.int64) - 131070) / 65536).astype(np.float32)


def layer(name):
    """keys, values, queries float32 [heads, slots, head_dim]."""
    seed, heads, slots, head_dim = CASES[name]
    words = np.random.PCG64(seed).random_raw(3 * heads * slots * head_dim)
    keys, values, queries = bell(words.reshape(3, heads, slots, head_dim))
    if name == "outliers":
        # As in trained models: a common direction, loud channels, a first key that all attend to.
        keys[:, :, 3] += 4
        keys[:, :, 7] *= 6
        keys[:, 0] *= np.float32(0.125)
        queries[:, :, 3] -= 2
    if name == "ties":
        # Few different norms: whole numbers, most of them 0.
        keys = np.rint(keys * np.float32(0.75))
    return keys, values, queries


@lru_cache(maxsize=None)
def attention(name):
    """Causal attention, float32 [heads, queries, slots]: softmax(q k / sqrt(head_dim)) in binary64."""
    keys, _, queries = (array.astype(np.float64) for array in layer(name))
    scores = queries @ keys.transpose(0, 2, 1) / np.sqrt(keys.shape[2])
    scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    return (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)
