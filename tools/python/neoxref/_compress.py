# SPDX-License-Identifier: Apache-2.0
"""l2_compress: the function that the literature's scripts call, on numpy arrays."""

from __future__ import annotations

from typing import Iterable, List, Literal, Sequence as Many, Tuple

import numpy as np
import numpy.typing as npt

from neoxref import _core
from neoxref._arrays import as_count, as_floats, key_norms
from neoxref._core import Error
from neoxref._press import KeepRatio, ratio_text

Layer = Tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]


def l2_compress(kv: Many[Layer], keep_ratio: KeepRatio = 1, prune_after: int = 2048,
                skip_layers: Iterable[int] = (), *,
                order: Literal["time", "norm"] = "time") -> List[Layer]:
    """Keeps, in each layer, batch row and head, the slots whose keys have the lowest norm.

    kv           per layer (keys, values), float32 or float16 [batch, heads, slots, head_dim]; the
                 slots may differ from layer to layer.
    keep_ratio   ceil(slots * keep_ratio) slots stay, by the exact fraction of the decimal text:
                 0.55 of 100 is 55.
    prune_after  a layer with fewer slots is left alone; one with as many is cut.
    skip_layers  layers that are left alone.
    order        of the kept slots: "time" as they were; "norm" as l2compress leaves them, lowest
                 norm first, lower slot first where two are equal, at a ratio of 1 too. The same
                 slots either way.
    Result       per layer (keys, values) of the same types; new arrays where something was cut, and
                 the caller's own where nothing was. Nothing is changed in place.
    Norms are the contract's: sqrt(dot(k, k)) in binary32 in a fixed order. Ties keep the lower slot.
    Errors       Error for other shapes or types, a norm that is not finite, a layer that is not there.
    """
    if order not in ("time", "norm"):
        raise Error(f"order: unknown name (expected time, norm, found {order})")
    ratio = ratio_text(keep_ratio)
    _core.kept_of_ratio(ratio, 1)  # refuses what is no ratio, even where nothing is cut
    prune_after = as_count(prune_after, "prune_after")
    skipped = {as_count(layer, "skip_layers") for layer in skip_layers}
    if skipped and max(skipped) >= len(kv):
        raise Error(f"skip_layers: no such layer (expected 0 to {len(kv) - 1}, found {max(skipped)})")
    result = []
    for number, (keys, values) in enumerate(kv):
        keys, values = np.asarray(keys), np.asarray(values)
        if values.shape[:3] != keys.shape[:3] or values.ndim != 4:
            raise Error(f"kv: layer {number}: keys and values are not of one shape (expected [batch, "
                        f"heads, slots, head_dim], found {list(keys.shape)} and {list(values.shape)})")
        rows = as_floats(keys, f"kv: layer {number}: keys", "batch, heads, slots, head_dim")
        batch, heads, slots, head_dim = rows.shape
        keep = _core.kept_of_ratio(ratio, slots)
        alone = keep == slots and order == "time"
        if number in skipped or slots < prune_after or alone or batch * heads == 0:
            result.append((keys, values))
            continue
        try:
            norms = key_norms(rows.reshape(batch * heads, slots, head_dim))
        except Error as error:
            raise Error(f"kv: layer {number}: {error}") from None
        kept = _core.select(-norms, keep, 0, 0)
        if order == "norm":
            ranks = np.argsort(np.take_along_axis(norms, kept, axis=1), axis=1, kind="stable")
            kept = np.take_along_axis(kept, ranks, axis=1)
        places = kept.reshape(batch, heads, keep, 1)
        result.append((np.take_along_axis(keys, places, axis=2),
                       np.take_along_axis(values, places, axis=2)))
    return result
