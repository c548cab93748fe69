# SPDX-License-Identifier: Apache-2.0
"""Arguments made into the arrays that the library takes, and functions of plain arrays."""

from __future__ import annotations

import operator
from typing import Any, Sequence as Many, Union

import numpy as np
import numpy.typing as npt

from neoxref import _core
from neoxref._core import Error

Tokens = Union[Many[int], npt.NDArray[np.integer]]
Floats = npt.NDArray[np.float32]


def as_tokens(tokens: Tokens, where: str = "tokens") -> npt.NDArray[np.int32]:
    """Token ids [tokens] as int32. Errors: Error for anything but whole numbers in one row."""
    if isinstance(tokens, (str, bytes)):
        raise Error(f"{where}: a text (expected token ids; encode() makes them)")
    try:
        array = np.asarray(tokens)
    except ValueError as error:
        raise Error(f"{where}: not one row of token ids ({error})") from None
    if array.ndim != 1 or (array.size > 0 and array.dtype.kind not in "iu"):
        raise Error(f"{where}: not token ids (expected one row of whole numbers, found "
                    f"{array.dtype} {list(array.shape)})")
    if array.size > 0 and (array.min() < 0 or array.max() > np.iinfo(np.int32).max):
        raise Error(f"{where}: outside every vocabulary (expected 0 to 2147483647, found "
                    f"{array.min()} to {array.max()})")
    return np.ascontiguousarray(array, dtype=np.int32)


def as_floats(array: Any, where: str, shape: str) -> Floats:
    """A contiguous float32 array; float16 is widened, which is exact.

    shape   the axes in words, "heads, slots, head_dim".
    Errors  Error for another dtype, since to round it here would change what is measured.
    """
    array = np.asarray(array)
    axes = len(shape.split(","))
    if array.ndim != axes:
        raise Error(f"{where}: not of this shape (expected [{shape}], found {list(array.shape)})")
    if array.dtype not in (np.float32, np.float16):
        raise Error(f"{where}: not of this type (expected float32 or float16, found {array.dtype})")
    return np.ascontiguousarray(array, dtype=np.float32)


def as_count(value: Any, where: str, least: int = 0, below: int = 2**63) -> int:
    """A whole number of `least` or more, below `below`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise Error(f"{where}: not a whole number (found {value!r})") from None
    if not least <= number < below:
        raise Error(f"{where}: out of range (expected {least} to {below - 1}, found {number})")
    return number


def nll(logits: npt.ArrayLike, tokens: Tokens) -> Floats:
    """-log softmax(logits)[token] of each row, by the contract: float32 [tokens].

    logits  float32 [tokens, vocab].
    tokens  [tokens], the ids that came next.
    """
    rows = as_floats(logits, "logits", "tokens, vocab")
    ids = as_tokens(tokens)
    if rows.shape[0] != ids.shape[0] or rows.shape[1] == 0:
        raise Error(f"tokens: not one for each row of logits (expected {rows.shape[0]}, "
                    f"found {ids.shape[0]})")
    return _core.nll(rows, ids)


def key_norms(keys: npt.ArrayLike) -> Floats:
    """|k| of each key, the contract's sqrt(dot(k, k)): float32 [heads, slots].

    keys    float32 or float16 [heads, slots, head_dim].
    Errors  Error for a norm that is not finite.
    """
    return _core.key_norms(as_floats(keys, "keys", "heads, slots, head_dim"))


class Digest:
    """XXH3-128 over little-endian float32 values in the order they are added; every NaN counts as
    one. Two runs with the same digest gave the same bits."""

    def __init__(self) -> None:
        self._core = _core.Digest()

    def add(self, values: npt.ArrayLike) -> None:
        """Adds a float32 array of any shape, in C order."""
        array = np.asarray(values)
        if array.dtype != np.float32:
            raise Error(f"digest: not of this type (expected float32, found {array.dtype})")
        self._core.add(np.ascontiguousarray(array).reshape(-1))

    def hex(self) -> str:
        """32 hexadecimal digits."""
        return self._core.hex()


def digest(*arrays: npt.ArrayLike) -> str:
    """The Digest of float32 arrays, one after the other."""
    whole = Digest()
    for array in arrays:
        whole.add(array)
    return whole.hex()
