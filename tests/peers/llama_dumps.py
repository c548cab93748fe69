# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's tensors of one forward pass, as its evaluation callback shows them, under its own names."""
import ctypes

import numpy

F32 = 0  # GGML_TYPE_F32


class Tensor(ctypes.Structure):
    """The first fields of struct ggml_tensor."""
    _fields_ = [("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("extents", ctypes.c_int64 * 4),
                ("steps", ctypes.c_size_t * 4)]


def values(tensor, data):
    """A copy [outermost ... innermost], without leading extents of 1."""
    shape = [int(n) for n in reversed(tensor.extents)]
    steps = [int(n) for n in reversed(tensor.steps)]
    count = 1 + sum((n - 1) * step for n, step in zip(shape, steps)) // 4
    flat = numpy.ctypeslib.as_array(ctypes.cast(data, ctypes.POINTER(ctypes.c_float)), (count,))
    view = numpy.lib.stride_tricks.as_strided(flat, shape, steps)
    while view.ndim > 1 and view.shape[0] == 1:
        view = view[0]
    return view.copy()


def record(path, ids, threads=2):
    """{name: float32 array}: every named float32 result of the graph, the logits of all tokens last."""
    import llama_cpp as library
    kept = {}
    libggml = library.llama_cpp._lib
    for name, result in (("ggml_get_name", ctypes.c_char_p), ("ggml_get_data", ctypes.c_void_p)):
        getattr(libggml, name).restype = result
        getattr(libggml, name).argtypes = [ctypes.c_void_p]

    @ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
    def evaluated(pointer, asked, _data):
        tensor = ctypes.cast(pointer, ctypes.POINTER(Tensor)).contents
        if tensor.type != F32:
            return not asked
        if asked:
            return True
        name = libggml.ggml_get_name(pointer).decode()
        if name.startswith("ffn_out-"):
            # The name stands twice: on the mlp's output with its bias, and on a sum with the residual.
            name = name.replace("ffn_out", "ffn_down_b")
            if name in kept:
                return True
        kept[name] = values(tensor, libggml.ggml_get_data(pointer))
        return True

    quiet = library.llama_log_callback(lambda level, text, data: None)
    library.llama_log_set(quiet, ctypes.c_void_p())
    library.llama_backend_init()
    model = library.llama_model_load_from_file(str(path).encode(),
                                               library.llama_model_default_params())
    params = library.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = max(64, len(ids))
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = library.GGML_TYPE_F32
    params.flash_attn_type = 0
    params.cb_eval = ctypes.cast(evaluated, type(params.cb_eval))
    context = library.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("llama.cpp made no context")
    batch = library.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place] = int(token)
        batch.pos[place] = place
        batch.n_seq_id[place] = 1
        batch.seq_id[place][0] = 0
        batch.logits[place] = 1
    if library.llama_decode(context, batch) != 0:
        raise RuntimeError("llama_decode failed")
    library.llama_batch_free(batch)
    library.llama_free(context)
    library.llama_model_free(model)
    return kept
