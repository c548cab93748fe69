# SPDX-License-Identifier: Apache-2.0
"""A loaded model and the sequences that run through it."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import (Any, Dict, Iterable, List, Literal, NamedTuple, Optional, Sequence as Many, Tuple,
                    Union, overload)

import numpy as np
import numpy.typing as npt

from neoxref import _core
from neoxref._arrays import Floats, Tokens, as_count, as_tokens
from neoxref._core import Error
from neoxref._generate import Generation, generate
from neoxref._press import Press
from neoxref._tokenizer import Tokenizer

Rows = Literal["all", "last", "none"]
Arrays = Dict[str, npt.NDArray[Any]]
_DATA = Path(__file__).parent / "data"


def as_names(tensors: Union[None, str, Iterable[str]]) -> List[str]:
    """Names of tensors as the library takes them; a text may hold several, commas between."""
    if tensors is None:
        return []
    names = tensors.split(",") if isinstance(tensors, str) else list(tensors)
    for name in names:
        if not isinstance(name, str):
            raise Error(f"tensors: not a name (found {name!r})")
    return names


@dataclass(frozen=True)
class Config:
    """Shape and constants of a GPT-NeoX model; heads * head_dim = hidden."""

    hidden: int
    layers: int
    heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_positions: int
    rotary_pct: float
    rotary_dims: int
    rotary_base: float
    layer_norm_eps: float
    parallel_residual: bool
    attention_bias: bool
    tie_word_embeddings: bool
    bos_token_id: Optional[int]
    eos_token_ids: Tuple[int, ...]


class Cut(NamedTuple):
    """One cut of one layer; its heads are cut to the same length, each by its own ranking."""

    layer: int
    position: int  #: of the last token that had entered
    before: int    #: slots per head
    after: int
    protection_won: bool  #: the protected slots were more than the budget
    dropped: Optional[npt.NDArray[np.int32]]  #: [heads, before - after], positions; None unless
                                              #: Sequence.log_dropped


class CacheLayer(NamedTuple):
    """What one layer's cache holds, in time order; copies."""

    keys: Floats                         #: [heads, slots, head_dim], after rotary
    values: Floats                       #: [heads, slots, head_dim]
    key_norms: Floats                    #: [heads, slots], written when the key entered
    positions: npt.NDArray[np.int32]     #: [heads, slots], of the token in its sequence


_ROWS = {"all": _core.LogitRows.all, "last": _core.LogitRows.last, "none": _core.LogitRows.none}


class Sequence:
    """One text on its way through a model: its cache, its press, and how far it is.

    Made by Model.sequence. Keeps its model alive. Once it is gone, the memory of its cache stays
    with the model for later sequences, or the system if that needs it.
    """

    def __init__(self, core: _core.Sequence, model: "Model", press: Optional[Press]) -> None:
        self._core = core
        self._model = model
        self._press = press

    def feed(self, tokens: Tokens, logits: Rows = "last") -> Optional[Floats]:
        """Lets tokens enter, cutting on the way whenever the press says so.

        How a text is split into calls never changes a bit.
        tokens  [tokens], at least one.
        logits  what comes back: "last" [vocab], "all" [tokens, vocab], "none".
        Errors  Error, before anything has changed, for a token outside the vocabulary, a position
                past the context, a cache that is too small. A value that is not finite stops the
                sequence: the Error names the token, the layer and the operation.
        """
        return self._model.feed([self], [tokens], logits)[0]

    def fork(self) -> "Sequence":
        """A copy that goes on independently: cache, press, cuts."""
        return Sequence(self._core.fork(), self._model, self._press)

    def end_prompt(self) -> None:
        """Says that the prompt has entered: the trigger "after-prompt" cuts before the next token."""
        self._core.end_prompt()

    def set_press(self, press: Press) -> None:
        """Presses from the next token on. Errors: Error for a press that does not fit."""
        self._core.set_press(press.core())
        self._press = press

    def save(self) -> bytes:
        """The sequence as the bytes of a safetensors file, for Model.restore: caches by the names of
        docs/tensors.md, cuts, and where it is. Errors: Error for a sequence that has stopped."""
        return self._core.save()

    def layer(self, layer: int) -> CacheLayer:
        """The cache of one layer, copied. Errors: Error for a layer that there is not."""
        return CacheLayer(*self._core.layer(as_count(layer, "layer")))

    @property
    def model(self) -> "Model":
        """The model that it runs through."""
        return self._model

    @property
    def press(self) -> Optional[Press]:
        """The press that is set."""
        return self._press

    @property
    def position(self) -> int:
        """Tokens that have entered."""
        return self._core.position

    @property
    def capacity(self) -> int:
        """Slots per head that there is room for: what was asked for, rounded up."""
        return self._core.capacity

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Slots in use: [layers, heads]."""
        return self._core.lengths

    @property
    def cuts(self) -> List[Cut]:
        """Every cut so far, in order."""
        return [Cut(*cut) for cut in self._core.cuts]

    @property
    def log_dropped(self) -> bool:
        """Whether cuts from now on say what they dropped."""
        return self._core.log_dropped

    @log_dropped.setter
    def log_dropped(self, log: bool) -> None:
        self._core.log_dropped = bool(log)

    @property
    def cut_counts(self) -> List[int]:
        """Cuts so far, of each layer."""
        return self._core.cut_counts

    @property
    def stopped(self) -> bool:
        """A value was not finite; nothing more can enter."""
        return self._core.stopped

    @property
    def logical_bytes(self) -> int:
        """Bytes of keys and values in use: 8 * head_dim a slot, over layers and heads."""
        return self._core.logical_bytes

    @property
    def physical_bytes(self) -> int:
        """Bytes of the arena, in use or not; untouched pages cost no memory."""
        return self._core.physical_bytes


class Model:
    """A loaded model. Made by load().

    Logits have the bits of the contract for every isa, backend, number of threads, split into calls
    and company in a batch. Python threads may share a model: they take turns, and the GIL is free
    while one computes.
    """

    def __init__(self, core: _core.Model, folder: Path) -> None:
        self._core = core
        self._folder = folder
        self._tokenizer: Optional[Tokenizer] = None
        values = {field.name: getattr(core.config, field.name) for field in fields(Config)}
        values["eos_token_ids"] = tuple(values["eos_token_ids"])
        self._config = Config(**values)

    def __repr__(self) -> str:
        shape = self._config
        return (f"<neoxref.Model {self._folder}: {shape.layers} layers, {shape.heads} heads of "
                f"{shape.head_dim}, vocab {shape.vocab}; {self.isa}, {self.backend}, "
                f"{self.threads} threads>")

    @property
    def config(self) -> Config:
        """Shape and constants."""
        return self._config

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._folder

    @property
    def isa(self) -> str:
        """The instruction set in use: scalar, avx2, avx512, zen4, neon."""
        return self._core.isa

    @property
    def backend(self) -> str:
        """The thread backend in use: tbb, openmp, serial."""
        return self._core.backend

    @property
    def threads(self) -> int:
        """Threads in use."""
        return self._core.threads

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, read at the first use."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self._folder / "tokenizer.json")
        return self._tokenizer

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Ids of a text: int32 [tokens]. As Tokenizer.encode."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Tokens, skip_special: bool = False) -> str:
        """Text of some ids. As Tokenizer.decode."""
        return self.tokenizer.decode(ids, skip_special)

    def sequence(self, capacity: Optional[int] = None, press: Optional[Press] = None, *,
                 ready_for: Iterable[Press] = ()) -> Sequence:
        """A fresh sequence.

        capacity   slots per head; by default the context of the model.
        press      shortens the cache from the first token on.
        ready_for  presses that may be set later, whose scores look at attention or whose positions
                   are "rerotate": what they need is noted from the first token on.
        Errors     Error for a press that contradicts itself or this model.
        """
        room = self._config.max_positions if capacity is None else as_count(capacity, "capacity", 1)
        core = self._core.sequence(room, None if press is None else press.core(),
                                   [later.core() for later in ready_for])
        return Sequence(core, self, press)

    def restore(self, saved: bytes, press: Optional[Press] = None,
                capacity: Optional[int] = None, *, where: str = "saved sequence") -> Sequence:
        """A sequence that Sequence.save wrote; going on from it gives the bits of the original.

        press   the one that was at work, or none.
        where   names the bytes in errors.
        Errors  Error for bytes that are no saved sequence, or that of another model or press.
        """
        room = self._config.max_positions if capacity is None else as_count(capacity, "capacity", 1)
        core = self._core.restore(saved, where, room, None if press is None else press.core())
        return Sequence(core, self, press)

    @overload
    def forward(self, tokens: Tokens, press: Optional[Press] = None, *,
                tensors: None = None) -> Floats: ...

    @overload
    def forward(self, tokens: Tokens, press: Optional[Press] = None, *,
                tensors: Union[str, Iterable[str]]) -> Tuple[Floats, Arrays]: ...

    def forward(self, tokens: Tokens, press: Optional[Press] = None, *,
                tensors: Union[None, str, Iterable[str]] = None
                ) -> Union[Floats, Tuple[Floats, Arrays]]:
        """Logits after each token of a text: float32 [tokens, vocab]; and the tensors asked for.

        tokens   [tokens], at least one.
        tensors  None, or names of docs/tensors.md, * for any characters, "layers" or "all": then
                 (logits, {name: array}), arrays without batch axis: [tokens, width], of the cache
                 [heads, slots, head_dim], scores and probabilities [heads, tokens, tokens]. Asking
                 changes no bit.
        Errors   as Sequence.feed, and Error for a name that this model has not.
        """
        if tensors is not None:
            arrays = _core.tensors(self._core, as_tokens(tokens),
                                   None if press is None else press.core(), 0,
                                   [*as_names(tensors), "embed_out"])
            asked = _core.select_tensors(self._core, as_names(tensors))
            return arrays["embed_out"], {name: arrays[name] for name in asked}
        ids = as_tokens(tokens)
        logits = self.sequence(max(len(ids), 1), press).feed(ids, "all")
        assert logits is not None
        return logits

    def feed(self, sequences: Many[Sequence], tokens: Many[Tokens],
             logits: Rows = "last") -> List[Optional[Floats]]:
        """One forward pass over several sequences, which gives each the bits that it has alone.

        tokens  for each sequence [tokens], at least one. Result and errors: as Sequence.feed.
        """
        if len(sequences) != len(tokens) or len(sequences) == 0:
            raise Error(f"tokens: not one row for each sequence (expected {len(sequences)}, "
                        f"found {len(tokens)})")
        if logits not in _ROWS:
            raise Error(f"logits: unknown name (expected {', '.join(_ROWS)}, found {logits})")
        return self._core.feed([sequence._core for sequence in sequences],
                               [as_tokens(ids) for ids in tokens], _ROWS[logits])

    def generate(self, prompt: Union[str, Tokens], max_new: int = 128, *, temperature: float = 0.0,
                 top_k: int = 0, top_p: float = 1.0, seed: int = 0,
                 stop: Union[str, Iterable[str]] = (), ignore_eos: bool = False,
                 press: Optional[Press] = None, on_text: Any = None) -> Generation:
        """Continues a text, with the tokens of `neoxref run` bit for bit.

        prompt       a text, or token ids [tokens].
        max_new      most new tokens; fewer where the context ends (press with "rerotate": never).
        temperature  0 takes the most probable token; else 1e-6 to 1e6.
        top_k        draw from the k most probable tokens; 0: all.
        top_p        draw from the shortest list that holds this share, in (0, 1].
        seed         of the draws.
        stop         texts before which to stop.
        ignore_eos   go on after an end-of-text token.
        on_text      called with each piece of text that is certain.
        """
        return generate(self, prompt, max_new, temperature, top_k, top_p, seed,
                        (stop,) if isinstance(stop, str) else tuple(stop), ignore_eos, press, on_text)


def load(model: Union[str, os.PathLike[str]] = "mini", *, isa: str = "", backend: str = "",
         threads: int = 0) -> Model:
    """Loads a model.

    model    a folder (config.json, model.safetensors or its shards, tokenizer.json), a Hub name
             with optional @revision that is in the local Hub cache (nothing is downloaded), or
             "mini", the embedded default.
    isa      instruction set; empty: NEOXREF_ISA or the best of this CPU.
    backend  tbb, openmp or serial; empty: the first that was built.
    threads  0: all that this process may use.
    Errors   Error naming file, tensor or field, with what was expected and found.
    """
    name = os.fspath(model)
    if name == "mini" and not os.environ.get("NEOXREF_DATA_DIR") and (_DATA / "mini").is_dir():
        folder = str(_DATA / "mini")
    else:
        folder = _core.resolve_model(name)
    return Model(_core.load(folder, isa, backend, as_count(threads, "threads")), Path(folder))


def sample_texts() -> Dict[str, str]:
    """The two texts that come with the embedded default, by file name."""
    folder = _DATA / "texts"
    if os.environ.get("NEOXREF_DATA_DIR") or not folder.is_dir():
        folder = Path(_core.resolve_model("mini")).parent / "texts"
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}
