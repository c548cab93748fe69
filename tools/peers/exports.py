# SPDX-License-Identifier: Apache-2.0
"""A GPT-NeoX checkpoint in the formats of the engines that do not read it themselves.

usage: exports.py FOLDER ENGINE...      files are made beside the checkpoint where they are missing

onnxruntime and openvino get one graph: ids and the keys and values so far in, the logits of the last
id and the longer keys and values out. Attention is PyTorch's fused operation, as optimum exports it."""
import json
import pathlib
import sys

import torch
from torch.nn import functional


class NeoX(torch.nn.Module):
    """GPT-NeoX as its authors define it, in the words of PyTorch."""

    def __init__(self, folder):
        super().__init__()
        import gguf_neox
        config = json.loads((folder / "config.json").read_text())
        rotary = config.get("rope_parameters") or {}
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.head_dim = config["hidden_size"] // self.heads
        self.parallel = config.get("use_parallel_residual", True)
        self.eps = config["layer_norm_eps"]
        if config["hidden_act"] != "gelu":
            raise SystemExit(f"exports: hidden_act {config['hidden_act']}, only gelu is known here")
        for name, tensor in gguf_neox.read(folder):
            self.register_buffer(name.replace(".", "/"), tensor.to(torch.float32))
        dims = int(self.head_dim * config.get("rotary_pct",
                                              rotary.get("partial_rotary_factor", 0.25)))
        base = config.get("rotary_emb_base", rotary.get("rope_theta", 10000))
        angles = torch.outer(torch.arange(config["max_position_embeddings"], dtype=torch.float64),
                             base ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims))
        self.register_buffer("cos", torch.cat((angles.cos(), angles.cos()), -1).float())
        self.register_buffer("sin", torch.cat((angles.sin(), angles.sin()), -1).float())
        self.dims = dims

    def linear(self, x, name):
        return functional.linear(x, getattr(self, name + "/weight"), getattr(self, name + "/bias"))

    def norm(self, x, name):
        return functional.layer_norm(x, (self.heads * self.head_dim,), getattr(self, name + "/weight"),
                                     getattr(self, name + "/bias"), self.eps)

    def turn(self, x, cos, sin):
        turned, rest = x[..., :self.dims], x[..., self.dims:]
        half = self.dims // 2
        other = torch.cat((-turned[..., half:], turned[..., :half]), -1)
        return torch.cat((turned * cos + other * sin, rest), -1)

    def forward(self, ids, *past):
        """past: key and value of each layer, [1, heads, slots, head_dim]."""
        x = functional.embedding(ids, getattr(self, "gpt_neox/embed_in/weight"))
        before, count = past[0].shape[2], ids.shape[1]
        position = torch.arange(before, before + count)
        cos, sin = self.cos[position], self.sin[position]
        visible = torch.arange(before + count)[None] <= position[:, None]
        present = []
        for layer in range(self.layers):
            at = f"gpt_neox/layers/{layer}"
            qkv = self.linear(self.norm(x, at + "/input_layernorm"), at + "/attention/query_key_value")
            qkv = qkv.view(1, -1, self.heads, 3 * self.head_dim).transpose(1, 2)
            q, k, v = qkv.split(self.head_dim, -1)
            k = torch.cat((past[2 * layer], self.turn(k, cos, sin)), 2)
            v = torch.cat((past[2 * layer + 1], v), 2)
            present += [k, v]
            context = functional.scaled_dot_product_attention(self.turn(q, cos, sin), k, v, visible)
            context = context.transpose(1, 2).reshape(1, -1, self.heads * self.head_dim)
            attention = self.linear(context, at + "/attention/dense")
            into_mlp = x if self.parallel else x + attention
            mlp = functional.gelu(self.linear(self.norm(into_mlp, at + "/post_attention_layernorm"),
                                              at + "/mlp/dense_h_to_4h"))
            x = x + attention + self.linear(mlp, at + "/mlp/dense_4h_to_h")
        x = self.norm(x[:, -1], "gpt_neox/final_layer_norm")
        return (functional.linear(x, getattr(self, "embed_out/weight")), *present)

    def example(self):
        past = torch.zeros(1, self.heads, 3, self.head_dim)
        return torch.tensor([[1, 2, 3, 4]]), *[past] * (2 * self.layers)

    def names(self, kind):
        return [f"{kind}_{part}_{layer}" for layer in range(self.layers) for part in ("key", "value")]


def onnxruntime(folder):
    path = folder / "model.onnx"
    if path.exists():
        return
    model = NeoX(folder)
    axes = {"ids": {1: "count"}, **{name: {2: "before"} for name in model.names("past")},
            **{name: {2: "after"} for name in model.names("present")}}
    torch.onnx.export(model, model.example(), path, dynamo=False, opset_version=17,
                      input_names=["ids", *model.names("past")],
                      output_names=["logits", *model.names("present")], dynamic_axes=axes)


def openvino(folder):
    path = folder / "openvino.xml"
    if path.exists():
        return
    import openvino as ov
    from openvino._offline_transformations import apply_make_stateful_transformation
    model = NeoX(folder)
    shape = ov.PartialShape([1, model.heads, -1, model.head_dim])
    graph = ov.convert_model(model, example_input=model.example(),
                             input=[ov.PartialShape([1, -1]), *[shape] * (2 * model.layers)])
    for port, name in zip(graph.inputs, ["ids", *model.names("past")]):
        port.get_tensor().set_names({name})
    for port, name in zip(graph.outputs, ["logits", *model.names("present")]):
        port.get_tensor().set_names({name})
    apply_make_stateful_transformation(graph, dict(zip(model.names("past"),
                                                       model.names("present"))))
    ov.save_model(graph, path, compress_to_fp16=False)


def openvino_int8(folder):
    path = folder / "openvino-int8.xml"
    if path.exists():
        return
    openvino(folder)
    import nncf
    import openvino as ov
    graph = ov.Core().read_model(folder / "openvino.xml")
    ov.save_model(nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM), path)


def ctranslate2(folder):
    out = folder / "ctranslate2"
    if out.exists():
        return
    import ctranslate2 as ct2
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    # Its converter reads the names of transformers 4.
    GPTNeoXForCausalLM.embed_out = property(lambda loaded: loaded.lm_head)
    GPTNeoXConfig.rotary_pct = property(
        lambda config: config.rope_parameters["partial_rotary_factor"])
    GPTNeoXConfig.rotary_emb_base = property(lambda config: config.rope_parameters["rope_theta"])
    ct2.converters.TransformersConverter(str(folder)).convert(str(out))
    # It takes tokens as text; here the text is the id.
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    (out / "vocabulary.json").write_text(json.dumps([str(token) for token in range(vocab)]))


def llama_cpp(folder, dtype):
    import gguf_neox
    path = folder / f"{dtype}.gguf"
    if not path.exists():
        part = folder / f"{dtype}.gguf.part"
        gguf_neox.write(folder, part, dtype)
        part.rename(path)


EXPORTS = {"onnxruntime": onnxruntime, "openvino": openvino, "openvino int8": openvino_int8,
           "ctranslate2": ctranslate2, "ctranslate2 int8": ctranslate2,
           "llama.cpp": lambda folder: llama_cpp(folder, "f32"),
           "llama.cpp bf16": lambda folder: llama_cpp(folder, "bf16"),
           "llama.cpp q8_0": lambda folder: llama_cpp(folder, "q8_0")}


if __name__ == "__main__":
    for engine in sys.argv[2:]:
        if engine in EXPORTS:
            with torch.no_grad():
                EXPORTS[engine](pathlib.Path(sys.argv[1]))
