# SPDX-License-Identifier: Apache-2.0
"""A transformers GPT-NeoX under compare_torch, where torch and transformers are installed."""

import importlib.util
import unittest

import neoxref

INSTALLED = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
IDS = [(7 * n + 3) % 2048 for n in range(32)]


class CompareTorch(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not INSTALLED:
            print("SKIP compare_torch: torch and transformers are not installed")
            raise unittest.SkipTest("torch and transformers are not installed")
        import torch
        import transformers
        cls.torch = torch
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        cls.folder = str(neoxref.load("mini").folder)
        cls.load = staticmethod(lambda: transformers.GPTNeoXForCausalLM.from_pretrained(
            cls.folder, dtype=torch.float32, attn_implementation="eager"))

    def test_an_honest_module_agrees(self):
        for reference in ({"model": self.folder}, {}):
            result = neoxref.compare_torch(self.load(), IDS, quiet=True, **reference)
            self.assertTrue(result.agrees, result)

    def test_a_wrong_activation_is_located_and_named(self):
        module = self.load()
        for layer in module.gpt_neox.layers:
            layer.mlp.act = self.torch.nn.GELU(approximate="tanh")
        result = neoxref.compare_torch(module, IDS, model=self.folder, quiet=True)
        self.assertFalse(result.agrees)
        self.assertEqual(result.first_diverging, "gpt_neox.layers.0.mlp.act")
        self.assertIn("activation gelu_new", str(result))

    def test_the_module_is_as_it_was(self):
        module = self.load().train()
        neoxref.compare_torch(module, IDS, model=self.folder, quiet=True)
        self.assertTrue(module.training)
        self.assertFalse(any(part._forward_hooks for part in module.modules()))


if __name__ == "__main__":
    unittest.main()
