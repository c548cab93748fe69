# SPDX-License-Identifier: Apache-2.0
"""Presses on plain arrays, and l2_compress, against their definitions written out again."""

import unittest
from decimal import Decimal
from fractions import Fraction
from math import ceil

import neoxref
import numpy as np


def random_layers(seed, lengths, dtype=np.float32, batch=2, heads=3, head_dim=20):
    draw = np.random.Generator(np.random.PCG64(seed))
    return [tuple(draw.standard_normal((batch, heads, slots, head_dim)).astype(dtype)
                  for _ in range(2)) for slots in lengths]


def plain_l2(layers, ratio, prune_after, skip):
    """The definition, one head at a time; norms in binary64 tell these random keys apart."""
    result = []
    for number, (keys, values) in enumerate(layers):
        slots = keys.shape[2]
        if number in skip or slots < prune_after:
            result.append((keys, values))
            continue
        keep = ceil(Fraction(ratio) * slots)
        kept_keys, kept_values = [], []
        for row in range(keys.shape[0]):
            for head in range(keys.shape[1]):
                norms = [sum(float(x) ** 2 for x in key) for key in keys[row, head]]
                kept = sorted(sorted(range(slots), key=lambda slot: norms[slot])[:keep])
                kept_keys.append(keys[row, head, kept])
                kept_values.append(values[row, head, kept])
        shape = keys.shape[:2] + (keep, keys.shape[3])
        result.append((np.reshape(kept_keys, shape), np.reshape(kept_values, shape)))
    return result


class L2Compress(unittest.TestCase):
    def test_definition(self):
        layers = random_layers(1, [40, 39, 41, 100])
        for ratio in ("1", "0.9", "0.55", "0.5", "0.1", "0.001"):
            found = neoxref.l2_compress(layers, float(ratio), 40, [2])
            for (keys, values), (want_keys, want_values) in zip(
                    found, plain_l2(layers, ratio, 40, {2}), strict=True):
                np.testing.assert_array_equal(keys, want_keys)
                np.testing.assert_array_equal(values, want_values)
        self.assertEqual(neoxref.l2_compress(random_layers(2, [100]), 0.55, 0)[0][0].shape[2], 55)

    def test_orders_hold_the_same_slots(self):
        layers = random_layers(3, [64])
        by_time = neoxref.l2_compress(layers, 0.3, 1)[0]
        by_norm = neoxref.l2_compress(layers, 0.3, 1, order="norm")[0]
        norms = np.linalg.norm(by_norm[0].astype(float), axis=-1)
        self.assertTrue((np.diff(norms, axis=-1) > 0).all())
        ranks = np.argsort(np.linalg.norm(by_time[0].astype(float), axis=-1), axis=-1)
        for first, second in zip(by_time, by_norm, strict=True):
            np.testing.assert_array_equal(
                np.take_along_axis(first, ranks[..., np.newaxis], axis=2), second)

    def test_ties_keep_the_lower_slot(self):
        keys = np.ones((1, 1, 6, 4), np.float32)
        keys[0, 0, 3] = 0.5
        values = np.arange(6, dtype=np.float32).reshape(1, 1, 6, 1)
        for order, expected in (("time", [0, 1, 3]), ("norm", [3, 0, 1])):
            kept = neoxref.l2_compress([(keys, values)], 0.5, 0, order=order)[0][1]
            self.assertEqual(kept.ravel().tolist(), expected)

    def test_types_and_identity(self):
        layers = random_layers(4, [10, 30], np.float16)
        found = neoxref.l2_compress(layers, 0.5, 20)
        self.assertIs(found[0][0], layers[0][0])
        self.assertEqual(found[1][0].dtype, np.float16)
        self.assertEqual(found[1][0].shape[2], 15)
        np.testing.assert_array_equal(
            found[1][0], neoxref.l2_compress([(layers[1][0].astype(np.float32), layers[1][1])],
                                             0.5, 20)[0][0].astype(np.float16))

    def test_what_cannot_be_used(self):
        layers = random_layers(5, [8])
        keys, values = layers[0]
        for part, kv, options in (
                ("keep_ratio", layers, {"keep_ratio": 0.0}),
                ("keep_ratio", layers, {"keep_ratio": 1.01}),
                ("keep_ratio", layers, {"keep_ratio": float("nan")}),
                ("keep_ratio", layers, {"keep_ratio": None}),
                ("prune_after", layers, {"prune_after": 0.5}),
                ("no such layer", layers, {"skip_layers": [1]}),
                ("order", layers, {"order": "random"}),
                ("one shape", [(keys, values[:, :, :4])], {}),
                ("type", [(keys.astype(float), values)], {}),
                ("not finite", [(np.full_like(keys, np.nan), values)],
                 {"keep_ratio": 0.5, "prune_after": 0})):
            with self.subTest(part=part), self.assertRaises(neoxref.Error) as raised:
                neoxref.l2_compress(kv, **options)
            self.assertIn(part, str(raised.exception))


class Presses(unittest.TestCase):
    def test_ratio_is_that_of_the_decimal_text(self):
        for ratio in ("0.55", 0.55, Decimal("0.55"), np.float64(0.55), np.float32(0.55)):
            self.assertEqual(neoxref.Press(ratio).keep(100), 55)
        self.assertEqual(neoxref.Press(1).keep(100), 100)
        self.assertEqual(neoxref.Press(1e-9).keep(100), 1)
        for ratio in (0, 2, -0.5, "1e-1", "", "half", True, {0.5}, [], [0.5, 2], 1e-10, float("inf")):
            with self.subTest(ratio=ratio), self.assertRaises(neoxref.Error):
                neoxref.Press(ratio)

    def test_names_and_counts(self):
        for options in ({"score": "norm"}, {"trigger": "never"}, {"positions": "none"},
                        {"sinks": -1}, {"skip_layers": [-1]}, {"keep_slots": 1.5}, {"seed": 2**64}):
            with self.subTest(**options), self.assertRaises(neoxref.Error):
                neoxref.Press(0.5, **options)
        self.assertEqual(neoxref.Press(0.5, skip_layers=[1]), neoxref.Press(0.5, skip_layers=(1,)))
        self.assertEqual(neoxref.Press(0.1, sinks=4, recent=8).keep(50), 12)

    def test_plan(self):
        for ratio, cuts in ((0.9, 31), (0.7, 10), (0.5, 6), (0.1, 4)):
            press = neoxref.Press(ratio, prune_after=256)
            self.assertEqual(len(neoxref.plan(press, 1023, 256)), cuts)
        self.assertEqual(len(neoxref.plan(neoxref.Press(0.7, trigger="reaches"), 1023, 256)), 11)
        self.assertEqual(neoxref.plan(neoxref.Press(0.5, prune_after=4), 6, 0)[0], (4, 5, 3))

    def test_scores(self):
        keys, values = (layer[0] for layer in random_layers(6, [50])[0])
        norms = np.linalg.norm(keys.astype(float), axis=2)
        directions = (keys / norms[..., np.newaxis]).sum(axis=1, keepdims=True)
        bias = np.full((3, 20), 0.25, np.float32)
        for score, expected in (
                ("knorm", -norms), ("knorm-high", norms),
                ("knorm-rot", -np.linalg.norm(keys[..., :8], axis=2)),
                ("knorm-pass", -np.linalg.norm(keys[..., 8:], axis=2)),
                ("knorm-centered", -np.linalg.norm(
                    np.concatenate([keys[..., :8], keys[..., 8:] - 0.25], axis=2), axis=2)),
                ("vnorm", np.linalg.norm(values, axis=2)),
                ("vk-ratio", np.linalg.norm(values, axis=2) / norms),
                ("recent", np.tile(np.arange(50), (3, 1))),
                ("keydiff", -(keys * directions).sum(axis=2) / norms)):
            press = neoxref.Press(0.5, score, sinks=3, recent=4)
            found = press.scores(keys, values, rotary_dims=8, key_bias=bias)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            kept = press.kept(keys, values, rotary_dims=8, key_bias=bias)
            for head in range(3):
                middle = sorted(range(3, 46), key=lambda slot: -found[head, slot])[:25 - 7]
                self.assertEqual(kept[head].tolist(), [0, 1, 2, *sorted(middle), 46, 47, 48, 49])

    def test_random_is_drawn_once_or_anew(self):
        keys = random_layers(7, [30])[0][0][0]
        once = neoxref.Press(0.5, "random", seed=5)
        anew = neoxref.Press(0.5, "random-fresh", seed=5)
        np.testing.assert_array_equal(once.scores(keys), once.scores(keys, cuts=4))
        self.assertTrue((anew.scores(keys) != anew.scores(keys, cuts=4)).any())
        self.assertTrue((once.scores(keys) != once.scores(keys, layer=1)).any())

    def test_arrays_that_do_not_fit(self):
        keys = random_layers(8, [10])[0][0][0]
        for options in ({"values": keys[:, :5]}, {"positions": [[1]]}, {"key_bias": keys[0]},
                        {"rotary_dims": 21}):
            with self.subTest(**options), self.assertRaises(neoxref.Error):
                neoxref.Press(0.5).scores(keys, **options)
        with self.assertRaises(neoxref.Error):
            neoxref.Press(0.5, "vnorm").scores(keys)


if __name__ == "__main__":
    unittest.main()
