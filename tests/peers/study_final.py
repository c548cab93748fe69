#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The protocol of the study's final run here and in transformers: how much faster, and the same?

usage: tests/peers/study_final.py NEOXREF MODEL --venv DIR [--text FILE ...] [--repeat N]

Two-phase, trigger `reaches`, prune_after 256 of 1,024 tokens, keep 1/0.9/0.5/0.1, layer 0 skipped.
transformers goes token by token, with a DynamicCache whose layers are compressed before a token
enters: norms of all keys, argsort, gather, as in the published L2 code. neoxref is timed as a whole
process over all texts, loading and tokenizer included; transformers without loading its model. They
take turns, round by round. The perplexities must agree, else the script exits with 1.

DIR is a virtual environment with torch and transformers; it is made, and they are installed from
PyPI, when it does not exist. Nothing else is written. MODEL needs a tokenizer.json:
    neoxref synth --shape pythia-70m --tokenizer datasets/mini/tokenizer.json -o MODEL
"""
import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
import venv

PACKAGES = ("torch", "transformers")
KEEP = ("1", "0.9", "0.5", "0.1")
PRUNE_AFTER = 256
MAX_TOKENS = 1024
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEXTS = [ROOT / "datasets/texts/wikitext2_test_excerpt.txt",
         ROOT / "datasets/texts/pg19_10146_excerpt.txt"]


def enter(folder):
    """Goes on in the virtual environment, making it first where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    if pathlib.Path(sys.prefix).resolve() != folder.resolve():
        os.execv(python, [str(python), *sys.argv])


def ours(options):
    """Seconds of the whole process, and the perplexities [texts][keep ratios]."""
    start = time.perf_counter()
    output = subprocess.run(
        [options.neoxref, "eval", options.model, "--text", *options.text, "--keep-ratio",
         ",".join(KEEP), "--prune-after", str(PRUNE_AFTER), "--max-tokens", str(MAX_TOKENS),
         "--trigger", "reaches", "--threads", str(options.threads), "--json"],
        check=True, capture_output=True).stdout
    seconds = time.perf_counter() - start
    rows = json.loads(output)["rows"]
    return seconds, [[row["texts"][i]["perplexity"] for row in rows]
                     for i in range(len(options.text))]


def compress(cache, keep, torch):
    """Cuts every layer but the first that holds PRUNE_AFTER slots or more."""
    for layer in cache.layers[1:]:
        slots = layer.keys.shape[2]
        if slots < PRUNE_AFTER:
            continue
        wanted = math.ceil(round(keep * slots, 9))
        order = torch.argsort(torch.norm(layer.keys, p=2, dim=-1), dim=-1, stable=True)
        kept = order[:, :, :wanted].sort(dim=-1).values
        index = kept.unsqueeze(-1).expand(-1, -1, -1, layer.keys.shape[-1])
        layer.keys = torch.gather(layer.keys, 2, index)
        layer.values = torch.gather(layer.values, 2, index)


def theirs(model, ids, keep, torch, cache_class):
    """Seconds and perplexity of one text at one keep ratio, token by token."""
    length = min(len(ids), MAX_TOKENS)
    prefix = max(32, min(PRUNE_AFTER, max(length - 50, length // 2)))
    tokens = torch.tensor([ids[:length]])
    total = 0.0
    start = time.perf_counter()
    with torch.inference_mode():
        cache = cache_class()
        model(tokens[:, :prefix], past_key_values=cache, use_cache=True)
        for position in range(prefix, length - 1):
            if keep < 1:
                compress(cache, keep, torch)
            logits = model(tokens[:, position:position + 1], past_key_values=cache, use_cache=True,
                           position_ids=torch.tensor([[position]])).logits[0, -1]
            total += torch.nn.functional.cross_entropy(logits, tokens[0, position + 1]).item()
    return time.perf_counter() - start, math.exp(total / (length - 1 - prefix))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("neoxref")
    parser.add_argument("model")
    parser.add_argument("--venv", type=pathlib.Path, required=True)
    parser.add_argument("--text", nargs="+", default=TEXTS, help="default: the two of mini")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    enter(options.venv)
    import torch
    import transformers
    torch.set_num_threads(options.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32).eval()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, "
          f"{options.threads} threads, float32")
    seconds = {"neoxref": [], "transformers": []}
    worst = 0.0
    for repeat in range(options.repeat):
        mine, perplexities = ours(options)
        peer = 0.0
        for text, expectations in zip(options.text, perplexities):
            ids = json.loads(subprocess.run(
                [options.neoxref, "tokenize", options.model, "--file", text, "--json"], check=True,
                capture_output=True).stdout)["ids"]
            for keep, expected in zip(KEEP, expectations):
                took, found = theirs(model, ids, float(keep), torch, transformers.DynamicCache)
                peer += took
                worst = max(worst, abs(found / expected - 1))
                if repeat == 0:
                    print(f"{pathlib.Path(text).name} keep {keep}: perplexity {expected:.6f} here, "
                          f"{found:.6f} there")
        seconds["neoxref"].append(mine)
        seconds["transformers"].append(peer)
        print(f"round {repeat + 1}: neoxref {mine:.2f} s, transformers {peer:.2f} s, "
              f"{peer / mine:.1f} times", flush=True)
    ratios = [b / a for a, b in zip(seconds["neoxref"], seconds["transformers"])]
    print(f"median: {statistics.median(ratios):.1f} times faster "
          f"({min(ratios):.1f} - {max(ratios):.1f}, n {len(ratios)}); largest difference of a "
          f"perplexity {worst:.1e}")
    return 0 if worst < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
