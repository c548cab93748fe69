#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A second implementation of docs/contract.md, written from that page (and docs/presses.md, docs/tensors.md)
in Python: numpy for the arithmetic, mpmath for the elementary functions. Answers a conformance kit; of its
cases it reads id, operation and input only.

usage: implementation.py KIT_FOLDER > answers.jsonl
"""

import json
import sys
from pathlib import Path

import numpy as np

import functions
import model as gpt
import presses
import sampling
import xxh3
from arithmetic import (F32, F64, decimal, dot, fma, lane_sum, lane_sum_sq, widen_bf16, widen_f16)


def words(text):
    return np.array([int(word, 16) for word in text.split()], np.uint32).view(F32)


def matrix(rows):
    return np.array([words(row) for row in rows], F32)


def text(values):
    return " ".join(f"{word:08x}" for word in np.ravel(np.asarray(values, F32)).view(np.uint32))


def text64(value):
    return f"{int(np.array(value, F64).view(np.uint64)):016x}"


def rows(values):
    return [text(row) for row in values]


def digest(values):
    flat = np.ravel(np.asarray(values, F32)).copy().view("<u4")
    flat[(flat & 0x7FFFFFFF) > 0x7F800000] = 0x7FC00000
    return xxh3.hexdigest(flat.tobytes())


def joined(record):
    return {name: np.concatenate(pieces) for name, pieces in record.items()}


class Answers:
    """One method for each operation: its input to its output."""

    def __init__(self, folder):
        self.folder, self.models = folder, {}

    def model(self, case):
        name = case["model"]
        if name not in self.models:
            self.models[name] = gpt.Model(self.folder / name)
        return self.models[name]

    # operation
    def add(self, case):
        return {"y": text(words(case["a"]) + words(case["b"]))}

    def subtract(self, case):
        return {"y": text(words(case["a"]) - words(case["b"]))}

    def multiply(self, case):
        return {"y": text(words(case["a"]) * words(case["b"]))}

    def divide(self, case):
        return {"y": text(words(case["a"]) / words(case["b"]))}

    def sqrt(self, case):
        return {"y": text(np.sqrt(words(case["x"])))}

    def fma(self, case):
        return {"y": text(fma(words(case["a"]), words(case["b"]), words(case["c"])))}

    def dot(self, case):
        return {"y": text(dot(words(case["a"]), words(case["b"])))}

    def lane_sum(self, case):
        return {"y": text64(lane_sum(words(case["x"])))}

    def lane_sum_sq(self, case):
        return {"y": text64(lane_sum_sq(words(case["x"])))}

    def widen_f16(self, case):
        return {"y": text(widen_f16(case["bits"]))}

    def widen_bf16(self, case):
        return {"y": text(widen_bf16(case["bits"]))}

    def decimal(self, case):
        return {"y": text(decimal(case["text"]))}

    def digest(self, case):
        return {"digest": digest(words(case["x"]))}

    def keep_count(self, case):
        return {"kept": presses.keep_count(case["keep_ratio"], case["slots"])}

    def two_phase_prompt(self, case):
        return {"prompt": two_phase_prompt(case["tokens"], case["prune_after"])}

    def function(self, case):
        return {"y": text([functions.exact(case["function"], float(x)) for x in words(case["x"])])}

    def pow(self, case):
        pairs = zip(words(case["x"]), words(case["y"]))
        return {"z": text([functions.power(float(x), float(y)) for x, y in pairs])}

    def linear(self, case):
        bias = words(case["bias"]) if "bias" in case else None
        return {"y": text(gpt.linear(words(case["x"]), matrix(case["weight"]), bias))}

    def layer_norm(self, case):
        y, finite = gpt.layer_norm(words(case["x"]), words(case["gamma"]), words(case["beta"]),
                                   words(case["eps"])[0])
        return {"finite": True, "y": text(y)} if finite else {"finite": False}

    def key_norm(self, case):
        return {"norms": text([presses.norm(words(key)) for key in case["keys"]])}

    def residual_parallel(self, case):
        return {"y": text((words(case["attn"]) + words(case["mlp"])) + words(case["x"]))}

    def residual_sequential(self, case):
        return {"y": text(words(case["mlp"]) + (words(case["attn"]) + words(case["x"])))}

    def rotary_dims(self, case):
        return {"rotary_dims": gpt.rotary_dims(case["head_dim"], case["rotary_pct"])}

    def rotary_table(self, case):
        base, dims = float(words(case["base"])[0]), case["rotary_dims"]
        table = [gpt.rotary_row(base, dims, position) for position in case["positions"]]
        return {"inv_freq": text(gpt.inv_freq(base, dims)), "cos": rows(c for c, _ in table),
                "sin": rows(s for _, s in table)}

    def rotate(self, case):
        return {"y": text(gpt.rotate(words(case["x"]), float(words(case["base"])[0]),
                                     case["rotary_dims"], case["position"]))}

    def attend(self, case):
        q, keys, values = words(case["q"]), matrix(case["keys"]), matrix(case["values"])
        output, weights = gpt.attend(q[None], keys[None], values[None])
        return {"scale": text(gpt.attention_scale(len(q))), "output": text(output),
                "weights": text(weights)}

    def nll(self, case):
        logits = words(case["logits"])
        return {"nll": text([sampling.nll(logits, token) for token in case["tokens"]])}

    def kept(self, case):
        heads = []
        for entry in case["heads"]:
            head = presses.Head()
            head.positions = entry["positions"]
            head.keys, head.values = list(matrix(entry["keys"])), list(matrix(entry["values"]))
            head.norms = list(words(entry["norms"]))
            head.weights = [words(row) for row in entry.get("weights", [])]
            heads.append(head)
        return {"kept": presses.kept_slots(case, heads, case["layer"], case["cuts"],
                                           case["rotary_dims"], matrix(case["key_bias"]))}

    def philox(self, case):
        return {"words": [list(sampling.philox(counter, key))
                          for counter, key in zip(case["counters"], case["keys"])]}

    def argmax(self, case):
        return {"index": [int(np.argmax(words(x))) for x in case["x"]]}

    def sample(self, case):
        return {"tokens": [sampling.draw(words(case["logits"]), case["temperature"], case["top_k"],
                                         case["top_p"], int(case["seed"], 16), position, sequence)
                           for position, sequence in case["positions_and_sequences"]]}

    # layer
    def layer(self, case):
        record = {}
        gpt.Sequence(self.model(case)).layer(case["layer"], matrix(case["x"]), 0, record)
        return {name: rows(values) for name, values in joined(record).items()}

    # model
    def forward(self, case):
        record = {}
        logits = gpt.Sequence(self.model(case)).forward(case["tokens"], record)
        return {"digests": {name: digest(values) for name, values in joined(record).items()},
                "last_logits": text(logits[-1])}

    # generation
    def generate(self, case):
        sequence, tokens = gpt.Sequence(self.model(case)), list(case["prompt"])
        if "press" in case:
            sequence.set_press(case["press"])
        used = [sequence.forward(tokens)[-1]]
        sequence.prompt_ended = True
        for i in range(case["new_tokens"]):
            tokens.append(sampling.draw(used[-1], case["temperature"], case["top_k"],
                                        case["top_p"], int(case["seed"], 16), len(tokens),
                                        case["sequence"]))
            if i + 1 < case["new_tokens"]:
                used.append(sequence.forward(tokens[-1:])[0])
        return {"tokens": tokens[len(case["prompt"]):], "logits_digest": digest(used)}

    def pressed(self, case):
        sequence, prompt = gpt.Sequence(self.model(case)), case["prompt"]
        sequence.set_press(case["press"])
        first = sequence.forward(case["tokens"][:prompt])
        sequence.prompt_ended = True
        rest = sequence.forward(case["tokens"][prompt:])
        return {"logits_digest": digest(np.concatenate([first, rest])),
                "kept_positions": [[head.positions for head in layer] for layer in sequence.cache]}

    def two_phase(self, case):
        tokens = case["tokens"]
        prompt = two_phase_prompt(len(tokens), case["press"]["prune_after"])
        sequence = gpt.Sequence(self.model(case))
        first = sequence.forward(tokens[:prompt])[-1:]
        sequence.set_press({**case["press"], "prune_after": prompt})
        logits = np.concatenate([first, sequence.forward(tokens[prompt:-1])])
        losses = [sampling.nll(row, token) for row, token in zip(logits, tokens[prompt:])]
        total = 0.0
        for loss in losses:
            total += float(loss)
        return {"prompt": prompt, "nll": text(losses), "sum": text64(total)}


def two_phase_prompt(tokens, prune_after):
    return max(32, min(prune_after, max(tokens - 50, tokens // 2)))


def main():
    folder = Path(sys.argv[1])
    answers = Answers(folder)
    print(json.dumps({"format": "neoxref-answers/1", "contract": "NX-F32/1"}))
    with open(folder / "kit.jsonl", encoding="ascii") as kit, np.errstate(all="ignore"):
        next(kit)
        for line in kit:
            case = json.loads(line)
            output = getattr(answers, case["operation"])(case["input"])
            print(json.dumps({"id": case["id"], "output": output}))


if __name__ == "__main__":
    main()
