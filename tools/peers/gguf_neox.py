# SPDX-License-Identifier: Apache-2.0
"""A GPT-NeoX checkpoint as the GGUF file that llama.cpp reads.

Without a vocabulary: whoever runs the file gives token ids. llama.cpp wants the rows of
query_key_value as [q, k, v][heads][head_dim], where a checkpoint has [heads][q, k, v][head_dim]."""
import json

import gguf
import numpy
import torch
from safetensors import safe_open

LAYER_NAMES = {"input_layernorm": "attn_norm", "attention.query_key_value": "attn_qkv",
               "attention.dense": "attn_output", "post_attention_layernorm": "ffn_norm",
               "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"}
TYPES = {"f32": (torch.float32, gguf.LlamaFileType.ALL_F32),
         "f16": (torch.float16, gguf.LlamaFileType.MOSTLY_F16),
         "bf16": (torch.bfloat16, gguf.LlamaFileType.MOSTLY_BF16),
         "q8_0": (torch.float32, gguf.LlamaFileType.MOSTLY_Q8_0)}


def read(folder):
    index = folder / "model.safetensors.index.json"
    files = (set(json.loads(index.read_text())["weight_map"].values()) if index.exists()
             else ["model.safetensors"])
    for file in sorted(files):
        with safe_open(folder / file, "pt") as tensors:
            for name in tensors.keys():
                yield name, tensors.get_tensor(name)


def write(folder, path, dtype):
    """Matrices in `dtype` (f32, f16, bf16, q8_0), vectors in float32, as llama.cpp's converter does."""
    config = json.loads((folder / "config.json").read_text())
    rotary = config.get("rope_parameters") or {}
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = hidden // heads
    share = config.get("rotary_pct", rotary.get("partial_rotary_factor", 0.25))
    torch_type, file_type = TYPES[dtype]
    writer = gguf.GGUFWriter(path, "gptneox")
    writer.add_file_type(file_type)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_rope_dimension_count(int(head_dim * share))
    writer.add_rope_freq_base(config.get("rotary_emb_base", rotary.get("rope_theta", 10000)))
    writer.add_head_count(heads)
    writer.add_parallel_residual(config.get("use_parallel_residual", True))
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")

    def add(name, tensor):
        if tensor.ndim == 1:
            return writer.add_tensor(name, tensor.to(torch.float32).numpy())
        tensor = tensor.to(torch_type)
        if dtype == "bf16":
            return writer.add_tensor(name, tensor.view(torch.uint16).numpy().view(numpy.uint8),
                                     raw_dtype=gguf.GGMLQuantizationType.BF16)
        if dtype == "q8_0":
            kind = gguf.GGMLQuantizationType.Q8_0
            return writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), kind),
                                     raw_dtype=kind)
        return writer.add_tensor(name, tensor.numpy())

    tops = {"gpt_neox.embed_in.weight": "token_embd.weight", "embed_out.weight": "output.weight",
            "gpt_neox.final_layer_norm.weight": "output_norm.weight",
            "gpt_neox.final_layer_norm.bias": "output_norm.bias"}
    for name, tensor in read(folder):
        if name in tops:
            add(tops[name], tensor)
            continue
        _, _, layer, rest = name.split(".", 3)
        part, kind = rest.rsplit(".", 1)
        if part not in LAYER_NAMES or kind not in ("weight", "bias"):
            continue  # old checkpoints carry inv_freq and masks
        if part == "attention.query_key_value":
            tensor = tensor.unflatten(0, (heads, 3, head_dim)).transpose(0, 1).flatten(0, 2)
        add(f"blk.{layer}.{LAYER_NAMES[part]}.{kind}", tensor.contiguous())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
