# SPDX-License-Identifier: Apache-2.0
"""Generation: tokens drawn one by one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, List, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt

from neoxref import _core
from neoxref._arrays import Digest, Tokens, as_count, as_tokens
from neoxref._core import Error
from neoxref._press import Press

if TYPE_CHECKING:
    from neoxref._model import Cut, Model


@dataclass(frozen=True)
class Generation:
    """What Model.generate made."""

    text: str                                #: up to a stop text
    tokens: npt.NDArray[np.int32]            #: [new tokens], an end-of-text token included
    prompt_tokens: npt.NDArray[np.int32]     #: [prompt tokens]
    finish: str                              #: max_new, context, eos or stop
    digest: str                              #: of the logits that were drawn from, in order
    cuts: List[Cut]                          #: every cut
    lengths: npt.NDArray[np.int64]           #: [layers, heads], slots at the end
    time_to_first_token: Optional[float]     #: seconds from ids in until the first new id is known
    tokens_per_second: Optional[float]       #: (new - 1) / time from the first new id to the last


class StopFilter:
    """Text that may be shown: all before a stop text, and nothing that could still become one."""

    def __init__(self, stops: Tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max((len(stop) for stop in stops), default=0)
        self._pending = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        self._pending += piece
        found = [at for at in map(self._pending.find, self._stops) if at >= 0]
        if found:
            self.stopped = True
            return self._take(min(found))
        held = min(max(self._longest - 1, 0), len(self._pending))
        while held > 0:
            tail = self._pending[len(self._pending) - held:]
            if any(stop.startswith(tail) for stop in self._stops):
                break
            held -= 1
        return self._take(len(self._pending) - held)

    def finish(self) -> str:
        return "" if self.stopped else self._take(len(self._pending))

    def _take(self, count: int) -> str:
        ready, self._pending = self._pending[:count], self._pending[count:]
        return ready


def generate(model: Model, prompt: Union[str, Tokens], max_new: int, temperature: float, top_k: int,
             top_p: float, seed: int, stop: Tuple[str, ...], ignore_eos: bool,
             press: Optional[Press], on_text: Optional[Callable[[str], object]]) -> Generation:
    """As Model.generate."""
    if any(not text for text in stop):
        raise Error("stop: not usable (expected a text, found nothing)")
    max_new = as_count(max_new, "max_new")
    ids = model.encode(prompt) if isinstance(prompt, str) else as_tokens(prompt, "prompt")
    context = model.config.max_positions
    # Renumbered slots never run out of positions.
    endless = press is not None and press.positions == "rerotate"
    if len(ids) == 0:
        raise Error("prompt: no tokens")
    if not endless and len(ids) > context:
        raise Error(f"prompt: longer than the context of the model (expected at most {context} "
                    f"tokens, found {len(ids)})")
    # The last new token need not enter the cache.
    limit = max_new if endless else min(max_new, context - len(ids) + 1)
    sequence = model.sequence(min(context, len(ids) + limit), press)
    sampler = _core.Sampler(model._core, temperature, as_count(top_k, "top_k"), top_p,
                            as_count(seed, "seed", below=2**64))
    decoder = _core.StreamDecoder(model.tokenizer._core)
    shown = StopFilter(stop)
    digest = Digest()
    text: List[str] = []

    def show(piece: str) -> None:
        if piece:
            text.append(piece)
            if on_text is not None:
                on_text(piece)

    tokens: List[int] = []
    finish = "context" if limit < max_new else "max_new"
    begin = time.perf_counter()
    times: List[float] = []
    following = ids
    while len(tokens) < limit:
        logits = sequence.feed(following)
        assert logits is not None
        if not tokens:
            sequence.end_prompt()
        digest.add(logits)
        token = sampler.draw(logits, sequence.position, 0)
        times.append(time.perf_counter())
        tokens.append(token)
        if not ignore_eos and token in model.config.eos_token_ids:
            finish = "eos"
            break
        # A model may have more rows than its tokenizer has tokens; these stand for no text.
        if token < model.tokenizer.vocab_size:
            show(shown.push(decoder.push(token)))
        if shown.stopped:
            break
        following = np.array([token], dtype=np.int32)
    if not shown.stopped:
        show(shown.push(decoder.finish()))
        show(shown.finish())
    spent = times[-1] - times[0] if len(times) > 1 else 0.0
    return Generation(
        text="".join(text), tokens=np.array(tokens, dtype=np.int32), prompt_tokens=ids,
        finish="stop" if shown.stopped else finish, digest=digest.hex(), cuts=sequence.cuts,
        lengths=sequence.lengths, time_to_first_token=times[0] - begin if times else None,
        tokens_per_second=(len(times) - 1) / spent if spent > 0.0 else None)
