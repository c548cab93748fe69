#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the meaning goldens: small GPT-NeoX checkpoints and what transformers computes from them.

    python tests/golden/make_goldens.py            writes tests/golden/cases and cases.json
    python tests/golden/make_goldens.py --check    computes them anew elsewhere and compares

The format of the output and the packages needed are in README.md beside this file.

The runs of a case, all on one CPU thread, with eager attention unless named otherwise:
  truth    transformers in float64, the constants of docs/contract.md taken at their binary32 values
           (see `TruthModel`); its tensors are the golden values
  float32  transformers as it is; its RMS error against the truth is the yardstick for the engine
For information also float32 with scaled-dot-product attention, and float64 as transformers does it.
"""

import argparse
import contextlib
import filecmp
import json
import math
import pathlib
import platform
import sys
import tempfile

import mpmath
import numpy as np
import safetensors
import safetensors.torch
import torch
import transformers
from transformers.models.gpt_neox import modeling_gpt_neox

from checkpoints import CASES, weights_of, write_checkpoint

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Rows kept of each tensor: enough for an RMS over 384 elements or more.
STORED_ELEMENTS = 384
MINI_ROWS = 6


def load(folder, dtype, attention="eager"):
    """The checkpoint as transformers reads it; every value must be the file's, widened."""
    model = transformers.GPTNeoXForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention).eval()
    loaded = model.state_dict()
    for file in sorted(folder.glob("model*.safetensors")):
        for name, tensor in safetensors.torch.load_file(file).items():
            if name.endswith((".attention.bias", ".masked_bias", ".inv_freq")):
                continue
            mine = loaded.pop(name.replace("embed_out.", "lm_head."))
            if mine.dtype != dtype or not torch.equal(mine, tensor.to(dtype)):
                raise SystemExit(f"{file}: {name} was not loaded exactly")
    left = set(loaded) - ({"lm_head.weight"} if model.config.tie_word_embeddings else set())
    if left:
        raise SystemExit(f"{folder}: not in the checkpoint: {sorted(left)}")
    return model


def binary32(value):
    """The nearest binary32 number, as a float."""
    return float(np.float32(value))


def rounded(value):
    """A multi-precision number to the nearest binary32 number (none here is subnormal)."""
    with mpmath.workprec(24):
        return float(+value)


def rotary_table(config, positions):
    """cos and sin [1, positions, rotary_dims] as docs/contract.md defines them: exact functions,
    each rounded to binary32 once."""
    head_dim = config.hidden_size // config.num_attention_heads
    dims = int(head_dim * config.rope_parameters["partial_rotary_factor"])
    base = mpmath.mpf(binary32(config.rope_parameters["rope_theta"]))
    cos, sin = np.zeros((2, positions, dims))
    with mpmath.workprec(200):
        for pair in range(dims // 2):
            exponent = rounded(mpmath.mpf(2 * pair) / dims)
            inv_freq = rounded(1 / mpmath.mpf(rounded(base ** mpmath.mpf(exponent))))
            for position in range(positions):
                angle = mpmath.mpf(binary32(np.float32(position) * np.float32(inv_freq)))
                for table, function in ((cos, mpmath.cos), (sin, mpmath.sin)):
                    table[position, [pair, pair + dims // 2]] = rounded(function(angle))
    return torch.from_numpy(cos)[None], torch.from_numpy(sin)[None]


def attention_in_float64(module, query, key, value, attention_mask, scaling, **_):
    """Eager attention without the narrowing to float32 that transformers does in its softmax."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling + attention_mask
    probabilities = torch.softmax(scores, dim=-1)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


class TruthModel:
    """transformers in float64 with what docs/contract.md fixes for the truth. As it is, it would
    take softmax through float32 (an error as large as that of a float32 run), scale and eps in
    binary64, and cos and sin from a vector library that is not always correctly rounded."""

    def __init__(self, folder, positions):
        self.model = load(folder, torch.float64)
        config = self.model.config
        table = rotary_table(config, positions)
        self.model.gpt_neox.rotary_emb.register_forward_hook(lambda *_: table)
        head_dim = config.hidden_size // config.num_attention_heads
        for module in self.model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = binary32(module.eps)
            if isinstance(module, modeling_gpt_neox.GPTNeoXAttention):
                module.scaling = binary32(1 / math.sqrt(head_dim))

    @contextlib.contextmanager
    def running(self):
        original = modeling_gpt_neox.eager_attention_forward
        modeling_gpt_neox.eager_attention_forward = attention_in_float64
        try:
            yield self.model
        finally:
            modeling_gpt_neox.eager_attention_forward = original


def tensor_names(layers, full_layers):
    """Module paths whose outputs are kept, in the order of computation."""
    parts = ["input_layernorm", "attention.query_key_value", "attention.dense",
             "post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h"]
    names = ["gpt_neox.embed_in"]
    for layer in range(layers):
        if layer in full_layers:
            names += [f"gpt_neox.layers.{layer}.{part}" for part in parts]
        names.append(f"gpt_neox.layers.{layer}")
    return names + ["gpt_neox.final_layer_norm", "embed_out"]


def forward(model, ids, names):
    """{name: output [1, tokens, width] in float64} of the named modules in one forward pass."""
    kept, handles = {}, []
    for name in names:
        def keep(_module, _inputs, output, name=name):
            output = output[0] if isinstance(output, tuple) else output
            kept[name] = output.detach().to(torch.float64).clone()
        module = model.get_submodule("lm_head" if name == "embed_out" else name)
        handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model(torch.from_numpy(ids)[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return kept


def rms(difference):
    return float(torch.sqrt(torch.mean(difference * difference)))


def geometric_mean(ratios):
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else 0.0


def golden_of(model_folder, ids, rows, full_layers=None):
    """(tensors of golden.safetensors, figures for cases.json) of one checkpoint and prompt."""
    ids = np.asarray(ids, dtype=np.int64)
    truth_model = TruthModel(model_folder, len(ids))
    layers = truth_model.model.config.num_hidden_layers
    names = tensor_names(layers, range(layers) if full_layers is None else full_layers)
    with truth_model.running() as model:
        truth = forward(model, ids, names)
    runs = {key: forward(load(model_folder, dtype, attention), ids, names)
            for key, dtype, attention in (("rms32", torch.float32, "eager"),
                                          ("rms32_sdpa", torch.float32, "sdpa"),
                                          ("plain64", torch.float64, "eager"),
                                          ("plain64_sdpa", torch.float64, "sdpa"))}

    tensors = {"input_ids": torch.from_numpy(ids), "token_index": torch.tensor(rows)}
    errors = {key: {} for key in runs}
    for name in names:
        kept = truth[name][:, rows]
        if not torch.isfinite(kept).all():
            raise SystemExit(f"{model_folder}: {name} is not finite")
        tensors[f"f64/{name}"] = kept.contiguous()
        for key, outputs in runs.items():
            errors[key][name] = rms(outputs[name][:, rows] - kept)
        tensors[f"rms32/{name}"] = torch.tensor([errors["rms32"][name]], dtype=torch.float64)
    logits = truth["embed_out"][:, rows]
    ratios = [errors["rms32_sdpa"][name] / value
              for name, value in errors["rms32"].items() if value]
    figures = {
        "logits_rms": rms(logits),
        "logits_rms_error": {key: error["embed_out"] for key, error in errors.items()},
        "sdpa_over_eager_geometric_mean": geometric_mean(ratios),
    }
    return tensors, figures


def spread(count, first, tokens):
    """`count` token indices from `first` to the end of the prompt, both included."""
    return sorted({round(first + i * (tokens - 1 - first) / (count - 1)) for i in range(count)})


def make(out):
    """Writes every case and cases.json under `out`; ends the program when something is wrong."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    entries = []

    def finish(name, model, notes, tensors, figures):
        folder = out / "cases" / name
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, folder / "golden.safetensors")
        entries.append({"name": name, "model": model, "tokens": len(tensors["input_ids"]),
                        "rows": len(tensors["token_index"]), "notes": notes, **figures})
        print(f"{name}: logits rms {figures['logits_rms']:.3g}, float32 error "
              f"{figures['logits_rms_error']['rms32']:.3g}")

    for case in CASES:
        weights, ids = weights_of(case)
        folder = out / "cases" / case.name
        write_checkpoint(case, weights, folder)
        rows = min(-(-STORED_ELEMENTS // case.hidden), case.tokens)
        tensors, figures = golden_of(folder, ids, spread(rows, case.rows_from, case.tokens))
        finish(case.name, f"tests/golden/cases/{case.name}", case.notes, tensors, figures)
    for text in json.loads((HERE / "mini_tokens.json").read_text())["texts"]:
        tensors, figures = golden_of(ROOT / "datasets/mini", text["ids"],
                                     spread(MINI_ROWS, 0, len(text["ids"])), full_layers=[5])
        finish(text["name"], "datasets/mini", text["source"], tensors, figures)
    for path in (out / "cases").rglob("*.safetensors"):
        path.chmod(0o644)
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "transformers": transformers.__version__, "safetensors": safetensors.__version__,
                "numpy": np.__version__, "mpmath": mpmath.__version__,
                "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    summary = {"versions": versions, "cases": entries}
    (out / "cases.json").write_text(json.dumps(summary, indent=2) + "\n")


def check():
    """Computes all cases in a temporary folder: checkpoints must be the same bytes, golden values
    within 1e-12 of their size. The float32 errors depend on the CPU and are not compared."""
    wrong, files = [], 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = pathlib.Path(folder)
        make(fresh)
        for path in sorted(p for p in (fresh / "cases").rglob("*") if p.is_file()):
            files += 1
            committed = HERE / path.relative_to(fresh)
            if path.name != "golden.safetensors":
                if not committed.is_file() or not filecmp.cmp(path, committed, shallow=False):
                    wrong.append(f"{committed}: other bytes")
                continue
            here, there = map(safetensors.torch.load_file, (path, committed))
            if set(here) != set(there):
                wrong.append(f"{committed}: other names")
                continue
            for name, tensor in here.items():
                if name.startswith("rms32"):
                    continue
                size = max(1e-300, float(tensor.abs().max()))
                if tensor.shape != there[name].shape or not (
                        (tensor - there[name]).abs().max() <= 1e-12 * size):
                    wrong.append(f"{committed}: {name} differs")
    print("\n".join(wrong) or f"{files} files agree")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with what is committed")
    if parser.parse_args().check:
        return check()
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        fresh = pathlib.Path(folder)
        make(fresh)
        old = fresh / "replaced"
        if (HERE / "cases").exists():
            (HERE / "cases").rename(old)
        (fresh / "cases").rename(HERE / "cases")
        (fresh / "cases.json").replace(HERE / "cases.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
