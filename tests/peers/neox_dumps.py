# SPDX-License-Identifier: Apache-2.0
"""transformers' GPT-NeoX with known deviations, and its tensors under the names of docs/tensors.md.

DEVIATIONS maps a name to a function that makes a loaded model deviate; the names are those of
docs/deviations.md. `record` runs a model and returns what it computed."""

import contextlib
import functools

import torch
import transformers
from transformers.activations import ACT2FN
from transformers.models.gpt_neox import modeling_gpt_neox as neox

LAYER_PARTS = ("input_layernorm", "attention.query_key_value", "attention.dense",
               "post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h")


def load(folder, dtype=torch.float32, attention="eager"):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers.GPTNeoXForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention).eval()


class Patch:
    """What differs from transformers: hooks of one model, and functions of its module that stand
    replaced while `active`."""

    def __init__(self, model):
        self.model = model
        self.config = model.config
        self.layers = model.gpt_neox.layers
        self.functions = {}
        self.flush_subnormals = False
        self.first_token = 0
        self.position = 0

    @contextlib.contextmanager
    def active(self):
        kept = {name: getattr(neox, name) for name in self.functions}
        for name, function in self.functions.items():
            setattr(neox, name, function)
        torch.set_flush_denormal(self.flush_subnormals)
        try:
            yield
        finally:
            torch.set_flush_denormal(False)
            for name, function in kept.items():
                setattr(neox, name, function)


def activation(name):
    def patch(patch):
        for layer in patch.layers:
            layer.mlp.act = ACT2FN[name]
    return patch


def eps(value):
    def patch(patch):
        for module in patch.model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = value
    return patch


def rotary_pct(value):
    """The share of a head that turns; 0 turns nothing."""
    def patch(patch):
        if value == 0:
            patch.functions["apply_rotary_pos_emb"] = lambda q, k, cos, sin: (q, k)
            return
        patch.config.rope_parameters["partial_rotary_factor"] = value
        patch.model.gpt_neox.rotary_emb = neox.GPTNeoXRotaryEmbedding(patch.config)
    return patch


def rotary_base(value):
    def patch(patch):
        patch.config.rope_parameters["rope_theta"] = value
        patch.model.gpt_neox.rotary_emb = neox.GPTNeoXRotaryEmbedding(patch.config)
    return patch


def turn_pairs(x, cos, sin):
    """Neighbours (2i, 2i + 1) turn together, as in GPT-J."""
    dims = cos.shape[-1]
    cos, sin = cos[:, None, :, :dims // 2], sin[:, None, :, :dims // 2]
    even, odd = x[..., :dims:2], x[..., 1:dims:2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned, x[..., dims:]), dim=-1)


def interleaved_rotary(patch):
    patch.functions["apply_rotary_pos_emb"] = lambda q, k, cos, sin: (
        turn_pairs(q, cos, sin), turn_pairs(k, cos, sin))


def positions_from_one(patch):
    patch.position = 1


def queries_one_ahead(patch):
    original = neox.apply_rotary_pos_emb
    rotary = patch.model.gpt_neox.rotary_emb

    def apply(q, k, cos, sin):
        ahead = rotary(q, torch.arange(1, q.shape[2] + 1)[None])
        return original(q, k, *ahead)[0], original(q, k, cos, sin)[1]
    patch.functions["apply_rotary_pos_emb"] = apply


def qkv_split(view):
    """The same outputs of query_key_value, read in another order."""
    def patch(patch):
        heads = patch.config.num_attention_heads

        def reorder(_module, _inputs, output):
            return view(output.unflatten(-1, (-1,)), heads).flatten(-3)
        for layer in patch.layers:
            layer.attention.query_key_value.register_forward_hook(reorder)
    return patch


def qkv_outermost(output, heads):
    return output.unflatten(-1, (3, heads, -1)).transpose(-3, -2)


def qkv_innermost(output, heads):
    return output.unflatten(-1, (heads, -1, 3)).transpose(-2, -1)


def residual(parallel):
    def patch(patch):
        for layer in patch.layers:
            layer.use_parallel_residual = parallel
    return patch


def no_final_norm(patch):
    patch.model.gpt_neox.final_layer_norm = torch.nn.Identity()


def no_bias(part, layers=None):
    def patch(patch):
        for number, layer in enumerate(patch.layers):
            if layers is None or number in layers:
                torch.nn.init.zeros_(layer.get_submodule(part).bias)
    return patch


def attention_over(visible):
    """Eager attention in which query t sees slot j where visible(t, j)."""
    def forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        tokens = query.shape[2]
        t, j = torch.arange(tokens)[:, None], torch.arange(tokens)[None]
        scores = torch.matmul(query, key.transpose(2, 3)) * scaling
        scores = scores.masked_fill(~visible(t, j), torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights

    def patch(patch):
        patch.functions["eager_attention_forward"] = forward
    return patch


def no_scale(patch):
    for layer in patch.layers:
        layer.attention.scaling = 1.0


def flush_to_zero(patch):
    """The CPU's mode for float32. For float16, where this CPU has no such mode, every module's
    output loses its subnormal numbers."""
    patch.flush_subnormals = True
    if patch.model.dtype != torch.float16:
        return
    smallest = torch.finfo(torch.float16).smallest_normal

    def flush(_module, _inputs, output):
        if isinstance(output, torch.Tensor):
            return torch.where(output.abs() < smallest, torch.zeros_like(output), output)
        return None
    for module in patch.model.modules():
        if not list(module.children()):
            module.register_forward_hook(flush)


def narrow_logits(dtype):
    def patch(patch):
        patch.model.lm_head.register_forward_hook(
            lambda _module, _inputs, output: output.to(dtype).to(output.dtype))
    return patch


def first_token_missing(patch):
    patch.first_token = 1


def unbiased_variance(patch):
    """Not among the known deviations: the variance over n - 1."""
    def forward(self, x):
        wide = x.to(torch.float64)
        mean = wide.mean(-1, keepdim=True)
        variance = wide.var(-1, keepdim=True, unbiased=True)
        normed = (wide - mean) / torch.sqrt(variance + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)
    for module in patch.model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.forward = functools.partial(forward, module)


DEVIATIONS = {
    "activation gelu": activation("gelu"),
    # transformers' own gelu_new rounds every step; this one is the same function in one operation.
    "activation gelu_new": activation("gelu_pytorch_tanh"),
    "activation quick_gelu": activation("quick_gelu"),
    "activation relu": activation("relu"),
    "eps 1e-12": eps(1e-12),
    "eps 1e-6": eps(1e-6),
    "eps 1e-5": eps(1e-5),
    "eps 1e-3": eps(1e-3),
    "rotary_pct 0": rotary_pct(0),
    "rotary_pct 0.25": rotary_pct(0.25),
    "rotary_pct 0.5": rotary_pct(0.5),
    "rotary_pct 1": rotary_pct(1.0),
    "rotary pairs interleaved": interleaved_rotary,
    "positions from 1": positions_from_one,
    "queries one position ahead": queries_one_ahead,
    "qkv read as [3][heads]": qkv_split(qkv_outermost),
    "qkv read as [heads][head_dim][3]": qkv_split(qkv_innermost),
    "sequential residual": residual(False),
    "parallel residual": residual(True),
    "no final norm": no_final_norm,
    "no bias in query_key_value": no_bias("attention.query_key_value"),
    "no bias in dense": no_bias("attention.dense"),
    "no bias in dense_h_to_4h": no_bias("mlp.dense_h_to_4h"),
    "no bias in dense_4h_to_h": no_bias("mlp.dense_4h_to_h"),
    "sees one token ahead": attention_over(lambda t, j: j <= t + 1),
    "misses its own token": attention_over(lambda t, j: j < t),
    "no attention scale": no_scale,
    "flush to zero": flush_to_zero,
    "logits in float16": narrow_logits(torch.float16),
    "logits in bfloat16": narrow_logits(torch.bfloat16),
    "first token missing": first_token_missing,
}

# None of these is known to the classifier.
UNLISTED = {
    "rotary base 500": rotary_base(500.0),
    "variance over n - 1": unbiased_variance,
    "a window of 8 tokens": attention_over(lambda t, j: (j <= t) & (j > t - 8)),
}


def keep_outputs(model, kept):
    """Hooks that put what modules return into `kept`."""
    names = {"embed_out": model.lm_head, "gpt_neox.embed_in": model.gpt_neox.embed_in,
             "gpt_neox.final_layer_norm": model.gpt_neox.final_layer_norm}
    for number, layer in enumerate(model.gpt_neox.layers):
        at = f"gpt_neox.layers.{number}"
        names[at] = layer
        for part in LAYER_PARTS:
            names[f"{at}.{part}"] = layer.get_submodule(part)
    handles = []
    for name, module in names.items():
        def keep(_module, _inputs, output, name=name):
            output = output[0] if isinstance(output, tuple) else output
            kept[name] = output.detach().clone()
        # What a query_key_value gives, before anybody reads it in another order, comes first; what
        # the logits become comes last.
        prepend = name.endswith("query_key_value")
        handles.append(module.register_forward_hook(keep, prepend=prepend))
    for number, layer in enumerate(model.gpt_neox.layers):
        def keep_input(_module, inputs, number=number):
            kept[f"gpt_neox.layers.{number}.attention.context"] = inputs[0].detach().clone()
        handles.append(layer.attention.dense.register_forward_pre_hook(keep_input))
    return handles


def record(model, ids, patches=(), inner=True):
    """{name: tensor [1, tokens, width], in the model's dtype}, with input_ids.
    patches: functions of DEVIATIONS; the model is not to be used for anything else afterwards.
    inner: rotary_q, rotary_k and context too."""
    patch = Patch(model)
    for function in patches:
        function(patch)
    kept = {}
    handles = keep_outputs(model, kept)
    with patch.active(), torch.no_grad():
        turned = neox.apply_rotary_pos_emb
        layer = iter(range(len(patch.layers)))

        def keep_turned(q, k, *rest, **named):
            q, k = turned(q, k, *rest, **named)
            at = f"gpt_neox.layers.{next(layer)}.attention"
            kept[f"{at}.rotary_q"] = q.detach().transpose(1, 2).flatten(-2).clone()
            kept[f"{at}.rotary_k"] = k.detach().transpose(1, 2).flatten(-2).clone()
            return q, k
        neox.apply_rotary_pos_emb = keep_turned
        try:
            ids = torch.as_tensor(ids, dtype=torch.int64)[None, patch.first_token:]
            positions = torch.arange(ids.shape[1])[None] + patch.position
            model(ids, position_ids=positions, use_cache=False)
        finally:
            neox.apply_rotary_pos_emb = turned
    for handle in handles:
        handle.remove()
    if not inner:
        kept = {name: tensor for name, tensor in kept.items()
                if not name.endswith((".rotary_q", ".rotary_k", ".context"))}
    kept["input_ids"] = ids
    return {name: tensor.contiguous() for name, tensor in kept.items()}
