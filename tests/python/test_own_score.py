# SPDX-License-Identifier: Apache-2.0
"""A researcher's own score: asked at each cut, checked, and equal to the built-in one it repeats."""

import gc
import unittest
import weakref

import neoxref
import numpy as np


class KeyNorm:
    """knorm once more."""

    static = True

    def __init__(self):
        self.asked = []

    def score(self, keys, values, key_norms, positions, layer):
        self.asked.append((layer, keys.shape, values.shape, positions.shape))
        return -key_norms


class Gives:
    """Whatever it was told to."""

    static = False

    def __init__(self, make):
        self.score = lambda keys, values, key_norms, positions, layer: make(key_norms)


class OwnScores(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = neoxref.load("mini")
        text = neoxref.sample_texts()["pg19_10146_excerpt.txt"]
        cls.tokens = cls.model.encode(text)[:200]

    def run_with(self, score, **options):
        press = neoxref.Press(0.5, score, **{"prune_after": 40, **options})
        sequence = self.model.sequence(press=press)
        return neoxref.digest(sequence.feed(self.tokens, "all")), sequence

    def test_repeats_a_built_in_score(self):
        config = self.model.config
        for options in ({}, {"trigger": "reaches", "sinks": 2, "recent": 5}, {"skip_layers": (0, 3)},
                        {"positions": "rerotate", "skip_layers": ()}):
            own = KeyNorm()
            digest, sequence = self.run_with(own, **options)
            expected, other = self.run_with("knorm", **options)
            self.assertEqual(digest, expected)
            self.assertEqual([cut[:5] for cut in sequence.cuts], [cut[:5] for cut in other.cuts])
            self.assertEqual(len(own.asked), len(sequence.cuts))
            self.assertEqual([asked[0] for asked in own.asked], [cut.layer for cut in sequence.cuts])
            before = sequence.cuts[0].before
            self.assertEqual(own.asked[0][1:], ((config.heads, before, config.head_dim),) * 2 +
                             ((config.heads, before),))

    def test_sees_the_cache(self):
        seen = {}

        class Watch:
            static = False
            name = "watch"

            def score(self, keys, values, key_norms, positions, layer):
                seen[layer] = (keys, values, key_norms, positions)
                return np.zeros(key_norms.shape)

        press = neoxref.Press(0.5, Watch(), trigger="every", interval=100)
        self.assertEqual(press.score_name, "watch")
        full, cut = self.model.sequence(), self.model.sequence(press=press)
        full.feed(self.tokens[:100], "none")
        cut.feed(self.tokens[:100], "none")
        for layer in range(1, self.model.config.layers):
            for mine, its in zip(full.layer(layer), seen[layer], strict=True):
                np.testing.assert_array_equal(mine, its)
            np.testing.assert_array_equal(cut.layer(layer).positions[0], range(50))

    def test_chunks_change_nothing(self):
        whole, _ = self.run_with(KeyNorm())
        press = neoxref.Press(0.5, KeyNorm(), prune_after=40)
        sequence = self.model.sequence(press=press)
        parts = [sequence.feed([token]) for token in self.tokens]
        self.assertEqual(neoxref.digest(*parts), whole)

    def test_on_arrays(self):
        draw = np.random.Generator(np.random.PCG64(1))
        keys = draw.standard_normal((2, 30, 8)).astype(np.float32)
        own, built_in = neoxref.Press(0.5, KeyNorm()), neoxref.Press(0.5)
        np.testing.assert_array_equal(own.scores(keys, keys), built_in.scores(keys))
        np.testing.assert_array_equal(own.kept(keys, keys), built_in.kept(keys))

    def test_what_it_may_not_give(self):
        def spoil(norms):
            scores = norms.copy()
            scores[1, 2] = np.nan
            return scores
        for part, make in (("shape", lambda norms: norms[0]), ("shape", lambda norms: 1.0),
                           ("type", lambda norms: norms.astype(complex)),
                           ("type", lambda norms: [["x"] * norms.shape[1]] * norms.shape[0]),
                           ("NaN (layer 1, head 1, slot 2)", spoil)):
            with self.subTest(part=part), self.assertRaises(neoxref.Error) as raised:
                self.run_with(Gives(make))
            self.assertIn(part, str(raised.exception))
            self.assertIn("score Gives", str(raised.exception))
        self.assertEqual(self.run_with(Gives(lambda norms: np.full(norms.shape, -np.inf)))[0],
                         self.run_with(Gives(lambda norms: np.zeros(norms.shape, int)))[0])

    def test_what_it_raises_comes_out(self):
        def fail(norms):
            raise KeyError("mine")
        sequence = self.model.sequence(press=neoxref.Press(0.5, Gives(fail), prune_after=40))
        with self.assertRaisesRegex(KeyError, "mine"):
            sequence.feed(self.tokens)
        self.assertTrue(sequence.stopped)
        with self.assertRaises(neoxref.Error):
            sequence.feed([1])
        self.assertEqual(self.model.forward(self.tokens[:3]).shape[0], 3)

    def test_it_cannot_use_the_model(self):
        with self.assertRaisesRegex(neoxref.Error, "cannot use a model"):
            self.run_with(Gives(lambda norms: self.model.forward([1])))

    def test_what_is_no_score(self):
        class Undeclared:
            def score(self, keys, values, key_norms, positions, layer):
                return key_norms
        for part, score in (("static", Undeclared()), ("function score", KeyNorm),
                            ("function score", 5), ("no name", "own")):
            with self.subTest(part=part), self.assertRaises(neoxref.Error) as raised:
                neoxref.Press(0.5, score)
            self.assertIn(part, str(raised.exception))
        self.assertIsInstance(KeyNorm(), neoxref.OwnScore)

    def test_it_is_let_go(self):
        own = KeyNorm()
        gone = weakref.ref(own)
        _, sequence = self.run_with(own)
        fork = sequence.fork()
        del own, sequence
        gc.collect()
        self.assertIsNotNone(gone())
        del fork
        gc.collect()
        self.assertIsNone(gone())


if __name__ == "__main__":
    unittest.main()
