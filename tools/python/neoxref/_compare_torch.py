# SPDX-License-Identifier: Apache-2.0
"""A transformers GPT-NeoX beside the reference. Imports torch only through the module it is given."""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

from neoxref._arrays import Tokens, as_tokens
from neoxref._compare import Comparison, Place, _compare
from neoxref._core import Error

# Modules whose output is a tensor of docs/tensors.md, by the end of their names.
_OUTPUTS = ("embed_in", "input_layernorm", "query_key_value", "attention.dense",
            "post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h",
            "final_layer_norm", "embed_out", "lm_head")
_SAFETENSORS = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}


def _torch_of(module: Any) -> Any:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(module, torch.nn.Module):
        raise Error(f"module: not a torch module (found {type(module).__name__})")
    return torch


def _is_layer(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and parts[-2] == "layers" and parts[-1].isdigit()


def torch_tensors(module: Any, ids: Tokens) -> Dict[str, Any]:
    """Runs a transformers GPT-NeoX on ids and returns what its modules gave, by module name.

    Keys and values of the cache come as past_key_values.N.key and .value; input_ids are among the
    arrays. The module is left in the mode it was in; no gradients.
    """
    torch = _torch_of(module)
    tokens = as_tokens(ids, "ids")
    if tokens.size == 0:
        raise Error("ids: no tokens")
    found: Dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, (tuple, list)) else output
            found[name] = value.detach().cpu().clone()
            if name.endswith("attention.dense"):
                found[name[:-len("dense")] + "context"] = inputs[0].detach().cpu().clone()
        return hook

    handles: List[Any] = []
    try:
        for name, part in module.named_modules():
            if name.endswith(_OUTPUTS) or _is_layer(name):
                handles.append(part.register_forward_hook(keep(name)))
        device = next(module.parameters()).device
        inputs = torch.tensor(tokens[None, :].tolist(), device=device)
        was_training = module.training
        module.eval()
        try:
            with torch.no_grad():
                output = module(input_ids=inputs, use_cache=True)
        finally:
            module.train(was_training)
    finally:
        for handle in handles:
            handle.remove()
    logits = getattr(output, "logits", None)
    if logits is not None and not any(name.endswith(("embed_out", "lm_head")) for name in found):
        found["logits"] = logits.detach().cpu()
    for number, (keys, values) in enumerate(_cache(getattr(output, "past_key_values", None))):
        found[f"past_key_values.{number}.key"] = keys.detach().cpu()
        found[f"past_key_values.{number}.value"] = values.detach().cpu()
    found["input_ids"] = inputs.cpu()
    return found


def _cache(cache: Any) -> Any:
    """(keys, values) of each layer, in any of the forms that transformers has had."""
    if cache is None:
        return []
    if hasattr(cache, "layers"):
        return [(layer.keys, layer.values) for layer in cache.layers]
    if hasattr(cache, "key_cache"):
        return list(zip(cache.key_cache, cache.value_cache))
    return [(layer[0], layer[1]) for layer in cache]


def _write_checkpoint(module: Any, folder: Path) -> None:
    """config.json and model.safetensors of a module's own weights, for the reference to load."""
    torch = _torch_of(module)
    config = getattr(module, "config", None)
    if config is None:
        raise Error("module: has no config; name the reference with model=")
    (folder / "config.json").write_text(config.to_json_string(), encoding="utf-8")
    header: Dict[str, Any] = {}
    pieces: List[bytes] = []
    end = 0
    for name, value in module.state_dict().items():
        kind = _SAFETENSORS.get(str(value.dtype))
        if kind is None:
            continue
        raw = value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": kind, "shape": list(value.shape),
                        "data_offsets": [end, end + len(raw)]}
        end += len(raw)
        pieces.append(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for raw in pieces:
            file.write(raw)


def compare_torch(module: Any, ids: Tokens, *, golden: Optional[Place] = None,
                  model: Optional[Place] = None, profile: Optional[str] = None,
                  envelope: int = 8, causes: str = "auto", quiet: bool = False) -> Comparison:
    """Runs a transformers GPT-NeoX and the reference on the same ids, compares every tensor that
    hooks can see, and prints the table.

    module   GPTNeoXForCausalLM, or one with its module names. Not changed.
    ids      [tokens].
    golden   a golden of these ids; None: the reference is run here.
    model    the reference's checkpoint; None: the golden's, or else the module's own weights and config
             (then a wrong weight or config is not seen, only wrong arithmetic).
    profile  how the module rounds; None: what its numbers look like.
    causes   as of compare().
    """
    arrays = torch_tensors(module, ids)
    tokens = None if golden is not None else ids
    if model is not None or golden is not None:
        result = _compare(model, golden, tokens, arrays, None, profile, (), envelope, causes)
    else:
        with tempfile.TemporaryDirectory(prefix="neoxref_") as name:
            _write_checkpoint(module, Path(name))
            result = _compare(name, None, tokens, arrays, None, profile, (), envelope, causes)
    if not quiet:
        print(result)
    return result
