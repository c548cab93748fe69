# SPDX-License-Identifier: Apache-2.0
"""Goldens: the recipe of a run, and digests of all its tensors; and the oracle."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, Literal, NamedTuple, Optional, Sequence as Many, Tuple, Union

import numpy as np
import numpy.typing as npt

from neoxref import _core
from neoxref._arrays import Tokens, as_count, as_tokens
from neoxref._core import Error
from neoxref._model import Model, as_names, load
from neoxref._press import Press

Names = Union[None, str, Many[str]]


class TensorDigest(NamedTuple):
    """What a golden says of a tensor (docs/goldens.md)."""

    dtype: str
    shape: Tuple[int, ...]  #: with the batch axis
    digest: str             #: 32 hexadecimal digits, over the digests of the rows
    leaves: Optional[npt.NDArray[np.uint64]]  #: [rows], the first 8 bytes of each row's digest


class Golden:
    """The recipe of a run, and what came out. Made by `golden`, or Golden.load."""

    def __init__(self, core: _core.Golden, model: Optional[Model] = None) -> None:
        self._core = core
        self._model = model

    @classmethod
    def load(cls, folder: Union[str, os.PathLike[str]]) -> "Golden":
        """Reads a golden's folder.

        Errors  Error for what is no golden, was changed or damaged, or follows another contract.
        """
        return cls(_core.load_golden(os.fspath(folder)))

    def tensor(self, name: str, model: Optional[Model] = None) -> npt.NDArray[Any]:
        """A tensor by its name in docs/tensors.md, without batch axis: what is stored is read, all else
        is made again. Either way it has the golden's digest.

        model   needed once, unless `golden` made this; else Golden.load knows none.
        Errors  Error for an unknown name, another model, or a machine that gives other bits.
        """
        if model is not None:
            self._core.use_model(model._core)
            self._model = model
        return self._core.tensor(name)

    @property
    def model(self) -> str:
        """The name of the model."""
        return self._core.model

    @property
    def sha256(self) -> str:
        """Of the model's weight files, one after the other: 64 hexadecimal digits."""
        return self._core.sha256

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """The ids that entered: [tokens]."""
        return self._core.tokens

    @property
    def press(self) -> Optional[str]:
        """The press in one line, or None."""
        return self._core.press or None

    @property
    def folder(self) -> Optional[str]:
        """Where it lies, or None."""
        return self._core.folder or None

    @property
    def digests(self) -> Dict[str, TensorDigest]:
        """By name, in the order of execution; then the cache; then what else was stored."""
        return {name: TensorDigest(dtype, tuple(shape), digest, leaves if len(leaves) else None)
                for name, dtype, shape, digest, leaves in self._core.digests}

    def __repr__(self) -> str:
        return f"<golden of {self.model}, {len(self.tokens)} tokens, press {self.press or 'none'}>"


class Difference(NamedTuple):
    """A tensor that came out otherwise."""

    name: str
    token: Optional[int]             #: the first; None where the golden has no leaves of it. Of a cache: row
    tokens_differing: Optional[int]
    channel: Optional[int]           #: the first, where the golden stores the tensor
    expected: Optional[float]
    found: Optional[float]


@dataclass(frozen=True)
class Verification:
    """Whether the bits were the same. True as a truth value if so."""

    same: bool
    isa: str                              #: the instruction set that it vouches for
    tensors: int = 0                      #: compared
    differences: Tuple[Difference, ...] = ()  #: in the order of execution
    token_behind: Optional[int] = None    #: the first difference has no leaves: the first token of which a
                                          #: layer's output behind it differs
    kernels: Tuple[str, ...] = ()         #: without a golden: kernels that differ from the scalar ones

    def __bool__(self) -> bool:
        return self.same


def golden(model: Model, tokens: Tokens, *, digests: Literal["layers", "all"] = "layers",
           tensors: Names = None, press: Optional[Press] = None, prompt_tokens: int = 0,
           folder: Union[None, str, os.PathLike[str]] = None) -> Golden:
    """Runs a model and takes the digests of all its tensors.

    tokens   [tokens], at least one.
    digests  which tensors have leaves, a short digest for each token: outputs of layers, or all.
    tensors  to store, with a folder: "logits", "layers", "all", or names, * for any characters.
    press    shortens the cache; no score of one's own.
    prompt_tokens  tokens before the cut of the trigger "after-prompt", which needs it.
    folder   to write; a golden there is replaced. None: nothing is written.
    Errors   Error for tokens or a press that the model cannot take, and for a folder with other things.
    """
    if digests not in ("layers", "all"):
        raise Error(f"digests: unknown name (expected layers, all, found {digests})")
    return Golden(_core.make_golden(
        model._core, model.folder.name, as_tokens(tokens), None if press is None else press.core(),
        as_count(prompt_tokens, "prompt_tokens"), digests == "all", as_names(tensors),
        "" if folder is None else os.fspath(folder)), model)


def verify(golden: Union[None, Golden, str, os.PathLike[str]] = None,
           model: Optional[Model] = None) -> Verification:
    """Runs a golden's recipe on this machine and compares the bits. Without a golden: every kernel
    in use against its plain definition.

    golden  one, or its folder.
    model   the golden's, unless `golden` made it here; without a golden "mini" by default.
    Errors  Error for a golden without its model, or that of another.
    """
    if golden is None:
        asked = load("mini") if model is None else model
        wrong = tuple(_core.wrong_kernels(asked._core))
        return Verification(not wrong, asked.isa, kernels=wrong)
    of = golden if isinstance(golden, Golden) else Golden.load(golden)
    model = of._model if model is None else model
    if model is None:
        raise Error(f"model: a golden holds digests and no weights (expected {of.model}, SHA-256 "
                    f"{of.sha256}, found none)")
    tensors, differences, behind = _core.verify(model._core, of._core)
    return Verification(not differences, model.isa, tensors,
                        tuple(Difference(*each) for each in differences), behind)


def oracle(model: Model, tokens: Tokens, *, double: bool = True,
           press: Optional[Press] = None) -> Dict[str, npt.NDArray[Any]]:
    """The contract as plain code, token by token: slow. {name: [tokens, width]} of the forward pass.

    double  True: in float64, the truth that errors are measured against. False: in float32, the bits
            of the engine.
    """
    return _core.oracle(model._core, as_tokens(tokens), None if press is None else press.core(),
                        bool(double))
