# SPDX-License-Identifier: Apache-2.0
"""Sweeps from Python: figures of the program, and own scores in every protocol."""

import json
import math
import os
import subprocess
import unittest

import neoxref
import numpy as np

PROGRAM = os.environ.get("NEOXREF_PROGRAM")


class KeyNorm:
    """knorm once more."""

    static = True

    def score(self, keys, values, key_norms, positions, layer):
        return -key_norms


class Evaluate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = neoxref.load("mini")
        cls.texts = neoxref.sample_texts()

    def test_an_own_score_in_every_protocol(self):
        for protocol, options in (("two-phase", {}), ("all", {}), ("after-first-cut", {}),
                                  ("sliding", {"stride": 60}), ("fixed", {})):
            with self.subTest(protocol=protocol):
                press = neoxref.Press(0.5, KeyNorm(), prune_after=40)
                rows = neoxref.evaluate(
                    self.model, {"pg19": self.model.encode(self.texts["pg19_10146_excerpt.txt"])[:300]},
                    [press, neoxref.Press(0.5, prune_after=40)], protocol=protocol, max_tokens=120,
                    **options)
                self.assertEqual([row.score for row in rows], ["none", "KeyNorm", "knorm"])
                full, mine, built_in = rows
                self.assertEqual(mine.digest, built_in.digest)
                self.assertNotEqual(mine.digest, full.digest)
                self.assertEqual(mine.cuts, built_in.cuts)
                self.assertGreater(mine.after_cut, 0)
                self.assertEqual((full.log_ratio, full.kl, full.agreement), (0.0, 0.0, 1.0))
                self.assertAlmostEqual(math.log(mine.perplexity / mine.baseline_perplexity),
                                       mine.log_ratio)

    def test_two_phase_by_hand(self):
        tokens = self.model.encode(self.texts["pg19_10146_excerpt.txt"])[:150]
        press = neoxref.Press("0.5", prune_after=64)
        seen = []
        row = neoxref.evaluate(self.model, [tokens], [press], progress=seen.append)[1]
        self.assertEqual(seen[-1], 1.0)
        sequence = self.model.sequence()
        logits = [sequence.feed(tokens[:64])]
        sequence.set_press(press)
        logits += list(sequence.feed(tokens[64:-1], "all"))
        nll = neoxref.nll(np.stack(logits), tokens[64:])
        self.assertEqual(row.nll, float(sum(nll.astype(float))))
        text = row.texts[0]
        np.testing.assert_array_equal(text.per_token["nll"], nll)
        np.testing.assert_array_equal(text.per_token["token"], tokens[64:])
        self.assertEqual((row.scored, text.effective_prune_after, text.name), (86, 64, "text 0"))
        self.assertEqual(list(row.cuts), sequence.cut_counts)
        self.assertEqual(row.cuts[1], len(neoxref.plan(press, 149, 64)))

    def test_figures_of_the_program(self):
        if PROGRAM is None:
            print("SKIP python: the program was not built to compare with")
            return
        answer = subprocess.run([PROGRAM, "eval", "mini", "--keep-ratio", "1,0.9,0.5", "--json"],
                                check=True, capture_output=True, text=True)
        expected = json.loads(answer.stdout)["rows"]
        rows = neoxref.evaluate(self.model, dict(reversed(self.texts.items())),
                                [neoxref.Press(ratio) for ratio in ("0.9", "0.5")])
        self.assertEqual(len(rows), len(expected))
        for row, wanted in zip(rows, expected, strict=True):
            for ours, theirs in (("digest", "digest"), ("scored", "tokens_scored"),
                                 ("perplexity", "perplexity"), ("log_ratio", "log_ratio"),
                                 ("accuracy", "accuracy"), ("kl", "kl"), ("mean_bytes", "mean_bytes"),
                                 ("peak_bytes", "peak_bytes")):
                self.assertEqual(getattr(row, ours), wanted[theirs], ours)
            self.assertEqual(list(row.cuts), wanted["cuts"])

    def test_controls_have_the_same_slots(self):
        rows = neoxref.evaluate(self.model, self.texts, [neoxref.Press(0.5, prune_after=64),
                                                         neoxref.Press(0.5, KeyNorm(), prune_after=64)],
                                max_tokens=200, controls=2)
        self.assertEqual(sorted(row.score for row in rows if row.control),
                         ["random"] * 2 + ["random-fresh"] * 2 + ["recent"])
        pressed = [row for row in rows if row.compressed]
        self.assertEqual(len({row.mean_slots for row in pressed}), 1)
        self.assertEqual({row.full_row for row in pressed}, {0})

    def test_what_was_never_cut(self):
        presses = [neoxref.Press(0.5, prune_after=512)]
        tokens = self.model.encode(self.texts["pg19_10146_excerpt.txt"])[:300]
        with self.assertRaisesRegex(neoxref.NotCut, "short") as raised:
            neoxref.evaluate(self.model, {"short": tokens}, presses, protocol="all")
        rows = neoxref.evaluate(self.model, {"short": tokens}, presses, protocol="all",
                                allow_no_cuts=True)
        self.assertEqual([row.digest for row in raised.exception.rows], [row.digest for row in rows])
        self.assertEqual(rows[0].digest, rows[1].digest)

    def test_what_cannot_be_used(self):
        press = neoxref.Press(0.5)
        for part, texts, options in (
                ("protocol", ["text " * 300], {"protocol": "none"}),
                ("max_tokens", ["text " * 300], {"max_tokens": 5000}),
                ("long enough", ["short"], {}),
                ("text 0", [[1.5]], {}),
                ("vocabulary", [[1] * 100 + [99999]], {})):
            with self.subTest(part=part), self.assertRaises(neoxref.Error) as raised:
                neoxref.evaluate(self.model, texts, [press], **options)
            self.assertIn(part, str(raised.exception))

    def test_a_score_that_fails(self):
        class Fails:
            static = False

            def score(self, keys, values, key_norms, positions, layer):
                return key_norms * np.nan
        with self.assertRaisesRegex(neoxref.Error, "Fails"):
            neoxref.evaluate(self.model, self.texts, [neoxref.Press(0.5, Fails(), prune_after=40)],
                             max_tokens=120)


if __name__ == "__main__":
    unittest.main()
