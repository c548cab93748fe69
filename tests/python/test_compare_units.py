# SPDX-License-Identifier: Apache-2.0
"""Operations of a backend one by one: here NumPy in float32, right and wrong."""

import unittest

import numpy as np

import neoxref

IDS = [5, 17, 9, 200, 31, 8, 8, 1024]


class Backend:
    """A few operations of GPT-NeoX in NumPy; None for all others."""

    def __init__(self, model, weights, eps=None):
        self.config, self.weights = model.config, weights
        self.eps = model.config.layer_norm_eps if eps is None else eps
        self.asked = []

    def __call__(self, name, inputs):
        self.asked.append(name)
        if name == "gpt_neox.embed_in":
            return self.weights[name + ".weight"][inputs["input_ids"]]
        if name.endswith("norm"):
            x, = inputs.values()
            centred = x - x.mean(-1, keepdims=True)
            normed = centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + np.float32(self.eps))
            return normed * self.weights[name + ".weight"] + self.weights[name + ".bias"]
        if name.endswith((".dense", "query_key_value", "h_to_4h", "4h_to_h")):
            x, = inputs.values()
            return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]
        if name.startswith("gpt_neox.layers.") and name.count(".") == 2:
            x, *added = inputs.values()
            return sum(added) + x if added else None
        return None


def weights_of(folder):
    """A safetensors file without the library."""
    import json
    raw = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__", None)
    data = raw[8 + size:]
    return {name: np.frombuffer(data[slice(*entry["data_offsets"])], np.float16)
            .astype(np.float32).reshape(entry["shape"]) for name, entry in header.items()}


class CompareUnits(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = neoxref.load("mini")
        cls.weights = weights_of(cls.model.folder)

    def test_right_operations_agree(self):
        backend = Backend(self.model, self.weights)
        result = neoxref.compare_units(self.model, IDS, backend)
        self.assertTrue(result, str(result))
        layers = self.model.config.layers
        self.assertEqual(len(result.tensors), 7 * layers + 2)
        self.assertEqual(len(backend.asked), 11 * layers + 3)
        self.assertTrue(all(figures["yardstick"] == "bound" for figures in result.tensors.values()))
        self.assertIn("agrees", str(result))

    def test_a_wrong_one_is_found_in_every_layer_and_nothing_else(self):
        result = neoxref.compare_units(self.model, IDS, Backend(self.model, self.weights, eps=1e-3))
        self.assertFalse(result)
        self.assertEqual(result.first_diverging, "gpt_neox.layers.0.input_layernorm")
        failing = {name for name, figures in result.tensors.items() if figures["fails"]}
        self.assertTrue(all(name.endswith("norm") for name in failing))
        self.assertEqual(len(failing), 2 * self.model.config.layers + 1)

    def test_whole_layers(self):
        logits, outputs = self.model.forward(IDS, tensors="layers")
        bad = "gpt_neox.layers.3"

        def run(name, inputs):
            (_, x), = inputs.items()
            self.assertEqual(x.shape, (len(IDS), self.model.config.hidden))
            return outputs[name] * (2 if name == bad else 1)
        result = neoxref.compare_units(self.model, IDS, run, units="layers")
        self.assertEqual(result.first_diverging, bad)
        self.assertEqual(sum(figures["fails"] for figures in result.tensors.values()), 1)

    def test_names_and_profiles(self):
        backend = Backend(self.model, self.weights)
        result = neoxref.compare_units(self.model, IDS, backend, names="*.2.attention.dense",
                                       profile="bf16-acc32")
        self.assertEqual(list(result.tensors), ["gpt_neox.layers.2.attention.dense"])

    def test_errors(self):
        backend = Backend(self.model, self.weights)
        for options in ({"names": "no-such-unit"}, {"units": "heads"}, {"profile": "f31"}):
            with self.assertRaises(neoxref.Error):
                neoxref.compare_units(self.model, IDS, backend, **options)
        for run in (lambda name, inputs: None, lambda name, inputs: np.zeros((3, 3), np.float32),
                    lambda name, inputs: "no array"):
            with self.assertRaises(neoxref.Error):
                neoxref.compare_units(self.model, IDS, run)


if __name__ == "__main__":
    unittest.main()
