#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What transformers computes with known deviations, for tests/deviations_test.cpp and by hand.

usage: tests/peers/deviations.py --venv DIR                       makes tests/deviations/ anew
       tests/peers/deviations.py --venv DIR --model MODEL -o OUT [--tokens N] [--seed N]
                                 [--judge NEOXREF]               the same of another model, all tensors

DIR is a virtual environment with torch, transformers and safetensors; it is made, and they are
installed from PyPI, when it does not exist. A dump holds input_ids and tensors under the names of
docs/tensors.md. cases.json lists the dumps: {file, model, dtype, expected: [names], unlisted}.
`expected` are the deviations that were put in, by the names of docs/deviations.md. --judge asks
`compare` for the causes in each dump, prints what it names, and exits with 1 where that is not what was
put in: all that can be told, nothing else, and for an unlisted one that nothing explains it."""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import venv

PACKAGES = ("torch==2.13.0", "transformers==5.23.0", "safetensors==0.8.0", "numpy==2.4.6",
            "mpmath==1.3.0")
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOKENS = 24


def enter(folder):
    """Goes on in the virtual environment, making it first where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    if pathlib.Path(sys.prefix).resolve() != folder.resolve():
        os.execv(python, [str(python), *sys.argv])


def runs(peers, torch, config):
    """(file, dtype, patches, expected, unlisted) of every dump."""
    known = peers.DEVIATIONS
    own = {"activation " + config["hidden_act"], f"eps {config['layer_norm_eps']:g}",
           "parallel residual" if config["use_parallel_residual"] else "sequential residual",
           f"rotary_pct {config.get('rotary_pct', 0.25):g}"}
    own |= {name.replace("e-0", "e-") for name in own}
    f32, bf16, f16 = torch.float32, torch.bfloat16, torch.float16
    if config.get("torch_dtype") == "float16":
        yield "none", f16, (), (), False
        yield "flush to zero", f16, (known["flush to zero"],), ("flush to zero",), False
        return
    yield "none", f32, (), (), False
    yield "none bf16", bf16, (), (), False
    yield "none f16", f16, (), (), False
    if not config["use_parallel_residual"]:
        for name in ("activation gelu", "parallel residual"):
            yield name, f32, (known[name],), (name,), False
        return
    for name, patch in known.items():
        if name not in own and name != "flush to zero":
            yield name, f32, (patch,), (name,), False
    for name in ("activation quick_gelu", "eps 1e-3", "rotary pairs interleaved",
                 "no bias in dense", "sees one token ahead", "no attention scale"):
        yield name + " bf16", bf16, (known[name],), (name,), False
    for names in (("activation gelu_new", "eps 1e-6"),
                  ("rotary pairs interleaved", "no attention scale"),
                  ("qkv read as [3][heads]", "sees one token ahead")):
        yield "two " + " and ".join(names), f32, [known[n] for n in names], names, False
    names = ("rotary pairs interleaved", "no bias in dense_h_to_4h")
    yield "two " + " and ".join(names) + " bf16", bf16, [known[n] for n in names], names, False
    for name, patch in peers.UNLISTED.items():
        yield name, f32, (patch,), (), True
    yield "rotary base 500 bf16", bf16, (peers.UNLISTED["rotary base 500"],), (), True


def kept(tensors, layers):
    """All of the first layer, the outputs of the others, and what is behind the last."""
    return {name: tensor for name, tensor in tensors.items()
            if ".layers." not in name or ".layers.0." in name or name.endswith(
                tuple(f".layers.{layer}" for layer in range(layers)))}


def make(peers, torch, save_file, folder, model, ids, everything):
    config = json.loads((model / "config.json").read_text())
    entries = []
    for name, dtype, patches, expected, unlisted in runs(peers, torch, config):
        file = "".join(c if c.isalnum() or c in "-." else "_" for c in name) + ".safetensors"
        tensors = peers.record(peers.load(model, dtype), ids, patches)
        if everything and "first token missing" in expected:
            del tensors["input_ids"]  # they would give it away before anything is compared
        if not everything:
            tensors = kept(tensors, config["num_hidden_layers"])
        save_file(tensors, folder / file)
        (folder / file).chmod(0o644)
        entries.append({"file": file, "dtype": str(dtype).removeprefix("torch."),
                        "expected": list(expected), "unlisted": unlisted})
        print(f"{folder.name}: {name}")
    (folder / "cases.json").write_text(json.dumps({"tokens": list(map(int, ids)),
                                                   "cases": entries}, indent=1) + "\n")


def judge(neoxref, folder, model):
    """Whether `compare` names what was put into each dump of the folder."""
    listed = json.loads((folder / "cases.json").read_text())
    golden = folder / "golden"
    shutil.rmtree(golden, ignore_errors=True)
    subprocess.run([neoxref, "golden", model, "--tokens", ",".join(map(str, listed["tokens"])),
                    "-o", golden], check=True, stdout=subprocess.DEVNULL)
    wrong = 0
    for case in listed["cases"]:
        profile = {"float32": "f32", "bfloat16": "bf16-acc32", "float16": "f16-acc32"}[case["dtype"]]
        done = subprocess.run([neoxref, "compare", golden, folder / case["file"], "--model", model,
                               "--profile", profile, "--causes", "always", "--json"],
                              capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise SystemExit(done.stderr)
        causes = json.loads(done.stdout)["causes"]
        told = {each["name"]: each["can_be_told"] for each in causes["findings"]}
        found = {each["name"] for each in causes["findings"] if each["flagged"]}
        expected = {name for name in case["expected"] if told.get(name)}
        silent = set(case["expected"]) - expected
        right = (expected <= found <= set(case["expected"])
                 and (causes["none_explains"] or not case["unlisted"]))
        wrong += not right
        print(f"{'ok   ' if right else 'WRONG'} {case['file']}, {profile}: "
              f"{', '.join(sorted(found)) or 'none'}"
              + (f"; cannot be told: {', '.join(sorted(silent))}" if silent else "")
              + ("; something unexplained" if causes["none_explains"] else ""), flush=True)
    print(f"{len(listed['cases'])} dumps, {wrong} not as expected")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--venv", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=64, help="with --model")
    parser.add_argument("--seed", type=int, default=1, help="of the token ids, with --model")
    parser.add_argument("--judge", metavar="NEOXREF", help="with --model")
    parser.add_argument("-o", dest="out", type=pathlib.Path)
    options = parser.parse_args()
    enter(options.venv)
    sys.path[:0] = [str(HERE), str(HERE.parent / "golden")]
    import checkpoints
    import neox_dumps as peers
    import numpy
    import safetensors.torch
    import torch
    torch.set_num_threads(1)
    save_file = safetensors.torch.save_file
    if options.model:
        options.out.mkdir(parents=True, exist_ok=True)
        vocab = json.loads((options.model / "config.json").read_text())["vocab_size"]
        ids = numpy.random.Generator(numpy.random.PCG64(options.seed)).integers(vocab, size=options.tokens)
        make(peers, torch, save_file, options.out, options.model, ids, True)
        return judge(options.judge, options.out, options.model) if options.judge else 0
    # Weights that bfloat16 holds, so that float32 and bfloat16 models have the same.
    shapes = [checkpoints.Case("parallel", 21, "", 2, 8, 40, 37, TOKENS, rotary_pct=0.5,
                               dtype=torch.bfloat16),
              checkpoints.Case("sequential", 22, "", 2, 8, 40, 37, TOKENS, rotary_pct=0.5,
                               parallel=False, act="gelu_new", dtype=torch.bfloat16),
              checkpoints.Case("small", 23, "", 2, 8, 40, 37, TOKENS, rotary_pct=0.5,
                               dtype=torch.float16)]
    for case in shapes:
        folder = ROOT / "tests" / "deviations" / case.name
        folder.parent.mkdir(exist_ok=True)
        weights, ids = checkpoints.weights_of(case)
        if case.name == "small":
            # Flushing shows only where something is subnormal: here what attention gives, in float16.
            for name in weights:
                if ".attention.dense." in name:
                    weights[name] *= 1e-4
        checkpoints.write_checkpoint(case, weights, folder)
        (folder / "model.safetensors").chmod(0o644)
        make(peers, torch, save_file, folder, folder, ids, False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
