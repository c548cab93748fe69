# SPDX-License-Identifier: Apache-2.0
"""Presses: rules that shorten the cache, and the cuts that they will make."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import List, NamedTuple, Optional, Protocol, Tuple, Union, runtime_checkable

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


@runtime_checkable
class OwnScore(Protocol):
    """A researcher's own score: any object with these members can be a Press's score.

    It may set `name` too; otherwise it goes by the name of its class.
    """

    #: True if a slot's score depends on its own key, value, norm and position only.
    static: bool

    def score(self, keys: Floats, values: Floats, key_norms: Floats,
              positions: npt.NDArray[np.int32], layer: int) -> npt.ArrayLike:
        """Scores of a layer's slots at a cut: [heads, slots]; higher is kept, ties to the lower slot.

        keys, values  [heads, slots, head_dim], keys after rotary; copies, in time order.
        key_norms     [heads, slots], as stored when the keys entered.
        positions     [heads, slots], of the tokens in their text.
        Real numbers, which are rounded to float32; NaN and other shapes are an Error that names the
        score. It cannot use a model while it is being asked. What it raises comes out of the call
        that fed the tokens, and the sequence is stopped.
        """


class Asker:
    """Asks an own score, and checks what it gives."""

    def __init__(self, own: OwnScore) -> None:
        self._own = own
        self.name = str(getattr(own, "name", type(own).__name__))
        static = getattr(own, "static", None)
        if not isinstance(static, (bool, np.bool_)):
            raise Error(f"score {self.name}: does not say whether it is static (expected an "
                        f"attribute static that is True or False, found {static!r})")
        self.static = bool(static)

    def __call__(self, keys: Floats, values: Floats, key_norms: Floats,
                 positions: npt.NDArray[np.int32], layer: int) -> Floats:
        given = np.asarray(self._own.score(keys, values, key_norms, positions, layer))
        if given.shape != keys.shape[:2]:
            raise Error(f"score {self.name}: not of this shape (expected [heads, slots] = "
                        f"{list(keys.shape[:2])}, found {list(given.shape)})")
        if given.dtype.kind not in "fiu":
            raise Error(f"score {self.name}: not of this type (expected real numbers, "
                        f"found {given.dtype})")
        if np.isnan(given).any():
            head, slot = np.argwhere(np.isnan(given))[0]
            raise Error(f"score {self.name}: a score is NaN (layer {layer}, head {head}, slot {slot})")
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(given, dtype=np.float32)


Each = Union[int, Tuple[int, ...]]


@dataclass(frozen=True)
class Press:
    """A rule that shortens the cache: score x budget x trigger x protection x positions.

    Formulas, rounding, ties and sources: docs/presses.md. The budget is one of keep_ratio,
    keep_slots and keep_bytes, each one value for all layers or a tuple with one for each layer.
    """

    #: The share of the slots that a cut keeps, an exact fraction of its decimal text.
    keep_ratio: Union[KeepRatio, Tuple[KeepRatio, ...]] = "1"
    #: Which slots are worth keeping: knorm, knorm-high, knorm-rot, knorm-pass, knorm-centered,
    #: vnorm, vk-ratio, recent, keydiff, random, random-fresh, observed, observed-sum, tova, snapkv,
    #: or an OwnScore.
    score: Union[str, OwnScore] = "knorm"
    #: If not 0: as many slots, instead of a share.
    keep_slots: Each = 0
    #: If not 0: as many slots as have their keys and values in so many bytes of one layer.
    keep_bytes: Each = 0
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
    #: Last queries that snapkv looks at.
    window: int = 32
    #: Slots that snapkv smooths over; odd.
    pool: int = 5
    #: Of the kept slots: time, or score (the best first, to show what that does).
    order: str = "time"
    _made: _core.Press = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("keep_ratio", "keep_slots", "keep_bytes", "skip_layers"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "skip_layers",
                           tuple(as_count(layer, "skip_layers") for layer in self.skip_layers))
        object.__setattr__(self, "_made", self._make())

    def _budgets(self) -> List[Tuple[str, int, int]]:
        given = [name for name, default in (("keep_ratio", "1"), ("keep_slots", 0), ("keep_bytes", 0))
                 if isinstance(getattr(self, name), tuple) or getattr(self, name) != default]
        if len(given) > 1:
            raise Error(f"budget: more than one (expected one of keep_ratio, keep_slots, keep_bytes, "
                        f"found {', '.join(given)})")
        name = given[0] if given else "keep_ratio"
        values = getattr(self, name)
        values = values if isinstance(values, tuple) else (values,)
        if not values:
            raise Error(f"{name}: nothing in it")
        if name == "keep_ratio":
            return [(ratio_text(value), 0, 0) for value in values]
        counts = [as_count(value, name, 1) for value in values]
        return [("1", count, 0) if name == "keep_slots" else ("1", 0, count) for count in counts]

    def _make(self) -> _core.Press:
        asker = None if isinstance(self.score, str) else Asker(self._own())
        return _core.Press(
            score=self.score_name if asker is None else asker.name, ask=asker,
            is_static=asker is not None and asker.static, budgets=self._budgets(),
            trigger=self.trigger, prune_after=as_count(self.prune_after, "prune_after"),
            interval=as_count(self.interval, "interval"), sinks=as_count(self.sinks, "sinks"),
            recent=as_count(self.recent, "recent"), positions=self.positions,
            skip_layers=list(self.skip_layers), seed=as_count(self.seed, "seed", below=2**64),
            window=as_count(self.window, "window"), pool=as_count(self.pool, "pool"),
            order=self.order)

    def _own(self) -> OwnScore:
        if isinstance(self.score, type) or not callable(getattr(self.score, "score", None)):
            raise Error(f"score: not usable (expected a name, or an object with a function score, "
                        f"found {self.score!r})")
        return self.score  # type: ignore[return-value]

    @property
    def score_name(self) -> str:
        """What the score is called."""
        if isinstance(self.score, str):
            return self.score
        return str(getattr(self.score, "name", type(self.score).__name__))

    def core(self, slot_bytes: int = 0) -> _core.Press:
        """What the library takes; budgets of bytes made slots of where slot_bytes is given: those of
        one slot in all heads of a layer, heads * head_dim * 8."""
        return self._made.resolved(slot_bytes) if slot_bytes else self._made

    def _resolved(self, slot_bytes: int) -> _core.Press:
        if self.keep_bytes and not slot_bytes:
            raise Error("slot_bytes: a budget of bytes needs it (expected heads * head_dim * 8)")
        return self.core(slot_bytes)

    def keep(self, length: int, layer: int = 0, slot_bytes: int = 0) -> int:
        """Slots that a cut of a layer of this length leaves: the budget, or the protected ones
        where they are more.

        layer       where the budget is given layer by layer.
        slot_bytes  where it is given in bytes: heads * head_dim * 8 of the model.
        """
        return self._resolved(slot_bytes).keep(self._layer(layer), as_count(length, "length"))

    def _layer(self, layer: int) -> int:
        layers = len(self._budgets())
        if layers > 1 and as_count(layer, "layer") >= layers:
            raise Error(f"layer: no such budget (expected 0 to {layers - 1}, found {layer})")
        return as_count(layer, "layer")

    def scores(self, keys: npt.ArrayLike, values: Optional[npt.ArrayLike] = None,
               positions: Optional[npt.ArrayLike] = None, *, layer: int = 0, rotary_dims: int = 0,
               key_bias: Optional[npt.ArrayLike] = None,
               attention: Optional[npt.ArrayLike] = None, cuts: int = 0) -> Floats:
        """What this press makes of any keys and values: float32 [heads, slots], higher is kept.

        keys         float32 or float16 [heads, slots, head_dim], after rotary.
        values       likewise; may be left out where the score does not look at them.
        positions    int32 [heads, slots]; by default 0, 1, 2, ...
        layer, cuts  which layer and how many cuts it has had, for the random scores.
        rotary_dims  the first dims, which rotate, for knorm-rot, -pass and -centered.
        key_bias     [heads, head_dim], for knorm-centered.
        attention    float32 [heads, slots, slots], for observed, tova and snapkv: what each query gave
                     each slot; query i is the token of slot i, and what it gave later ones is not
                     looked at.
        """
        layers = Layers.of(self, keys, values, positions, rotary_dims, key_bias, attention)
        return _core.scores(self.core(layers.slot_bytes), layers.keys, layers.values, layers.positions,
                            as_count(layer, "layer", below=2**20), rotary_dims, layers.key_bias, layers.attention,
                            as_count(cuts, "cuts"))

    def kept(self, keys: npt.ArrayLike, values: Optional[npt.ArrayLike] = None,
             positions: Optional[npt.ArrayLike] = None, *, layer: int = 0, rotary_dims: int = 0,
             key_bias: Optional[npt.ArrayLike] = None, attention: Optional[npt.ArrayLike] = None,
             cuts: int = 0) -> npt.NDArray[np.int64]:
        """The slots that a cut of such a layer keeps, ascending: [heads, keep(slots)].

        Arguments: as scores.
        """
        ranked = self.scores(keys, values, positions, layer=layer, rotary_dims=rotary_dims,
                             key_bias=key_bias, attention=attention, cuts=cuts)
        heads, slots, head_dim = np.shape(keys)
        return _core.select(ranked, self.keep(slots, layer, heads * head_dim * 8), self.sinks,
                            self.recent)


class Layers(NamedTuple):
    """One layer's arrays as the library takes them."""

    keys: Floats
    values: Floats
    positions: npt.NDArray[np.int32]
    key_bias: Floats   #: [0, head_dim] where there is none
    attention: Floats  #: [0, slots, slots] where there is none
    slot_bytes: int

    @classmethod
    def of(cls, press: Press, keys: npt.ArrayLike, values: Optional[npt.ArrayLike],
           positions: Optional[npt.ArrayLike], rotary_dims: int, key_bias: Optional[npt.ArrayLike],
           attention: Optional[npt.ArrayLike]) -> "Layers":
        """Errors: Error for shapes that do not fit, and for what the score needs and lacks."""
        rows = as_floats(keys, "keys", "heads, slots, head_dim")
        heads, slots, head_dim = rows.shape
        if values is None and (press.score in ("vnorm", "vk-ratio") or
                               not isinstance(press.score, str)):
            raise Error(f"values: the score {press.score_name} needs them")
        if attention is not None and positions is not None:
            raise Error("positions: with attention they are 0, 1, 2, ...")
        if attention is None and press.score in ("observed", "observed-sum", "tova", "snapkv"):
            raise Error(f"attention: the score {press.score_name} needs it")
        if positions is None:
            positions = np.tile(np.arange(slots, dtype=np.int32), (heads, 1))
        made = cls(
            rows,
            np.zeros_like(rows) if values is None
            else as_floats(values, "values", "heads, slots, head_dim"),
            np.ascontiguousarray(positions, dtype=np.int32),
            np.zeros((0, head_dim), np.float32) if key_bias is None
            else as_floats(key_bias, "key_bias", "heads, head_dim"),
            np.zeros((0, slots, slots), np.float32) if attention is None
            else as_floats(attention, "attention", "heads, queries, slots"),
            heads * head_dim * 8)
        for name, array, shape in (
                ("values", made.values, rows.shape), ("positions", made.positions, rows.shape[:2]),
                ("key_bias", made.key_bias, (heads if len(made.key_bias) else 0, head_dim)),
                ("attention", made.attention, (heads if len(made.attention) else 0, slots, slots))):
            if array.shape != shape:
                raise Error(f"{name}: not of this shape (expected {list(shape)}, "
                            f"found {list(array.shape)})")
        if as_count(rotary_dims, "rotary_dims") > head_dim:
            raise Error(f"rotary_dims: out of range (expected at most {head_dim}, "
                        f"found {rotary_dims})")
        layers = max(len(press._budgets()), max(press.skip_layers, default=0) + 1)
        press.core().check(layers, head_dim, rotary_dims)
        return made


class PlannedCut(NamedTuple):
    """A cut to come, of each layer that is not skipped."""

    token: int   #: index of the last token that had entered
    before: int  #: slots
    after: int


def plan(press: Press, tokens: int, untouched: int = 0, *, layer: int = 0,
         slot_bytes: int = 0) -> List[PlannedCut]:
    """The cuts of a layer that is not skipped, before anything runs.

    By integer arithmetic that shares no code with the engine.
    tokens             that enter.
    untouched          the first of them, which enter before the press is set, and are its prompt.
    layer, slot_bytes  as Press.keep.
    """
    return [PlannedCut(*cut) for cut in
            _core.plan(press._resolved(slot_bytes), as_count(tokens, "tokens"),
                       as_count(untouched, "untouched"), press._layer(layer))]
