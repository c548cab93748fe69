# SPDX-License-Identifier: Apache-2.0
"""One engine in a process of its own, told what to do line by line by speed.py.

usage: worker.py ENGINE FOLDER THREADS

A line "prefill N" lets N tokens enter a fresh sequence and wants the logits of the last;
"decode N K" lets N tokens enter and times K further ones, each the best of the logits before it.
The answer to each is its seconds and the last id that was best; "peak" is answered with the most bytes
that the process ever had in memory. The first line it writes says "ready"."""
import ctypes
import functools
import json
import os
import pathlib
import sys
import time


def token_ids(count, vocab):
    """Ids spread over the vocabulary, the same for every engine."""
    return [(7919 * i + 12345) % (vocab - 1) for i in range(count)]


class Engine:
    """enter(ids) starts a sequence, run(ids) goes on with it; both return the best next id. leave(),
    before and after each task, drops it: giving memory back is no part of the next task, which may
    be a much shorter one."""

    def __init__(self, folder, threads):
        self.folder, self.threads = folder, threads
        self.config = json.loads((folder / "config.json").read_text())
        self.vocab = self.config["vocab_size"]

    def leave(self):
        pass

    def enter(self, ids):
        return self.run(ids)

    def prefill(self, count):
        ids = token_ids(count, self.vocab)
        begun = time.perf_counter()
        token = self.enter(ids)
        return time.perf_counter() - begun, token

    def decode(self, context, count):
        token = self.enter(token_ids(context, self.vocab))
        token = self.run([token])
        begun = time.perf_counter()
        for _ in range(count):
            token = self.run([token])
        return time.perf_counter() - begun, token


class Neoxref(Engine):
    def __init__(self, folder, threads):
        super().__init__(folder, threads)
        import neoxref
        self.model = neoxref.load(str(folder), threads=threads)

    def enter(self, ids):
        self.sequence = self.model.sequence()
        return self.run(ids)

    def run(self, ids):
        return int(self.sequence.feed(ids).argmax())

    def leave(self):
        self.sequence = None


class Transformers(Engine):
    dtype = "float32"

    def __init__(self, folder, threads):
        super().__init__(folder, threads)
        import torch
        import transformers
        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.torch = torch
        self.model = transformers.GPTNeoXForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, self.dtype)).eval()

    def run(self, ids):
        with self.torch.inference_mode():
            out = self.model(self.torch.tensor([ids]), past_key_values=self.cache, use_cache=True,
                             logits_to_keep=1)
        self.cache = out.past_key_values
        return int(out.logits[0, -1].argmax())

    def leave(self):
        self.cache = None


class OnnxRuntime(Engine):
    def __init__(self, folder, threads):
        super().__init__(folder, threads)
        import numpy
        import onnxruntime
        self.numpy, self.ort = numpy, onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin on after a run would cost whoever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options,
                                                    providers=["CPUExecutionProvider"])
        self.heads = self.config["num_attention_heads"]
        self.head_dim = self.config["hidden_size"] // self.heads
        self.names = [output.name for output in self.session.get_outputs()]

    def run(self, ids):
        value = self.ort.OrtValue.ortvalue_from_numpy
        inputs = {"ids": value(self.numpy.array([ids], dtype=self.numpy.int64)), **self.past}
        logits, *present = self.session.run_with_ort_values(self.names, inputs)
        self.past = {"past_" + name.removeprefix("present_"): new
                     for name, new in zip(self.names[1:], present)}
        return int(logits.numpy()[0].argmax())

    def enter(self, ids):
        empty = self.numpy.zeros((1, self.heads, 0, self.head_dim), dtype=self.numpy.float32)
        self.past = {name.replace("present_", "past_"):
                     self.ort.OrtValue.ortvalue_from_numpy(empty) for name in self.names[1:]}
        return self.run(ids)

    def leave(self):
        self.past = None


class OpenVino(Engine):
    file = "openvino.xml"
    precision = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}

    def __init__(self, folder, threads):
        super().__init__(folder, threads)
        import numpy
        import openvino
        self.numpy = numpy
        core = openvino.Core()
        model = core.compile_model(core.read_model(folder / self.file), "CPU", {
            **self.precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY"})
        self.request = model.create_infer_request()

    def run(self, ids):
        result = self.request.infer({"ids": self.numpy.array([ids], dtype=self.numpy.int64)})
        return int(result["logits"][0].argmax())

    def leave(self):
        self.request.reset_state()


class OpenVinoInt8(OpenVino):
    file = "openvino-int8.xml"
    precision = {}  # its own choice


class CTranslate2(Engine):
    """It has no call for one further token: what new ones cost is the difference of two runs."""

    compute_type = "float32"

    def __init__(self, folder, threads):
        super().__init__(folder, threads)
        import ctranslate2
        self.generator = ctranslate2.Generator(str(folder / "ctranslate2"), device="cpu",
                                               compute_type=self.compute_type, inter_threads=1,
                                               intra_threads=threads)

    def generate(self, ids, count):
        begun = time.perf_counter()
        result, = self.generator.generate_batch(
            [list(map(str, ids))], max_length=count, min_length=count, sampling_topk=1,
            include_prompt_in_result=False, cache_static_prompt=False, end_token=[])
        return time.perf_counter() - begun, result.sequences_ids[0][-1]

    def prefill(self, count):
        return self.generate(token_ids(count, self.vocab), 1)

    def decode(self, context, count):
        ids = token_ids(context, self.vocab)
        long, token = self.generate(ids, count + 2)
        return long - self.generate(ids, 2)[0], token


class CTranslate2Int8(CTranslate2):
    compute_type = "int8_float32"  # quantizes as it loads


class LlamaCpp(Engine):
    dtype = "f32"
    cache_type = "GGML_TYPE_F32"
    special_kernels = True

    def __init__(self, folder, threads):
        super().__init__(folder, threads)
        import llama_cpp
        import numpy
        self.numpy, self.library = numpy, llama_cpp
        # Its own lines say nothing about time.
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        loading = llama_cpp.llama_model_default_params()
        loading.use_extra_bufts = self.special_kernels
        self.model = llama_cpp.llama_model_load_from_file(
            str(folder / f"{self.dtype}.gguf").encode(), loading)
        params = llama_cpp.llama_context_default_params()
        # Pieces of a prompt (n_ubatch) as long as it chooses them by itself.
        params.n_ctx = params.n_batch = self.config["max_position_embeddings"]
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = getattr(llama_cpp, self.cache_type)
        params.flash_attn_type = 0
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp made no context")

    def run(self, ids):
        array = (self.library.llama_token * len(ids))(*ids)
        batch = self.library.llama_batch_get_one(array, len(ids))
        if self.library.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        logits = self.library.llama_get_logits_ith(self.context, -1)
        return int(self.numpy.ctypeslib.as_array(logits, (self.vocab,)).argmax())

    def leave(self):
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)


class LlamaCppBf16(LlamaCpp):
    dtype = "bf16"
    cache_type = "GGML_TYPE_F16"  # its default


class LlamaCppQ8(LlamaCpp):
    dtype = "q8_0"
    cache_type = "GGML_TYPE_F16"
    # Those for AMX crash on 8-bit weights (llama-cpp-python 0.3.36).
    special_kernels = False


ENGINES = {"neoxref": Neoxref, "transformers": Transformers, "onnxruntime": OnnxRuntime,
           "openvino": OpenVino, "openvino int8": OpenVinoInt8,
           "ctranslate2": CTranslate2, "ctranslate2 int8": CTranslate2Int8, "llama.cpp": LlamaCpp,
           "llama.cpp bf16": LlamaCppBf16, "llama.cpp q8_0": LlamaCppQ8}


def peak_bytes():
    for line in pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


def main():
    engine, folder, threads = sys.argv[1:]
    os.environ["OMP_NUM_THREADS"] = threads
    answer = functools.partial(print, flush=True)
    loaded = ENGINES[engine](pathlib.Path(folder), int(threads))
    loaded.leave()
    answer("ready")
    for line in sys.stdin:
        what, *numbers = line.split()
        if what == "peak":
            answer(peak_bytes())
        else:
            answered = getattr(loaded, what)(*map(int, numbers))
            loaded.leave()
            answer(*answered)


if __name__ == "__main__":
    main()
