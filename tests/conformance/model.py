# SPDX-License-Identifier: Apache-2.0
"""Sections 2 and 3 of docs/contract.md: the model and its cache."""

import functools
import json
import struct

import numpy as np

import functions
from arithmetic import F32, F64, decimal, dot, fma, lane_sum, lane_sum_sq, widen_bf16, widen_f16
from presses import Head, kept_slots, norm

ACTIVATIONS = {"gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh",
               "gelu_pytorch_tanh": "gelu_tanh", "gelu_python_tanh": "gelu_tanh",
               "gelu_accurate": "gelu_tanh", "gelu_fast": "gelu_fast", "quick_gelu": "quick_gelu",
               "silu": "silu", "swish": "silu", "tanh": "tanh", "relu": "relu"}


def layer_norm(x, gamma, beta, eps):
    """Along the last axis; and whether all is finite."""
    n = F64(x.shape[-1])
    total = lane_sum(x)
    mean = (total / n).astype(F32)
    d = x - mean[..., None]
    squares = lane_sum_sq(d)
    r = F32(1) / np.sqrt((squares / n).astype(F32) + eps)
    return fma(d * r[..., None], gamma, beta), bool(np.isfinite(total + squares).all())


def linear(x, weight, bias):
    """x [..., inputs], weight [outputs, inputs]."""
    y = dot(x[..., None, :], weight)
    return y if bias is None else y + bias


def rotary_dims(head_dim, pct):
    return int(float(head_dim) * float(pct))


@functools.lru_cache(maxsize=None)
def inv_freq(base, dims):
    """base a Python float that is a binary32 number."""
    exponents = [F32(2 * i) / F32(dims) for i in range(dims // 2)]
    return np.array([F32(1) / functions.power(base, float(e)) for e in exponents], F32)


@functools.lru_cache(maxsize=None)
def rotary_row(base, dims, position):
    """cos and sin, each [dims / 2]."""
    angles = F32(position) * inv_freq(base, dims)
    return tuple(np.array([functions.exact(name, float(a)) for a in angles], F32)
                 for name in ("cos", "sin"))


def rotate(x, base, dims, position):
    """x [..., head_dim]."""
    c, s = rotary_row(base, dims, position)
    half = dims // 2
    x1, x2 = x[..., :half], x[..., half:dims]
    return np.concatenate([fma(x1, c, -(x2 * s)), fma(x2, c, x1 * s), x[..., dims:]], axis=-1)


def attention_scale(head_dim):
    return F32(F64(1) / np.sqrt(F64(head_dim)))


def attend(q, keys, values):
    """q [heads, head_dim], keys and values [heads, slots, head_dim]; output, and weights e / Z."""
    scores = dot(q[:, None, :], keys) * attention_scale(q.shape[-1])
    e = functions.apply("exp", scores - scores.max(axis=-1, keepdims=True))
    z = lane_sum(e).astype(F32)[:, None]
    return dot(e[:, None, :], np.swapaxes(values, 1, 2)) / z, e / z


def read_safetensors(path):
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        first, last = (8 + size + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "F32":
            values = np.frombuffer(data[first:last], "<f4").astype(F32)
        else:
            widen = {"F16": widen_f16, "BF16": widen_bf16}[entry["dtype"]]
            values = widen(np.frombuffer(data[first:last], "<u2"))
        tensors[name] = values.reshape(entry["shape"])
    return tensors


class Model:
    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text(), parse_float=str)
        self.hidden = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.layers = config["num_hidden_layers"]
        self.head_dim = self.hidden // self.heads
        self.dims = rotary_dims(self.head_dim, config["rotary_pct"])
        self.base = float(decimal(str(config["rotary_emb_base"])))
        self.eps = decimal(str(config["layer_norm_eps"]))
        self.activation = ACTIVATIONS[config["hidden_act"]]
        self.parallel = config["use_parallel_residual"]
        self.weights = read_safetensors(folder / "model.safetensors")
        self.out = self.weights["gpt_neox.embed_in.weight" if config["tie_word_embeddings"]
                                else "embed_out.weight"]

    def norm(self, x, name):
        return layer_norm(x, self.weights[name + ".weight"], self.weights[name + ".bias"],
                          self.eps)[0]

    def linear(self, x, name):
        return linear(x, self.weights[name + ".weight"], self.weights.get(name + ".bias"))

    def key_biases(self, layer):
        """[heads, head_dim], or None."""
        bias = self.weights.get(f"gpt_neox.layers.{layer}.attention.query_key_value.bias")
        return None if bias is None else bias.reshape(self.heads, 3, self.head_dim)[:, 1]


class Sequence:
    """A text on its way through a model, and its cache."""

    def __init__(self, model):
        self.model = model
        self.cache = [[Head() for _ in range(model.heads)] for _ in range(model.layers)]
        self.press = None
        self.position = self.since_press = 0
        self.prompt_ended = False
        self.cuts = [0] * model.layers

    def set_press(self, press):
        self.press, self.since_press = press, 0

    def forward(self, tokens, record=None):
        """Logits [tokens, vocab]. Under a press tokens enter one by one."""
        if self.press is not None and len(tokens) > 1:
            return np.concatenate([self.forward([token], record) for token in tokens])
        self.cut_what_is_due("before")
        self.prompt_ended = False
        x = self.model.weights["gpt_neox.embed_in.weight"][np.array(tokens)]
        keep(record, "gpt_neox.embed_in", x)
        start = self.start_position()
        for layer in range(self.model.layers):
            x = self.layer(layer, x, start, record)
        x = self.model.norm(x, "gpt_neox.final_layer_norm")
        keep(record, "gpt_neox.final_layer_norm", x)
        logits = linear(x, self.model.out, None)
        keep(record, "embed_out", logits)
        self.position += len(tokens)
        self.since_press += len(tokens)
        self.cut_what_is_due("after")
        return logits

    def start_position(self):
        if self.press is not None and self.press["positions"] == "cache-length":
            for layer in range(self.model.layers):
                if layer not in self.press["skip_layers"]:
                    return len(self.cache[layer][0].keys)
        return self.position

    def layer(self, layer, x, start, record=None):
        """x [tokens, hidden]; its first token turns by position `start`."""
        m, name = self.model, f"gpt_neox.layers.{layer}"

        def kept(what, values):
            keep(record, name + what, values)
            return values

        normed = kept(".input_layernorm", m.norm(x, name + ".input_layernorm"))
        qkv = kept(".attention.query_key_value",
                   m.linear(normed, name + ".attention.query_key_value"))
        context = kept(".attention.context", self.attention(layer, qkv, start, kept))
        attn = kept(".attention.dense", m.linear(context, name + ".attention.dense"))
        h = x if m.parallel else attn + x
        normed = kept(".post_attention_layernorm", m.norm(h, name + ".post_attention_layernorm"))
        up = kept(".mlp.dense_h_to_4h", m.linear(normed, name + ".mlp.dense_h_to_4h"))
        act = kept(".mlp.act", functions.apply(m.activation, up))
        mlp = kept(".mlp.dense_4h_to_h", m.linear(act, name + ".mlp.dense_4h_to_h"))
        return kept("", (attn + mlp) + x if m.parallel else mlp + h)

    def attention(self, layer, qkv, start, kept):
        m, heads = self.model, self.cache[layer]
        renumbered = self.press is not None and self.press["positions"] == "rerotate"
        parts = qkv.reshape(len(qkv), m.heads, 3, m.head_dim)
        contexts = []
        for t, (q, k, v) in enumerate(np.swapaxes(parts, 1, 2)):
            position = len(heads[0].keys) if renumbered else start + t
            raw = k[:, :m.dims]
            q, k = rotate(q, m.base, m.dims, position), rotate(k, m.base, m.dims, position)
            norms = norm(k)
            for i, head in enumerate(heads):
                head.keys.append(k[i])
                head.raw.append(raw[i])
                head.values.append(v[i])
                head.norms.append(norms[i])
                head.positions.append(self.position + t)
            kept(".attention.rotary_q", q.reshape(1, -1))
            kept(".attention.rotary_k", k.reshape(1, -1))
            context, weights = attend(q, np.array([head.keys for head in heads]),
                                      np.array([head.values for head in heads]))
            for head, given in zip(heads, weights):
                head.weights.append(given)
            contexts.append(context.ravel())
        return np.array(contexts)

    def cut_what_is_due(self, moment):
        press = self.press
        if press is None:
            return
        trigger = press["trigger"]
        for layer in range(self.model.layers):
            if layer in press["skip_layers"]:
                continue
            slots = len(self.cache[layer][0].keys)
            if moment == "before":
                due = ((trigger == "reaches" and slots >= press["prune_after"]) or
                       (trigger == "after-prompt" and self.prompt_ended))
            else:
                due = ((trigger == "exceeds" and slots > press["prune_after"]) or
                       (trigger == "every" and self.since_press % press["interval"] == 0))
            if due:
                self.cut(layer)

    def cut(self, layer):
        m, heads = self.model, self.cache[layer]
        kept_of_heads = kept_slots(self.press, heads, layer, self.cuts[layer], m.dims,
                                   m.key_biases(layer))
        self.cuts[layer] += len(kept_of_heads[0]) < len(heads[0].keys)
        for head, kept in zip(heads, kept_of_heads):
            head.keep(kept)
            if self.press["positions"] == "rerotate":
                head.keys = [rotate(np.concatenate([raw, key[m.dims:]]), m.base, m.dims, slot)
                             for slot, (raw, key) in enumerate(zip(head.raw, head.keys))]


def keep(record, name, values):
    if record is not None:
        record.setdefault(name, []).append(values)
