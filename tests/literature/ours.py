# SPDX-License-Identifier: Apache-2.0
"""What the package keeps of the same layers; no torch needed."""

import inputs
import neoxref
import numpy as np

# Rule -> whether it ranks by attention.
FEATURES = {"knorm": False, "keydiff": False, "l2compress": False}


def with_attention(rule):
    return FEATURES.get(rule, True)


def press_of(rule, slots):
    return neoxref.Press(score=rule, slots=slots)


def scores_by_us(row):
    """Float32 [heads, slots]."""
    keys, values, _ = inputs.layer(row["case"])
    if row["rule"] == "l2compress":
        return -neoxref.key_norms(keys)
    return press_of(row["rule"], 1).scores(keys, values)


def kept_by_us(row):
    """[heads, kept], ascending; as many as the other tool keeps, where that rounds otherwise."""
    keys, values, _ = inputs.layer(row["case"])
    if row["rule"] == "l2compress":
        numbers = np.tile(np.arange(keys.shape[1], dtype=np.float32), (keys.shape[0], 1))
        left = neoxref.l2_compress([(keys[None], numbers[None, :, :, None])], row["keep_ratio"], 0)
        return left[0][1][0, :, :, 0].astype(int)
    return press_of(row["rule"], int(row["kept"][0], 16).bit_count()).kept(keys, values)
