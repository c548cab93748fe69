# SPDX-License-Identifier: Apache-2.0
"""Tensors of a run, goldens and the oracle from Python: the bits of each other."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import neoxref
import numpy as np

PROGRAM = os.environ.get("NEOXREF_PROGRAM")


class Golden(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = neoxref.load("mini", threads=2)
        cls.tokens = cls.model.encode("The old captain looked at the sea and")
        cls.logits, cls.tensors = cls.model.forward(cls.tokens, tensors="all")

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="neoxref_test_")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / "golden"

    def refuses(self, part, call, *arguments, **options):
        with self.assertRaises(neoxref.Error) as raised:
            call(*arguments, **options)
        self.assertIn(part, str(raised.exception))

    def test_tensors_are_those_of_the_oracle(self):
        expected = neoxref.oracle(self.model, self.tokens, double=False)
        self.assertEqual(list(self.tensors)[:len(expected)], list(expected))
        for name, values in expected.items():
            self.assertEqual(values.dtype, np.float32)
            self.assertEqual(neoxref.digest(self.tensors[name]), neoxref.digest(values), name)
        np.testing.assert_array_equal(self.logits, self.model.forward(self.tokens))
        truth = neoxref.oracle(self.model, self.tokens)
        self.assertEqual(truth["embed_out"].dtype, np.float64)
        np.testing.assert_allclose(self.logits, truth["embed_out"], atol=1e-3)
        sequence = self.model.sequence()
        sequence.feed(self.tokens)
        cache = sequence.layer(2)
        np.testing.assert_array_equal(self.tensors["past_key_values.2.key"], cache.keys)
        np.testing.assert_array_equal(self.tensors["past_key_values.2.value"], cache.values)
        np.testing.assert_array_equal(self.tensors["past_key_values.2.norm"], cache.key_norms)
        np.testing.assert_array_equal(self.tensors["past_key_values.2.position"], cache.positions)

    def test_names(self):
        logits, some = self.model.forward(
            self.tokens, tensors=["*.0.attention.scores", "*.0.attention.probabilities"])
        np.testing.assert_array_equal(logits, self.logits)
        scores, probabilities = some.values()
        count = len(self.tokens)
        self.assertEqual(scores.shape, (self.model.config.heads, count, count))
        self.assertTrue(np.isneginf(scores[:, 0, 1:]).all())
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        np.testing.assert_allclose(probabilities, weights / weights.sum(axis=2, keepdims=True),
                                   rtol=1e-5, atol=1e-7)
        press = neoxref.Press(keep_ratio=0.5, prune_after=4)
        pressed, layers = self.model.forward(self.tokens, press, tensors="layers")
        np.testing.assert_array_equal(pressed, self.model.forward(self.tokens, press))
        self.assertEqual(len(layers), self.model.config.layers + 1)
        self.refuses("no such tensor", self.model.forward, self.tokens, tensors="nonsense")
        self.refuses("not a name", self.model.forward, self.tokens, tensors=[1])
        self.refuses("vocabulary", self.model.forward, [99999], tensors="all")

    def test_golden(self):
        made = neoxref.golden(self.model, self.tokens, tensors="logits", folder=self.folder)
        self.assertTrue(neoxref.verify(made))
        read = neoxref.Golden.load(self.folder)
        self.assertEqual((read.model, read.sha256, read.press), ("mini", made.sha256, None))
        np.testing.assert_array_equal(read.tokens, self.tokens)
        digest = read.digests["gpt_neox.layers.0"]
        self.assertEqual((digest.dtype, digest.shape), ("F32", (1, len(self.tokens), 192)))
        self.assertEqual(len(digest.leaves), len(self.tokens))
        for token, leaf in enumerate(digest.leaves):
            row = neoxref.digest(self.tensors["gpt_neox.layers.0"][token])
            self.assertEqual(int(leaf), int(row[:16], 16))
        np.testing.assert_array_equal(read.tensor("embed_out"), self.logits)
        self.refuses("takes the model", read.tensor, "gpt_neox.embed_in")
        self.refuses("no weights", neoxref.verify, read)
        for name in ("gpt_neox.embed_in", "gpt_neox.layers.3.mlp.act", "past_key_values.1.key",
                     "past_key_values.1.position"):
            np.testing.assert_array_equal(read.tensor(name, self.model), self.tensors[name])
        result = neoxref.verify(self.folder, self.model)
        self.assertEqual((result.same, result.tensors, result.differences),
                         (True, len(read.digests), ()))
        self.refuses("golden.json", neoxref.Golden.load, self.folder.parent)
        self.refuses("digests", neoxref.golden, self.model, self.tokens, digests="some")
        self.refuses("folder", neoxref.golden, self.model, self.tokens, tensors="all")
        self.refuses("prompt_tokens", neoxref.golden, self.model, self.tokens, prompt_tokens=3)

    def test_press_and_the_program(self):
        press = neoxref.Press(keep_ratio=0.5, prune_after=4)
        neoxref.golden(self.model, self.tokens, press=press, digests="all", folder=self.folder)
        self.assertIn("knorm", neoxref.Golden.load(self.folder).press)
        if PROGRAM is None:
            print("SKIP test_golden: the program was not built")
            self.skipTest("the program was not built")
        again = self.folder.parent / "again"
        subprocess.run([PROGRAM, "golden", "mini", "--tokens", ",".join(map(str, self.tokens)), "-o",
                        again, "--digests", "all", "--keep-ratio", "0.5", "--prune-after", "4"],
                       check=True, stdout=subprocess.DEVNULL)
        self.assertEqual((again / "golden.json").read_bytes(),
                         (self.folder / "golden.json").read_bytes())

        class Mine:
            static = True

            def score(self, keys, values, key_norms, positions, layer):
                return key_norms

        self.refuses("recipe", neoxref.golden, self.model, self.tokens,
                     press=neoxref.Press(keep_ratio=0.5, score=Mine(), prune_after=4))

    def test_machine(self):
        result = neoxref.verify()
        self.assertTrue(result)
        self.assertEqual(result.kernels, ())
        self.assertTrue(result.isa)


if __name__ == "__main__":
    unittest.main()
