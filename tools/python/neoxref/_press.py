# SPDX-License-Identifier: Apache-2.0
"""Presses: rules that shorten the cache, and the cuts that they will make."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import List, NamedTuple, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt

from neoxref import _core
from neoxref._arrays import Floats, as_count, as_floats
from neoxref._core import Error

KeepRatio = Union[str, int, float, Decimal]


def ratio_text(ratio: KeepRatio) -> str:
    """The decimal text of a ratio: that of a float is the shortest that reads back as it, so that
    0.9 means nine tenths."""
    if isinstance(ratio, bool) or not isinstance(ratio, (str, int, float, Decimal, np.floating)):
        raise Error(f"keep_ratio: not usable (expected a decimal number such as 0.9, found {ratio!r})")
    if isinstance(ratio, str):
        return ratio
    if isinstance(ratio, np.floating):
        ratio = Decimal(np.format_float_positional(ratio, unique=True, trim="-"))
    number = Decimal(repr(ratio)) if isinstance(ratio, float) else Decimal(ratio)
    if not math.isfinite(number):
        raise Error(f"keep_ratio: not usable (expected a decimal number such as 0.9, found {ratio})")
    return format(number, "f")


@dataclass(frozen=True)
class Press:
    """A rule that shortens the cache: score x budget x trigger x protection x positions.

    Formulas, rounding, ties and sources: docs/presses.md.
    """

    #: The budget: the share of the slots that a cut keeps, an exact fraction of its decimal text.
    keep_ratio: KeepRatio = "1"
    #: Which slots are worth keeping: knorm, knorm-high, knorm-rot, knorm-pass, knorm-centered,
    #: vnorm, vk-ratio, recent, keydiff, random, random-fresh.
    score: str = "knorm"
    #: If not 0: the budget as a number of slots, instead of keep_ratio.
    slots: int = 0
    #: When a layer is cut: exceeds, reaches, after-prompt, every.
    trigger: str = "exceeds"
    #: The length P that `exceeds` and `reaches` look at.
    prune_after: int = 256
    #: Tokens between two cuts of the trigger `every`.
    interval: int = 0
    #: The first slots, always kept.
    sinks: int = 0
    #: The last slots, always kept.
    recent: int = 0
    #: Rotary positions once slots are gone: original, rerotate, cache-length.
    positions: str = "original"
    #: Layers that are never cut.
    skip_layers: Tuple[int, ...] = (0,)
    #: Of the random scores.
    seed: int = 0
    _made: _core.Press = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip_layers",
                           tuple(as_count(layer, "skip_layers") for layer in self.skip_layers))
        object.__setattr__(self, "_made", self._make())

    def _make(self) -> _core.Press:
        return _core.Press(
            score=self.score, keep_ratio=ratio_text(self.keep_ratio),
            slots=as_count(self.slots, "slots"), trigger=self.trigger,
            prune_after=as_count(self.prune_after, "prune_after"),
            interval=as_count(self.interval, "interval"), sinks=as_count(self.sinks, "sinks"),
            recent=as_count(self.recent, "recent"), positions=self.positions,
            skip_layers=list(self.skip_layers), seed=as_count(self.seed, "seed", below=2**64))

    def core(self) -> _core.Press:
        """What the library takes."""
        return self._made

    def keep(self, length: int) -> int:
        """Slots that a cut of a layer of this length leaves: the budget, or the protected ones
        where they are more."""
        return self.core().keep(as_count(length, "length"))

    def scores(self, keys: npt.ArrayLike, values: Optional[npt.ArrayLike] = None,
               positions: Optional[npt.ArrayLike] = None, *, layer: int = 0, rotary_dims: int = 0,
               key_bias: Optional[npt.ArrayLike] = None, cuts: int = 0) -> Floats:
        """What this press makes of any keys and values: float32 [heads, slots], higher is kept.

        keys         float32 or float16 [heads, slots, head_dim], after rotary.
        values       likewise; may be left out where the score does not look at them.
        positions    int32 [heads, slots]; by default 0, 1, 2, ...
        layer, cuts  which layer and how many cuts it has had, for the random scores.
        rotary_dims  the first dims, which rotate, for knorm-rot, -pass and -centered.
        key_bias     [heads, head_dim], for knorm-centered.
        """
        rows = as_floats(keys, "keys", "heads, slots, head_dim")
        heads, slots, head_dim = rows.shape
        if values is None:
            if self.score in ("vnorm", "vk-ratio"):
                raise Error(f"values: the score {self.score} needs them")
            values = np.zeros_like(rows)
        others = as_floats(values, "values", "heads, slots, head_dim")
        if positions is None:
            positions = np.tile(np.arange(slots, dtype=np.int32), (heads, 1))
        places = np.ascontiguousarray(positions, dtype=np.int32)
        bias = (np.zeros((0, head_dim), np.float32) if key_bias is None
                else as_floats(key_bias, "key_bias", "heads, head_dim"))
        for name, array, shape in (("values", others, rows.shape), ("positions", places, rows.shape[:2]),
                                   ("key_bias", bias, (bias.shape[0] and heads, head_dim))):
            if array.shape != shape:
                raise Error(f"{name}: not of this shape (expected {list(shape)}, "
                            f"found {list(array.shape)})")
        rotary_dims = as_count(rotary_dims, "rotary_dims")
        if rotary_dims > head_dim:
            raise Error(f"rotary_dims: out of range (expected at most {head_dim}, "
                        f"found {rotary_dims})")
        self.core().check(max(self.skip_layers, default=0) + 1, head_dim, rotary_dims)
        return _core.scores(self.core(), rows, others, places, as_count(layer, "layer"), rotary_dims,
                            bias, as_count(cuts, "cuts"))

    def kept(self, keys: npt.ArrayLike, values: Optional[npt.ArrayLike] = None,
             positions: Optional[npt.ArrayLike] = None, *, layer: int = 0, rotary_dims: int = 0,
             key_bias: Optional[npt.ArrayLike] = None, cuts: int = 0) -> npt.NDArray[np.int64]:
        """The slots that a cut of such a layer keeps, ascending: [heads, keep(slots)].

        Arguments: as scores.
        """
        ranked = self.scores(keys, values, positions, layer=layer, rotary_dims=rotary_dims,
                             key_bias=key_bias, cuts=cuts)
        return _core.select(ranked, self.keep(ranked.shape[1]), self.sinks, self.recent)


class PlannedCut(NamedTuple):
    """A cut to come, of each layer that is not skipped."""

    token: int   #: index of the last token that had entered
    before: int  #: slots
    after: int


def plan(press: Press, tokens: int, untouched: int = 0) -> List[PlannedCut]:
    """The cuts of a layer that is not skipped, before anything runs.

    By integer arithmetic that shares no code with the engine.
    tokens     that enter.
    untouched  the first of them, which enter before the press is set, and are its prompt.
    """
    return [PlannedCut(*cut) for cut in
            _core.plan(press.core(), as_count(tokens, "tokens"), as_count(untouched, "untouched"))]
