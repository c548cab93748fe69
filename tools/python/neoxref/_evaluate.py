# SPDX-License-Identifier: Apache-2.0
"""Perplexity against the share of the cache that is kept: the sweep of `neoxref eval`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import (Any, Callable, Dict, Iterable, List, Literal, Mapping, Optional, Tuple, Type,
                    TypeVar, Union)

import numpy as np
import numpy.typing as npt

from neoxref import _core
from neoxref._arrays import Tokens, as_count, as_tokens
from neoxref._core import Error
from neoxref._model import Model
from neoxref._press import Press

Protocol = Literal["two-phase", "all", "after-first-cut", "sliding", "fixed"]
Made = TypeVar("Made")


@dataclass(frozen=True)
class _Figures:
    tokens: int           #: that were used
    scored: int           #: tokens that were predicted and counted
    nll: float            #: sum over the scored tokens
    full_nll: float       #: that of the uncompressed run over the same tokens
    kl_sum: float         #: of the next-token distributions, uncompressed to this; nats
    correct: int          #: scored tokens that were the arg-max
    agreed: int           #: arg-maxes equal to those of the uncompressed run
    after_cut: int        #: scored tokens whose logits came after a cut
    bytes: int            #: of the scored tokens
    words: int            #: that begin in them
    cuts: Tuple[int, ...]  #: per layer
    mean_slots: float     #: per layer: slots that the logits of the scored tokens saw
    mean_bytes: float     #: bytes of keys and values that they saw
    peak_bytes: int
    seconds: float        #: forward passes and cuts
    digest: str           #: of the logits that scored, in order

    @property
    def perplexity(self) -> float:
        """exp(nll / scored); NaN where nothing is scored."""
        return math.exp(self.nll / self.scored) if self.scored else math.nan

    @property
    def baseline_perplexity(self) -> float:
        """That of the uncompressed run over the same tokens."""
        return math.exp(self.full_nll / self.scored) if self.scored else math.nan

    @property
    def log_ratio(self) -> float:
        """Mean of nll - full nll: the logarithm of perplexity over baseline perplexity."""
        return (self.nll - self.full_nll) / self.scored if self.scored else math.nan

    @property
    def accuracy(self) -> float:
        """Share of the scored tokens that were the arg-max."""
        return self.correct / self.scored if self.scored else math.nan

    @property
    def agreement(self) -> float:
        """Share of the scored tokens with the arg-max of the uncompressed run."""
        return self.agreed / self.scored if self.scored else math.nan

    @property
    def kl(self) -> float:
        """Mean Kullback-Leibler divergence from the uncompressed run; nats."""
        return self.kl_sum / self.scored if self.scored else math.nan

    @property
    def bits_per_byte(self) -> float:
        """nll in bits over the bytes of the scored tokens."""
        return self.nll / math.log(2) / self.bytes if self.bytes else math.nan


@dataclass(frozen=True)
class TextRow(_Figures):
    """One text under one press."""

    name: str
    before_first_cut: int                  #: tokens that entered before it; all where there was none
    never_cut: bool                        #: compressed, and some layer had no cut that a score felt
    effective_prune_after: Optional[int]   #: None where nothing is scored
    per_token: Dict[str, npt.NDArray[Any]]
    #: [scored] each: nll, full_nll, kl, token, position, cuts, since_cut, correct, agrees


@dataclass(frozen=True)
class Row(_Figures):
    """One press over all texts."""

    label: str            #: the budget
    score: str            #: "none" for the uncompressed row
    trigger: str
    prune_after: int
    seed: int
    control: bool
    compressed: bool
    full_row: int         #: index of the uncompressed row that scores the same tokens
    items_correct: int    #: texts whose scored tokens were all the arg-max
    document_perplexity: float
    interval: Optional[Tuple[float, float, str]]  #: 95 % of log_ratio: low, high, over what
    texts: Tuple[TextRow, ...]


class Evaluation(List[Row]):
    """The rows of evaluate(), in order."""


class NotCut(Error):
    """A compressed row has a text that was never cut, so it measures no compression there."""

    def __init__(self, message: str, rows: Evaluation) -> None:
        super().__init__(message)
        self.rows = rows  #: what was found nevertheless


def _make(kind: Type[Made], values: Dict[str, Any]) -> Made:
    return kind(**{field.name: values[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _texts(model: Model, texts: Any) -> List[Tuple[str, npt.NDArray[np.int32], int]]:
    if isinstance(texts, str):
        texts = [texts]
    named = texts.items() if isinstance(texts, Mapping) else (
        (f"text {number}", text) for number, text in enumerate(texts))
    return [(str(name), model.encode(text) if isinstance(text, str) else as_tokens(text, str(name)), 0)
            for name, text in named]


def evaluate(model: Model, texts: Union[str, Mapping[str, Union[str, Tokens]],
                                        Iterable[Union[str, Tokens]]],
             presses: Iterable[Press], *, protocol: Protocol = "two-phase", max_tokens: int = 1024,
             stride: int = 0, bos: bool = False, controls: int = 0, allow_no_cuts: bool = False,
             progress: Optional[Callable[[float], object]] = None) -> Evaluation:
    """Runs texts through presses, each beside the uncompressed run over the same tokens.

    texts          one, several, or several by name; texts or token ids [tokens].
    presses        rules to compare; own scores too.
    protocol       two-phase, all, after-first-cut, sliding or fixed: docs/protocols.md.
    max_tokens     of each text, or of a window of sliding and fixed.
    stride         of sliding.
    bos            puts <|endoftext|> first, which is never scored.
    controls       if not 0, beside each budget: so many seeds of random and random-fresh, and recent,
                   with slots equal at every step.
    allow_no_cuts  otherwise a compressed row with a text that was never cut is an error.
    progress       called with the share done, from 0 to 1.
    Result         for each trigger and prune_after the uncompressed row, then its presses, with the
                   figures of `neoxref eval --json`. Each run's cuts are held to plan().
    Errors         Error for what the model refuses; NotCut, which holds the rows.
    """
    first_token = model.tokenizer.id_of("<|endoftext|>") if bos else None
    if bos and first_token is None:
        raise Error("bos: the tokenizer has no such token (expected <|endoftext|>)")
    arms: List[Tuple[str, _core.Press, int]] = []
    schedules: Dict[Press, int] = {}
    for press in presses:
        # Presses that differ in their score only must have the same slots at every step.
        alike = replace(press, score="recent", seed=0, window=32, pool=5, order="time")
        schedule = schedules.setdefault(alike, len(schedules) + 1)
        arms.append((press.core().budget_text(), press.core(), schedule))
    arms.sort(key=lambda arm: arm[2])
    found = _core.evaluate(
        model._core, model.tokenizer._core, _texts(model, texts), arms, protocol,
        as_count(max_tokens, "max_tokens"), as_count(stride, "stride"), first_token,
        as_count(controls, "controls"), progress)
    rows = Evaluation()
    for values in found:
        values["texts"] = tuple(_make(TextRow, text) for text in values["texts"])
        rows.append(_make(Row, values))
    missing = [f"{row.score} {row.label}: {text.name}" for row in rows for text in row.texts
               if text.never_cut]
    if missing and not allow_no_cuts:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise NotCut(f"nothing was cut in {', '.join(missing[:3])}{more}: such rows show no "
                     f"compression (allow_no_cuts=True goes on)", rows)
    return rows
