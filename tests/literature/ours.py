# SPDX-License-Identifier: Apache-2.0
"""What the package keeps of the same layers; no torch needed."""

import inputs
import neoxref
import numpy as np

# Rule -> whether it ranks by attention.
FEATURES = {"knorm": False, "keydiff": False, "observed": True, "tova": True, "snapkv": True,
            "l2compress": False}


def press_of(rule, slots):
    return neoxref.Press(score=rule, keep_slots=slots, window=inputs.WINDOW, pool=inputs.POOL)


def arrays_of(row):
    keys, values, _ = inputs.layer(row["case"])
    attention = inputs.attention(row["case"]) if FEATURES[row["rule"]] else None
    return {"keys": keys, "values": values, "attention": attention}


def scores_by_us(row):
    """Float32 [heads, slots]."""
    if row["rule"] == "l2compress":
        return -neoxref.key_norms(inputs.layer(row["case"])[0])
    return press_of(row["rule"], 1).scores(**arrays_of(row))


def kept_by_us(row):
    """[heads, kept], ascending; as many as the other tool keeps, where that rounds otherwise."""
    if row["rule"] == "l2compress":
        keys = inputs.layer(row["case"])[0]
        numbers = np.tile(np.arange(keys.shape[1], dtype=np.float32), (keys.shape[0], 1))
        left = neoxref.l2_compress([(keys[None], numbers[None, :, :, None])], row["keep_ratio"], 0)
        return left[0][1][0, :, :, 0].astype(int)
    return press_of(row["rule"], int(row["kept"][0], 16).bit_count()).kept(**arrays_of(row))
