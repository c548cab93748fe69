# SPDX-License-Identifier: Apache-2.0
"""The random checkpoints of the goldens: which there are, their weights, and how they are written.
The seeds are fixed."""

import dataclasses
import json
import math

import numpy as np
import safetensors.torch
import torch

# The newest spelling of config.json names the version that writes it.
TRANSFORMERS_VERSION = "5.23.0"


@dataclasses.dataclass
class Case:
    """One checkpoint and its prompt. `spelling`: 'old' (rotary_pct), 'new' (rope_parameters) or
    'bare' (neither); `rows_from`: the first token whose tensors are kept."""

    name: str
    seed: int
    notes: str
    heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tokens: int
    rotary_pct: float = 0.25
    base: float = 10000
    act: str = "gelu"
    parallel: bool = True
    eps: float = 1e-5
    bias: bool = True
    tied: bool = False
    dtype: torch.dtype = torch.float32
    spelling: str = "old"
    positions: int = 64
    rows_from: int = 0
    layers: int = 2
    shards: int = 1
    old_buffers: bool = False

    @property
    def hidden(self):
        return self.heads * self.head_dim


F16, BF16 = torch.float16, torch.bfloat16
CASES = [
    Case("parallel", 1, "the Pythia form; 2 rotary dims a head", 4, 8, 72, 61, 32),
    Case("sequential", 2, "sequential residual; new spelling", 3, 8, 96, 53, 32,
         rotary_pct=0.5, parallel=False, spelling="new"),
    Case("bare_config", 3, "every field that has a default is absent from config.json",
         4, 8, 48, 41, 32, spelling="bare", positions=2048),
    Case("head_dim_40", 4, "one head; gelu_new; float16", 1, 40, 64, 97, 32,
         act="gelu_new", dtype=F16, spelling="new"),
    Case("head_dim_20", 5, "bfloat16; gelu_fast; sequential; 10 rotary dims", 3, 20, 68, 43, 24,
         rotary_pct=0.5, act="gelu_fast", parallel=False, dtype=BF16),
    Case("head_dim_32", 6, "one head; every dim rotates; gelu_pytorch_tanh; base 500",
         1, 32, 56, 47, 36, rotary_pct=1.0, base=500, act="gelu_pytorch_tanh", spelling="new"),
    Case("head_dim_16", 7, "quick_gelu; attention_bias false; float16", 3, 16, 66, 59, 28,
         rotary_pct=0.5, act="quick_gelu", bias=False, dtype=F16, spelling="new"),
    Case("no_rotary", 8, "rotary_pct 0; relu; old spelling", 3, 8, 64, 41, 30,
         rotary_pct=0.0, act="relu"),
    Case("no_rotary_new", 9, "partial_rotary_factor 0; sequential; attention_bias false",
         3, 8, 50, 37, 26, rotary_pct=0.0, parallel=False, bias=False, spelling="new"),
    Case("tied", 10, "tied embeddings, no embed_out in the file; silu", 1, 32, 48, 67, 40,
         rotary_pct=0.5, act="silu", tied=True),
    Case("eps_large", 11, "layer_norm_eps 1e-3; tanh", 3, 8, 52, 37, 33, act="tanh", eps=1e-3),
    Case("eps_small", 12, "layer_norm_eps 1e-12; base 1e6; one head; every dim rotates",
         1, 20, 34, 29, 40,
         rotary_pct=1.0, base=1e6, parallel=False, eps=1e-12, spelling="new"),
    Case("sharded", 13, "three shards with model.safetensors.index.json; bfloat16",
         4, 8, 64, 61, 32,
         rotary_pct=1.0, dtype=BF16, spelling="new", shards=3),
    Case("old_buffers", 14, "attention.bias (BOOL, U8), masked_bias (-inf), a coarse inv_freq: "
         "all to be ignored; float16",
         4, 8, 64, 57, 32, rotary_pct=1.0, dtype=F16, old_buffers=True),
    Case("long_context", 15, "560 slots; rows before and after the 512th stored", 3, 8, 48, 31, 560,
         rotary_pct=0.5, positions=600, rows_from=440),
]


def config_of(case):
    """config.json of a case, in the spelling that the case asks for."""
    config = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_size": case.hidden,
        "intermediate_size": case.intermediate,
        "num_attention_heads": case.heads,
        "num_hidden_layers": case.layers,
        "vocab_size": case.vocab,
    }
    if case.spelling == "bare":
        return config
    config |= {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": case.act,
        "initializer_range": 0.02,
        "layer_norm_eps": case.eps,
        "max_position_embeddings": case.positions,
        "tie_word_embeddings": case.tied,
        "use_cache": True,
        "use_parallel_residual": case.parallel,
    }
    dtype = str(case.dtype).removeprefix("torch.")
    if case.spelling == "old":
        config |= {"rotary_emb_base": case.base, "rotary_pct": case.rotary_pct,
                   "torch_dtype": dtype, "transformers_version": "4.24.0"}
        if not case.bias:
            config["attention_bias"] = False
    else:
        config |= {"attention_bias": case.bias, "attention_dropout": 0.0, "hidden_dropout": 0.0,
                   "classifier_dropout": 0.1, "dtype": dtype, "is_decoder": False,
                   "pad_token_id": None, "transformers_version": TRANSFORMERS_VERSION,
                   "rope_parameters": {"partial_rotary_factor": case.rotary_pct,
                                       "rope_theta": float(case.base), "rope_type": "default"}}
    return config


def weights_of(case):
    """Random weights of the size that trained ones have: scores and logits of some units, gains
    around 1 with outliers, one loud channel in the residual stream, no bias zero."""
    random = np.random.Generator(np.random.PCG64(case.seed))
    hidden, inner = case.hidden, case.intermediate
    weights = {}

    def put(name, values):
        weights[name] = torch.from_numpy(values.astype(np.float32)).to(case.dtype)

    def linear(name, outputs, inputs, gain, bias=True):
        put(f"{name}.weight", random.standard_normal((outputs, inputs)) * gain / math.sqrt(inputs))
        if bias:
            put(f"{name}.bias", random.standard_normal(outputs) * np.squeeze(gain) * 0.25)

    def norm(name):
        gain = 1 + 0.15 * random.standard_normal(hidden)
        gain[random.integers(hidden, size=max(1, hidden // 20))] *= 3
        put(f"{name}.weight", gain)
        put(f"{name}.bias", random.standard_normal(hidden) * 0.2)

    # Queries and keys quieter than values: a softmax that is all but one-hot would let one
    # rounding of one score decide the error of a whole row, and an RMS over such rows says little.
    query_key_value = np.tile(np.repeat([0.5, 0.5, 1], case.head_dim), case.heads)[:, None]
    embedding = random.standard_normal((case.vocab, hidden)) * (0.4 if case.tied else 0.8)
    embedding[:, random.integers(hidden)] *= 4
    put("gpt_neox.embed_in.weight", embedding)
    for layer in range(case.layers):
        at = f"gpt_neox.layers.{layer}"
        norm(f"{at}.input_layernorm")
        linear(f"{at}.attention.query_key_value", 3 * hidden, hidden, query_key_value, case.bias)
        linear(f"{at}.attention.dense", hidden, hidden, 1.0, case.bias)
        norm(f"{at}.post_attention_layernorm")
        linear(f"{at}.mlp.dense_h_to_4h", inner, hidden, 1.2)
        linear(f"{at}.mlp.dense_4h_to_h", hidden, inner, 1.2)
        if case.old_buffers:
            causal = torch.ones(case.positions, case.positions).tril()[None, None]
            pairs = int(case.head_dim * case.rotary_pct) // 2
            coarse = case.base ** -(torch.arange(pairs) / pairs)
            weights[f"{at}.attention.bias"] = causal.to((torch.bool, torch.uint8)[layer % 2])
            weights[f"{at}.attention.masked_bias"] = torch.tensor(-1e9).to(case.dtype)
            weights[f"{at}.attention.rotary_emb.inv_freq"] = coarse.to(torch.float16)
    norm("gpt_neox.final_layer_norm")
    if not case.tied:
        linear("embed_out", case.vocab, hidden, 2.0, bias=False)
    return weights, random.integers(case.vocab, size=case.tokens)


def write_checkpoint(case, weights, folder):
    """config.json and the weights, in one file or in `case.shards` files with an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(case), indent=2) + "\n")
    metadata = {"format": "pt"}
    if case.shards == 1:
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata)
        return
    names = sorted(weights)
    place = {}
    for shard in range(case.shards):
        file = f"model-{shard + 1:05}-of-{case.shards:05}.safetensors"
        mine = names[shard::case.shards]
        safetensors.torch.save_file({name: weights[name] for name in mine}, folder / file, metadata)
        place |= {name: file for name in mine}
    size = sum(tensor.nbytes for tensor in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(place.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
