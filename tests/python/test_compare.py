# SPDX-License-Identifier: Apache-2.0
"""Comparison with arrays from elsewhere."""

import base64
import io
import json
import tempfile
import unittest
from pathlib import Path

import numpy as np

import neoxref
from neoxref._compare import _compare, as_array

IDS = [5, 17, 9, 200, 31]


class Bare:
    """An array of somebody else's: DLPack and nothing more."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class Compare(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.logits = neoxref.load("mini").forward(IDS)

    def compare(self, arrays, **options):
        return _compare("mini", None, IDS, arrays, None, options.get("profile"),
                        options.get("require", ()), 8, options.get("causes", "auto"))

    def test_own_logits_agree(self):
        for arrays in ({"logits": self.logits}, {"embed_out": Bare(self.logits)},
                       {"lm_head": memoryview(self.logits[None])},
                       {"logits": self.logits[-1:], "input_ids": np.array([IDS])}):
            result = self.compare(arrays)
            self.assertTrue(result, str(result))
            self.assertIsNone(result.first_diverging)
            self.assertEqual(list(result.tensors), ["embed_out"])

    def test_a_difference_is_named(self):
        wrong = self.logits.copy()
        wrong[2, 7] += 0.5
        result = self.compare({"logits": wrong}, profile="f32")
        self.assertFalse(result)
        self.assertEqual(result.first_diverging, "embed_out")
        self.assertEqual(result.tensors["embed_out"]["error"]["max_abs_at"], [2, 7])
        self.assertIn("DIVERGES at embed_out", str(result))
        self.assertIn("DIVERGES", repr(result))

    def test_a_known_deviation_is_named(self):
        ids = [(7 * i + 3) % 300 for i in range(24)]
        logits = neoxref.load("mini").forward(ids).astype(np.float16).astype(np.float32)
        for causes, names in (("auto", ["logits in float16"]), ("never", [])):
            result = _compare("mini", None, ids, {"logits": logits}, None, "f32", (), 8, causes)
            self.assertFalse(result)
            self.assertEqual(result.causes, names)
        with self.assertRaises(neoxref.Error):
            _compare("mini", None, ids, {"logits": logits}, None, "f32", (), 8, "perhaps")

    def test_npz_and_polygraphy_files(self):
        raw = io.BytesIO()
        np.save(raw, self.logits[None])
        saved = {"lst": [["runner", [{"outputs": {"logits": {"values": {
            "array": base64.b64encode(raw.getvalue()).decode(), "polygraphy_class": "ndarray"}}}}]]]}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.savez(folder / "plain.npz", logits=self.logits, input_ids=np.array([IDS]))
            np.savez_compressed(folder / "packed.npz", logits=self.logits)
            (folder / "outputs.json").write_text(json.dumps(saved))
            for file in ("plain.npz", "packed.npz", "outputs.json"):
                result = self.compare(folder / file)
                self.assertTrue(result, str(result))
            whole = (folder / "packed.npz").read_bytes()
            for length in (40, len(whole) // 2, len(whole) - 3):
                (folder / "cut.npz").write_bytes(whole[:length])
                with self.assertRaises(neoxref.Error):
                    self.compare(folder / "cut.npz")

    def test_what_cannot_be_compared(self):
        for other in ({}, 3, {"logits": object()}, {"logits": np.array(["a"])},
                      {"logits": self.logits.astype(">f4")}):
            with self.assertRaises(neoxref.Error):
                self.compare(other)
        with self.assertRaises(neoxref.Error):
            neoxref.compare("no-such-golden", {"logits": self.logits})
        with self.assertRaises(neoxref.Error):
            neoxref.compare_torch(object(), IDS)

    def test_types(self):
        self.assertEqual(as_array(np.zeros(2, np.float16), "x")[1], "f16")
        self.assertEqual(as_array(np.zeros(2, np.int64), "x")[1], "i64")


if __name__ == "__main__":
    unittest.main()
