#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Real backends against goldens: what they compute from a model, and what `neoxref compare` says.

usage: tests/peers/backends.py NEOXREF MODEL --venv DIR -o OUT [--tokens N] [--only NAME ...]

Backends: transformers in float32 and bfloat16, eager and sdpa; onnxruntime on an export of
transformers; CTranslate2; llama.cpp (compiled when it is installed: a quarter of an hour); and
transformers with one bug put in. Each writes OUT/NAME.safetensors
(names of docs/tensors.md), which is compared with a golden of the same tokens under the profile
that the backend should have; OUT/NAME.json is what `compare` says. DIR is a virtual environment; it
is made, and the backends are installed from PyPI, when it does not exist. Exit 1 when a backend is
flagged, or when of one with a bug other tensors are flagged than those where the bug arises."""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import venv

PACKAGES = ("torch==2.13.0", "transformers==5.23.0", "safetensors==0.8.0", "numpy==2.4.6",
            "onnx==1.23.2", "onnxscript==0.7.2", "onnxruntime==1.32.0", "ctranslate2==4.8.5",
            "gguf==0.19.0", "llama-cpp-python==0.3.36")
HERE = pathlib.Path(__file__).resolve().parent


def enter(folder):
    """Goes on in the virtual environment, making it first where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        try:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(folder)  # Half an environment would pass for a whole one next time.
            raise
    if pathlib.Path(sys.prefix).resolve() != folder.resolve():
        os.execv(python, [str(python), *sys.argv])


def transformers(dtype, attention, patches=()):
    def run(model, ids):
        import neox_dumps as peers
        import torch
        return peers.record(peers.load(model, getattr(torch, dtype), attention), ids,
                            [peers.DEVIATIONS[name] for name in patches])
    return run


def onnxruntime(model, ids):
    """Outputs: the logits, and what each layer gives."""
    import neox_dumps as peers
    import onnxruntime as ort
    import torch
    loaded = peers.load(model, torch.float32, "sdpa")
    layers = loaded.config.num_hidden_layers
    names = ["embed_out"] + [f"gpt_neox.layers.{n}" for n in range(layers)]

    class Outputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = loaded

        def forward(self, input_ids):
            kept = []
            handles = [layer.register_forward_hook(
                lambda _m, _i, out: kept.append(out[0] if isinstance(out, tuple) else out))
                for layer in self.model.gpt_neox.layers]
            logits = self.model(input_ids, use_cache=False).logits
            for handle in handles:
                handle.remove()
            return (logits, *kept)

    ids = torch.as_tensor(ids, dtype=torch.int64)[None]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        with torch.no_grad():
            torch.onnx.export(Outputs().eval(), (ids,), path, input_names=["input_ids"],
                              output_names=names, dynamo=True, verbose=False)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        values = session.run(names, {session.get_inputs()[0].name: ids.numpy()})
    return {"input_ids": ids,
            **{name: torch.from_numpy(value) for name, value in zip(names, values)}}


def ctranslate2(model, ids):
    import ctranslate2 as ct2
    import numpy
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    # Its converter reads the names of transformers 4.
    GPTNeoXForCausalLM.embed_out = property(lambda loaded: loaded.lm_head)
    GPTNeoXConfig.rotary_pct = property(
        lambda config: config.rope_parameters["partial_rotary_factor"])
    GPTNeoXConfig.rotary_emb_base = property(lambda config: config.rope_parameters["rope_theta"])
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "converted"
        ct2.converters.TransformersConverter(str(model)).convert(str(out))
        generator = ct2.Generator(str(out), device="cpu", compute_type="float32")
        logits = numpy.array(generator.forward_batch([list(map(int, ids))]))
    return {"input_ids": torch.as_tensor(ids, dtype=torch.int64)[None],
            "embed_out": torch.from_numpy(logits.astype(numpy.float32))}


def llama_cpp(model, ids):
    """Under llama.cpp's own names."""
    import gguf_neox
    import llama_dumps
    import torch
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "f32.gguf"
        gguf_neox.write(model, path, "f32")
        kept = llama_dumps.record(path, ids)
    return {"input_ids": torch.as_tensor(ids, dtype=torch.int64)[None],
            **{name: torch.from_numpy(value) for name, value in kept.items()}}


# The tensors that one bug makes wrong where they arise, * for every layer: compare must flag all of
# these, none besides, and name the first of them.
BUGS = {
    "activation quick_gelu": ["gpt_neox.layers.*.mlp.act"],
    "rotary pairs interleaved": ["gpt_neox.layers.*.attention.rotary_q",
                                 "gpt_neox.layers.*.attention.rotary_k"],
    "no bias in dense": ["gpt_neox.layers.*.attention.dense"],
    "sees one token ahead": ["gpt_neox.layers.*.attention.context"],
    "no attention scale": ["gpt_neox.layers.*.attention.context"],
    "no final norm": ["gpt_neox.final_layer_norm"],
}


def backends():
    """{name: (how, profile, tensors that must be flagged)}"""
    all_of_them = {}
    for dtype, profile in (("float32", "f32"), ("bfloat16", "bf16-acc32")):
        for attention in ("eager", "sdpa"):
            name = f"transformers-{dtype}-{attention}"
            right = "bf16-flash" if (dtype, attention) == ("bfloat16", "sdpa") else profile
            all_of_them[name] = (transformers(dtype, attention), right, [])
        for bug, flagged in BUGS.items():
            name = f"transformers-{dtype}-{bug}".replace(" ", "-")
            all_of_them[name] = (transformers(dtype, "eager", [bug]), profile, flagged)
    all_of_them["onnxruntime"] = (onnxruntime, "f32", [])
    all_of_them["ctranslate2"] = (ctranslate2, "f32", [])
    # Its GELU is the tanh form, read from a table of 16-bit floats, whatever the checkpoint asks for.
    all_of_them["llama.cpp"] = (llama_cpp, "f32", ["gpt_neox.layers.*.mlp.act"])
    return all_of_them


def judge(done, flagged, layers):
    """(what `compare` said, in the words of the table; whether it is what should be said)"""
    if done.returncode not in (0, 1):
        return done.stderr.strip(), False
    said = json.loads(done.stdout)
    expected = {name.replace("*", str(layer)) for name in flagged for layer in range(layers)}
    found = {tensor["name"] for tensor in said["tensors"] if tensor["fails"]}
    first = flagged[0].replace("*", "0") if flagged else None
    right = (said["tensors"] and found == expected and said["first_diverging"] == first
             and done.returncode == (1 if flagged else 0))
    nearest = max(said["tensors"], key=lambda tensor: tensor["ratio"] or 0)
    verdict = (f"diverges at {said['first_diverging']}, {len(found)} flagged" if found
               else f"agrees, KL at most {said['logits']['kl_max']:.1e}")
    return (f"{len(said['tensors'])} tensors | {nearest['ratio']:.3g} {nearest['yardstick']}, "
            f"{nearest['name']} | {verdict}"), right


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("neoxref", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--venv", type=pathlib.Path, required=True)
    parser.add_argument("-o", dest="out", type=pathlib.Path, required=True)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--only", nargs="+", choices=list(backends()), metavar="NAME")
    options = parser.parse_args()
    enter(options.venv)
    sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tools" / "peers")]
    import numpy
    import safetensors.torch
    options.out.mkdir(parents=True, exist_ok=True)
    config = json.loads((options.model / "config.json").read_text())
    ids = numpy.random.Generator(numpy.random.PCG64(1)).integers(config["vocab_size"],
                                                                 size=options.tokens)
    golden = options.out / "golden"
    subprocess.run([options.neoxref, "golden", options.model, "--tokens", ",".join(map(str, ids)),
                    "-o", golden], check=True, stdout=subprocess.DEVNULL)
    wrong = []
    print("backend | profile | exit | tensors | nearest to its limit | verdict", flush=True)
    for name, (run, profile, flagged) in backends().items():
        if options.only and name not in options.only:
            continue
        file = options.out / f"{name}.safetensors"
        safetensors.torch.save_file({n: t.contiguous() for n, t in run(options.model, ids).items()},
                                    file)
        done = subprocess.run([options.neoxref, "compare", golden, file, "--model", options.model,
                               "--profile", profile, "--json"], capture_output=True, text=True)
        (options.out / f"{name}.json").write_text(done.stdout)
        words, right = judge(done, flagged, config["num_hidden_layers"])
        print(f"{name} | {profile} | {done.returncode} | {words}", flush=True)
        if not right:
            wrong.append(name)
    print("not as expected: " + ", ".join(wrong) if wrong else "all as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
