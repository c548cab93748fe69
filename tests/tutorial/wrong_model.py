#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A port of GPT-NeoX to plain PyTorch with two bugs that ports really have; docs/tutorial.md
finds them. Rotary turns neighbouring components (2i, 2i + 1) where the model was trained with
(i, i + half), and the MLP takes the tanh form of GELU for the erf one. Runs the tokens of a golden
and writes what its modules gave.

usage: wrong_model.py MODEL GOLDEN -o DUMP.safetensors [--inner] [--mend rotary] [--mend gelu]

MODEL is a folder. --inner dumps rotary_q, rotary_k and context too. Needs torch and safetensors.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


def rotate(x, positions, dims, base, interleaved):
    """x [tokens, heads, head_dim]; the first dims components of each head turn."""
    frequencies = base ** (-torch.arange(0, dims, 2).float() / dims)
    angle = positions[:, None].float() * frequencies
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    turning, rest = x[..., :dims], x[..., dims:]
    if interleaved:
        a, b = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    else:
        a, b = turning.chunk(2, dim=-1)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
    return torch.cat([turned, rest], dim=-1)


class Attention(nn.Module):
    def __init__(self, config, interleaved):
        super().__init__()
        hidden = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.head_dim = hidden // self.heads
        rope = config.get("rope_parameters", config)
        share = rope.get("partial_rotary_factor", config.get("rotary_pct"))
        self.base = rope.get("rope_theta", config.get("rotary_emb_base"))
        self.dims = int(self.head_dim * share)
        self.interleaved = interleaved
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.dense = nn.Linear(hidden, hidden)
        # Nothing but places for hooks.
        self.rotary_q, self.rotary_k, self.context = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        tokens = x.shape[1]
        qkv = self.query_key_value(x)[0].view(tokens, self.heads, 3, self.head_dim)
        q, k, v = qkv.unbind(2)
        positions = torch.arange(tokens)
        q = self.rotary_q(rotate(q, positions, self.dims, self.base, self.interleaved))
        k = self.rotary_k(rotate(k, positions, self.dims, self.base, self.interleaved))
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(self.head_dim)
        hidden_slots = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden_slots, -math.inf).softmax(-1)
        context = torch.einsum("hqk,khd->qhd", weights, v).reshape(1, tokens, -1)
        return self.dense(self.context(context))


class Mlp(nn.Module):
    def __init__(self, config, approximate):
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.dense_h_to_4h = nn.Linear(hidden, inner)
        self.act = nn.GELU(approximate=approximate)
        self.dense_4h_to_h = nn.Linear(inner, hidden)

    def forward(self, x):
        return self.dense_4h_to_h(self.act(self.dense_h_to_4h(x)))


class Layer(nn.Module):
    def __init__(self, config, mended):
        super().__init__()
        hidden, eps = config["hidden_size"], config["layer_norm_eps"]
        self.input_layernorm = nn.LayerNorm(hidden, eps)
        self.post_attention_layernorm = nn.LayerNorm(hidden, eps)
        self.attention = Attention(config, interleaved="rotary" not in mended)
        self.mlp = Mlp(config, approximate="none" if "gelu" in mended else "tanh")

    def forward(self, x):
        return (self.attention(self.input_layernorm(x)) +
                self.mlp(self.post_attention_layernorm(x)) + x)


class Body(nn.Module):
    def __init__(self, config, mended):
        super().__init__()
        self.embed_in = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config, mended)
                                    for _ in range(config["num_hidden_layers"]))
        self.final_layer_norm = nn.LayerNorm(config["hidden_size"], config["layer_norm_eps"])

    def forward(self, ids):
        x = self.embed_in(ids)
        for layer in self.layers:
            x = layer(x)
        return self.final_layer_norm(x)


class Port(nn.Module):
    """Its modules have the names of transformers' GPT-NeoX, so its checkpoint fits."""

    def __init__(self, folder, mended=()):
        super().__init__()
        config = json.loads((folder / "config.json").read_text())
        self.gpt_neox = Body(config, mended)
        self.embed_out = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        weights = load_file(folder / "model.safetensors")
        self.load_state_dict({name: tensor.float() for name, tensor in weights.items()})

    def forward(self, ids):
        return self.embed_out(self.gpt_neox(ids))


MODULES = (nn.Embedding, nn.LayerNorm, nn.Linear, nn.GELU, Layer)


def run(port, ids, inner):
    """What each module gives for ids [1, tokens], by its name; inner: the attention's steps too."""
    dump = {"input_ids": ids}

    def note(name):
        def hook(_module, _inputs, output):
            dump[name] = output.detach().clone()
        return hook

    for name, module in port.named_modules():
        if isinstance(module, MODULES) or (inner and isinstance(module, nn.Identity)):
            module.register_forward_hook(note(name))
    with torch.no_grad():
        port(ids)
    return dump


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("golden", type=Path)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--inner", action="store_true")
    parser.add_argument("--mend", action="append", default=[], choices=["rotary", "gelu"])
    arguments = parser.parse_args()
    golden = json.loads((arguments.golden / "golden.json").read_text())
    ids = torch.tensor([golden["tokens"]])
    save_file(run(Port(arguments.model, arguments.mend), ids, arguments.inner), arguments.output)


if __name__ == "__main__":
    main()
