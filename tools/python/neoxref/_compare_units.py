# SPDX-License-Identifier: Apache-2.0
"""Operations of another backend one by one, each on inputs of the reference."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, Iterator, List, Literal, Optional, Tuple

from neoxref._arrays import Floats, Tokens, as_tokens
from neoxref._compare import _compare
from neoxref._core import Error
from neoxref._model import Config, Model, as_names

Run = Callable[[str, Dict[str, Any]], Any]


def _units(config: Config) -> Iterator[Tuple[str, List[str]]]:
    """(what an operation gives, what it takes), in the order of execution."""
    x = "gpt_neox.embed_in"
    yield x, []
    for layer in range(config.layers):
        at = f"gpt_neox.layers.{layer}"
        attention, mlp = at + ".attention", at + ".mlp"
        post = [x] if config.parallel_residual else [x, attention + ".dense"]
        yield at + ".input_layernorm", [x]
        yield attention + ".query_key_value", [at + ".input_layernorm"]
        yield attention + ".rotary_q", [attention + ".query_key_value"]
        yield attention + ".rotary_k", [attention + ".query_key_value"]
        yield attention + ".context", [attention + ".rotary_q", attention + ".rotary_k",
                                       attention + ".query_key_value"]
        yield attention + ".dense", [attention + ".context"]
        yield at + ".post_attention_layernorm", post
        yield mlp + ".dense_h_to_4h", [at + ".post_attention_layernorm"]
        yield mlp + ".act", [mlp + ".dense_h_to_4h"]
        yield mlp + ".dense_4h_to_h", [mlp + ".act"]
        yield at, [x, attention + ".dense", mlp + ".dense_4h_to_h"]
        x = at
    yield "gpt_neox.final_layer_norm", [x]
    yield "embed_out", ["gpt_neox.final_layer_norm"]


def _whole_layers(config: Config) -> Iterator[Tuple[str, List[str]]]:
    x = "gpt_neox.embed_in"
    for layer in range(config.layers):
        yield f"gpt_neox.layers.{layer}", [x]
        x = f"gpt_neox.layers.{layer}"


class UnitComparison:
    """How single operations did. True where none fails; print() shows the table."""

    def __init__(self, profile: str, tensors: Dict[str, Dict[str, Any]]) -> None:
        self._profile = profile
        self._tensors = tensors

    def __bool__(self) -> bool:
        return self.agrees

    def __str__(self) -> str:
        failing = [name for name, figures in self._tensors.items() if figures["fails"]]
        lines = [f"{'agrees' if not failing else 'DIVERGES at ' + failing[0]} under profile "
                 f"{self._profile}: {len(failing)} of {len(self._tensors)} units fail"]
        width = max(map(len, self._tensors))
        for name, figures in self._tensors.items():
            ratio = "no bound" if figures["ratio"] is None else f"{figures['ratio']:.3g}"
            lines.append(f"  {name:{width}}  {'FAILS' if figures['fails'] else 'ok':5}  {ratio:>9}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<neoxref.UnitComparison: {str(self).splitlines()[0]}>"

    @property
    def agrees(self) -> bool:
        """No unit fails."""
        return not any(figures["fails"] for figures in self._tensors.values())

    @property
    def first_diverging(self) -> Optional[str]:
        """The first unit, in the order of execution, that fails."""
        return next((name for name, figures in self._tensors.items() if figures["fails"]), None)

    @property
    def tensors(self) -> Dict[str, Dict[str, Any]]:
        """The figures of each unit by the name of what it gives, as in Comparison.tensors."""
        return self._tensors


def compare_units(model: Model, tokens: Tokens, run: Run, *,
                  units: Literal["operations", "layers"] = "operations",
                  names: Optional[Iterable[str]] = None,
                  profile: str = "f32") -> UnitComparison:
    """Hands the reference's own inputs to each operation of another backend, and judges what comes
    back: for backends that cannot dump what their operations had.

    tokens   [tokens], at least one.
    run      run(name, inputs) returns the tensor of that name (docs/tensors.md) that the backend computes
             from inputs, {name: float32 [tokens, width]}; of the embedding {"input_ids": [tokens]}.
             Anything with DLPack or the buffer protocol; None: the backend has no such unit.
    units    "operations", or "layers": from the input of a whole layer to its output.
    names    only these, * for any characters.
    profile  how the backend rounds: its name or file.
    Errors   Error for a result of another shape, for names that there are not, and when every unit
             was None.
    """
    ids = as_tokens(tokens, "tokens")
    if units not in ("operations", "layers"):
        raise Error(f"units: unknown name (expected operations, layers, found {units})")
    known = dict((_units if units == "operations" else _whole_layers)(model.config))
    asked = _matching(list(known), names)
    needed = sorted({name for unit in asked for name in known[unit]})
    reference: Dict[str, Floats] = model.forward(ids, tensors=needed)[1] if needed else {}
    results: Dict[str, Any] = {}
    for unit in asked:
        inputs: Dict[str, Any] = {name: reference[name].copy() for name in known[unit]}
        result = run(unit, inputs or {"input_ids": ids.copy()})
        if result is not None:
            results[unit] = result
    if not results:
        raise Error("run: returned nothing for any unit")
    figures: Dict[str, Dict[str, Any]] = {}
    for batch in _batches(list(results), known):
        arrays = {name: reference[name] for unit in batch for name in known[unit]}
        arrays.update((unit, results[unit]) for unit in batch)
        compared = _compare(model.folder, None, ids, arrays, None, profile, batch, 0, "never")
        missing = [unit for unit in batch if unit not in compared.tensors]
        if missing:
            raise Error(f"{missing[0]}: was not compared: {compared}")
        figures.update((unit, compared.tensors[unit]) for unit in batch)
    return UnitComparison(profile, {unit: figures[unit] for unit in known if unit in figures})


def _matching(known: List[str], names: Optional[Iterable[str]]) -> List[str]:
    if names is None:
        return known
    from fnmatch import fnmatchcase
    patterns = as_names(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise Error(f"names: no such unit (found {pattern!r})")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _batches(units: List[str], known: Dict[str, List[str]]) -> List[List[str]]:
    """Units that can be judged together: none gives what another one takes."""
    batches: List[List[str]] = []
    for unit in units:
        for batch in batches:
            if not any(unit in known[other] or other in known[unit] for other in batch):
                batch.append(unit)
                break
        else:
            batches.append([unit])
    return batches
