# SPDX-License-Identifier: Apache-2.0
"""Comparison of what another backend computed with the reference."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence as Many, Tuple, Union

import numpy as np

from neoxref import _core
from neoxref._arrays import Tokens, as_count, as_tokens
from neoxref._core import Error

Place = Union[str, "os.PathLike[str]"]

_TYPES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64", "int8": "i8",
          "int16": "i16", "int32": "i32", "int64": "i64", "uint8": "u8", "uint16": "u16",
          "uint32": "u32", "uint64": "u64", "bool": "bool"}


def as_array(value: Any, where: str) -> Tuple[np.ndarray, str]:
    """A numpy array of the same bytes, and its type: "f32", "bf16", ...

    value   anything with DLPack or the buffer protocol: numpy, torch, JAX, MLX, bytes of arrays.
    Errors  Error for what is none, and for types that are not compared.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        if value.dtype == torch.bfloat16:
            return value.view(torch.int16).numpy(), "bf16"
        return _typed(value.numpy(), where)
    try:
        if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
            try:
                value = np.from_dlpack(value)
            except (BufferError, RuntimeError, TypeError):
                value = np.asarray(value)  # bfloat16 comes as ml_dtypes' type
        return _typed(np.asarray(value), where)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise Error(f"{where}: not an array ({error})") from None


def _typed(array: np.ndarray, where: str) -> Tuple[np.ndarray, str]:
    kind = _TYPES.get(array.dtype.name)
    if kind is None or not array.dtype.isnative:
        raise Error(f"{where}: not of a type that is compared (found {array.dtype})")
    return array, kind


def _parts(arrays: Mapping[str, Any]) -> List[Tuple[str, str, List[int], np.ndarray]]:
    parts = []
    for name, value in arrays.items():
        array, kind = as_array(value, str(name))
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        parts.append((str(name), kind, list(array.shape), raw))
    return parts


class Comparison:
    """How a comparison went. True where it agrees; print() shows the table."""

    def __init__(self, parts: Tuple[bool, str, str, str, str]) -> None:
        self._agrees, document, self._text, self._html, self._junit = parts
        self._document: Dict[str, Any] = json.loads(document)

    def __bool__(self) -> bool:
        return self._agrees

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<neoxref.Comparison: {self._document['summary']}>"

    @property
    def agrees(self) -> bool:
        """Something was compared, nothing fails, nothing that was required is missing."""
        return self._agrees

    @property
    def first_diverging(self) -> Optional[str]:
        """Name of the first tensor, in the order of execution, that fails."""
        return self._document["first_diverging"]

    @property
    def document(self) -> Dict[str, Any]:
        """All figures: what `neoxref compare --json` prints."""
        return self._document

    @property
    def causes(self) -> List[str]:
        """Names of known deviations (docs/deviations.md) that OTHER has, the strongest first. Empty where
        none fits and where none was looked for: document["causes"] has all figures, or None."""
        found = self._document["causes"] or {"findings": []}
        return [finding["name"] for finding in found["findings"] if finding["flagged"]]

    @property
    def tensors(self) -> Dict[str, Dict[str, Any]]:
        """The figures of each tensor that was compared, by name."""
        return {tensor["name"]: tensor for tensor in self._document["tensors"]}

    def write_html(self, path: Place) -> None:
        """Writes the page with maps and histograms."""
        Path(path).write_text(self._html, encoding="utf-8")

    def write_junit(self, path: Place) -> None:
        """Writes JUnit XML."""
        Path(path).write_text(self._junit, encoding="utf-8")


def _compare(model: Optional[Place], golden: Optional[Place], tokens: Optional[Tokens], other: Any,
             rules: Optional[Place], profile: Optional[str], require: Union[str, Many[str]],
             envelope: int, causes: str) -> Comparison:
    names = [require] if isinstance(require, str) else list(require)
    is_path = isinstance(other, (str, os.PathLike))
    if not is_path and not isinstance(other, Mapping):
        raise Error(f"other: neither a path nor arrays by name (found {type(other).__name__})")
    parts = [] if is_path else _parts(other)
    if not is_path and not parts:
        raise Error("other: no arrays")
    ids = np.zeros(0, np.int32) if tokens is None else as_tokens(tokens)
    return Comparison(_core.compare(
        "" if model is None else os.fspath(model), "" if golden is None else os.fspath(golden), ids,
        os.fspath(other) if is_path else "", parts, "" if rules is None else os.fspath(rules),
        profile, names, as_count(envelope, "envelope", below=65), causes))


def compare(golden: Place, other: Union[Place, Mapping[str, Any]], *,
            model: Optional[Place] = None, profile: Optional[str] = None,
            rules: Optional[Place] = None, require: Union[str, Many[str]] = (),
            envelope: int = 8, causes: str = "auto") -> Comparison:
    """Compares what another backend computed with a golden.

    golden    folder that `neoxref golden` has made.
    other     a file or folder (docs/compare.md names the formats), or arrays by name: anything with
              DLPack or the buffer protocol. [1, tokens, width] or [tokens, width]; names as in
              docs/tensors.md, or those of transformers, llama.cpp, ONNX exports.
    model     the golden's model, where it lies elsewhere now.
    profile   how the backend rounds; None: what its numbers look like.
    rules     a rules file (docs/compare.md).
    require   names that must be there, * for any characters; "all".
    envelope  simulated runs of the profile, made where bounds do not suffice; 0: none.
    causes    when known deviations are looked for: "auto" (where tensors fail and the search is no long
              one), "always", "never".
    """
    return _compare(model, golden, None, other, rules, profile, require, envelope, causes)


def assert_matches(golden: Place, arrays: Mapping[str, Any], *, model: Optional[Place] = None,
                   profile: Optional[str] = None, require: Union[str, Many[str]] = (),
                   envelope: int = 8, causes: str = "auto") -> None:
    """For tests: AssertionError with the table where compare() does not agree."""
    __tracebackhide__ = True
    result = compare(golden, arrays, model=model, profile=profile, require=require,
                     envelope=envelope, causes=causes)
    if not result:
        raise AssertionError(str(result))
