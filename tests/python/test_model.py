# SPDX-License-Identifier: Apache-2.0
"""The package's model and sequences: the same bits as the program, however they are asked for."""

import json
import os
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path

import neoxref
import numpy as np

PROGRAM = os.environ.get("NEOXREF_PROGRAM")


def sample(model, name="pg19_10146_excerpt.txt"):
    return model.encode(neoxref.sample_texts()[name])


class Mini(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = neoxref.load("mini")
        cls.tokens = sample(cls.model)[:300]

    def refuses(self, part, call, *arguments, **options):
        with self.assertRaises(neoxref.Error) as raised:
            call(*arguments, **options)
        self.assertIn(part, str(raised.exception))
        self.assertNotIn("\n", str(raised.exception))


class Forward(Mini):
    def test_shapes_and_types(self):
        logits = self.model.forward(self.tokens[:5])
        self.assertEqual((logits.shape, logits.dtype), ((5, self.model.config.vocab), np.float32))
        sequence = self.model.sequence()
        self.assertEqual(sequence.feed(self.tokens[:3]).shape, (self.model.config.vocab,))
        self.assertIsNone(sequence.feed([1], logits="none"))
        self.assertEqual(sequence.feed([1, 2], logits="all").shape, (2, self.model.config.vocab))
        self.assertEqual(sequence.position, 6)

    def test_known_digest(self):
        folder = self.model.folder
        known = json.loads((folder / "digest.json").read_text())
        self.assertEqual(neoxref.load(folder).forward([1, 2, 3]).shape[0], 3)
        self.assertIn("digest", known)
        if PROGRAM is None:
            print("SKIP python: the program was not built to compare with")
            return
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "logits.npy"
            answer = subprocess.run(
                [PROGRAM, "logits", "mini", "--text", "The old captain", "-o", out, "--json"],
                check=True, capture_output=True, text=True)
            logits = self.model.forward(self.model.encode("The old captain"))
            np.testing.assert_array_equal(np.load(out).view(np.uint32), logits.view(np.uint32))
            self.assertEqual(json.loads(answer.stdout)["digest"], neoxref.digest(logits))

    def test_chunks_batches_and_settings_change_nothing(self):
        whole = neoxref.digest(self.model.forward(self.tokens))
        sequence = self.model.sequence()
        parts = [sequence.feed(self.tokens[first:first + 37], logits="all")
                 for first in range(0, len(self.tokens), 37)]
        self.assertEqual(neoxref.digest(*parts), whole)
        pair = [self.model.sequence(), self.model.sequence()]
        first, second = self.model.feed(pair, [self.tokens, self.tokens[:10]], logits="all")
        self.assertEqual(neoxref.digest(first), whole)
        self.assertEqual(neoxref.digest(second), neoxref.digest(self.model.forward(self.tokens[:10])))
        other = neoxref.load("mini", isa="scalar", backend="serial", threads=1)
        self.assertEqual((other.isa, other.backend, other.threads), ("scalar", "serial", 1))
        self.assertEqual(neoxref.digest(other.forward(self.tokens[:64])),
                         neoxref.digest(self.model.forward(self.tokens[:64])))

    def test_threads_take_turns(self):
        expected = neoxref.digest(self.model.forward(self.tokens[:100]))
        found = []
        threads = [threading.Thread(target=lambda: found.append(
            neoxref.digest(self.model.forward(self.tokens[:100])))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, [expected] * 4)

    def test_what_cannot_be_used(self):
        feed = self.model.forward
        self.refuses("tokens", feed, [])
        self.refuses("outside the vocabulary", feed, [self.model.config.vocab])
        self.refuses("outside every vocabulary", feed, [-1])
        self.refuses("outside every vocabulary", feed, [2**40])
        self.refuses("one row", feed, [[1, 2]])
        self.refuses("one row", feed, [[1], [2, 3]])
        self.refuses("one row", feed, [1.0])
        self.refuses("encode", feed, "text")
        self.refuses("longer than the context", feed, [1] * (self.model.config.max_positions + 1))
        self.refuses("the cache is too small", self.model.sequence(16).feed, [1] * 17)
        self.refuses("logits", self.model.sequence(16).feed, [1], "some")
        self.refuses("capacity", self.model.sequence, 0)
        sequence = self.model.sequence(16)
        self.refuses("twice", self.model.feed, [sequence, sequence], [[1], [2]])
        self.refuses("another model", neoxref.load("mini").feed, [sequence], [[1]])
        self.refuses("one row for each", self.model.feed, [sequence], [])
        self.assertEqual(sequence.position, 0)
        self.refuses("no such model", neoxref.load, "nowhere")
        self.refuses("instruction set", neoxref.load, isa="sse1")
        self.refuses("backend", neoxref.load, backend="cuda")


class Cache(Mini):
    def test_arrays(self):
        config = self.model.config
        sequence = self.model.sequence()
        sequence.feed(self.tokens[:40], logits="none")
        self.assertEqual(sequence.lengths.tolist(), [[40] * config.heads] * config.layers)
        cache = sequence.layer(config.layers - 1)
        self.assertEqual(cache.keys.shape, (config.heads, 40, config.head_dim))
        self.assertEqual(cache.values.shape, cache.keys.shape)
        np.testing.assert_array_equal(cache.positions, [range(40)] * config.heads)
        np.testing.assert_array_equal(cache.key_norms, neoxref.key_norms(cache.keys))
        np.testing.assert_allclose(cache.key_norms, np.linalg.norm(cache.keys.astype(float), axis=2),
                                   rtol=1e-6)
        self.assertEqual(sequence.logical_bytes, 40 * config.layers * config.heads * config.head_dim * 8)
        self.refuses("no such layer", sequence.layer, config.layers)

    def test_fork_goes_its_own_way(self):
        press = neoxref.Press(0.5, prune_after=64)
        sequence = self.model.sequence(press=press)
        sequence.feed(self.tokens[:100], logits="none")
        fork = sequence.fork()
        first = sequence.feed(self.tokens[100:200], logits="all")
        self.assertEqual((fork.position, sequence.position), (100, 200))
        self.assertEqual(neoxref.digest(fork.feed(self.tokens[100:200], logits="all")),
                         neoxref.digest(first))
        self.assertEqual(fork.press, press)

    def test_cuts_are_those_of_the_plan(self):
        for press in (neoxref.Press(0.7, prune_after=64),
                      neoxref.Press("0.9", trigger="reaches", prune_after=50, skip_layers=(0, 2)),
                      neoxref.Press(keep_slots=20, trigger="every", interval=31, sinks=4, recent=8)):
            sequence = self.model.sequence(press=press)
            sequence.feed(self.tokens, logits="none")
            planned = neoxref.plan(press, len(self.tokens))
            self.assertGreater(len(planned), 3)
            for layer in range(self.model.config.layers):
                happened = [cut[1:4] for cut in sequence.cuts if cut.layer == layer]
                skipped = layer in press.skip_layers
                self.assertEqual(happened, [] if skipped else [tuple(cut) for cut in planned])
                self.assertEqual(sequence.cut_counts[layer], len(happened))

    def test_a_cut_keeps_what_kept_says(self):
        config = self.model.config
        for score in ("knorm", "knorm-high", "vnorm", "keydiff", "random", "knorm-rot"):
            press = neoxref.Press(0.5, score, trigger="every", interval=100, sinks=2, recent=5, seed=3)
            full = self.model.sequence()
            full.feed(self.tokens[:100], logits="none")
            cut = self.model.sequence(press=press)
            cut.feed(self.tokens[:100], logits="none")
            for layer in range(1, config.layers):
                before = full.layer(layer)
                kept = press.kept(before.keys, before.values, layer=layer,
                                  rotary_dims=config.rotary_dims)
                np.testing.assert_array_equal(cut.layer(layer).positions, kept)
                np.testing.assert_array_equal(
                    cut.layer(layer).values,
                    np.take_along_axis(before.values, kept[:, :, np.newaxis], axis=1))

    def test_saved_and_restored(self):
        for press in (None, neoxref.Press(0.5, prune_after=64, sinks=2),
                      neoxref.Press(0.5, "observed", trigger="every", interval=40)):
            sequence = self.model.sequence(press=press)
            sequence.feed(self.tokens[:130], "none")
            saved = sequence.save()
            restored = self.model.restore(saved, press)
            self.assertEqual(restored.position, 130)
            self.assertEqual(neoxref.digest(restored.feed(self.tokens[130:], "all")),
                             neoxref.digest(sequence.feed(self.tokens[130:], "all")))
            self.assertEqual(len(restored.cuts), len(sequence.cuts))
        self.refuses("here", self.model.restore, saved[:50], press, where="here")
        self.refuses("press", self.model.restore, saved)

    def test_rerotate_set_later(self):
        press = neoxref.Press(0.5, prune_after=32, positions="rerotate", skip_layers=())
        self.refuses("rerotate", self.model.sequence().set_press, press)
        late = self.model.sequence(ready_for=[press])
        late.set_press(press)
        early = self.model.sequence(press=press)
        self.assertEqual(neoxref.digest(late.feed(self.tokens, logits="all")),
                         neoxref.digest(early.feed(self.tokens, logits="all")))


class Generate(Mini):
    def test_same_as_the_program(self):
        if PROGRAM is None:
            print("SKIP python: the program was not built to compare with")
            return
        prompt = "The captain looked at the sea and"
        for options, arguments in (
                ({}, []),
                ({"temperature": 0.8, "seed": 7}, ["--temperature", "0.8", "--seed", "7"]),
                ({"temperature": 1.5, "top_k": 40, "top_p": 0.9, "stop": ["e t", "the "]},
                 ["--temperature", "1.5", "--top-k", "40", "--top-p", "0.9", "--stop", "e t",
                  "--stop", "the "]),
                ({"press": neoxref.Press("0.5", prune_after=16)},
                 ["--keep-ratio", "0.5", "--prune-after", "16"])):
            shown = []
            made = self.model.generate(prompt, 40, on_text=shown.append, **options)
            answer = subprocess.run([PROGRAM, "run", "mini", "--prompt", prompt, "--max-new", "40",
                                     "--json", *arguments], check=True, capture_output=True, text=True)
            expected = json.loads(answer.stdout)
            for field in ("text", "finish", "digest"):
                self.assertEqual(getattr(made, field), expected[field], field)
            self.assertEqual(made.tokens.tolist(), expected["tokens"])
            self.assertEqual("".join(shown), made.text)
            if "cuts" in expected:
                self.assertGreater(sum(expected["cuts"]), 0)
                self.assertEqual([sum(cut.layer == layer for cut in made.cuts)
                                  for layer in range(self.model.config.layers)], expected["cuts"])

    def test_ends(self):
        context = self.model.config.max_positions
        made = self.model.generate(np.resize(self.tokens, context - 2), 10, ignore_eos=True)
        self.assertEqual((made.finish, len(made.tokens)), ("context", 3))
        self.assertEqual(len(self.model.generate("One", 0).tokens), 0)
        self.refuses("prompt", self.model.generate, "")
        self.refuses("stop", self.model.generate, "One", stop=[""])
        self.refuses("temperature", self.model.generate, "One", temperature=-1.0)


class Text(Mini):
    def test_there_and_back(self):
        for text in ("", "The old captain", "naïve café — 東京", "tabs\tand\n\nlines  "):
            ids = self.model.encode(text)
            self.assertEqual(ids.dtype, np.int32)
            self.assertEqual(self.model.decode(ids), text)
            self.assertEqual(b"".join(map(self.model.tokenizer.bytes_of, ids)), text.encode())
        self.refuses("Unicode", self.model.encode, "\ud800")
        self.refuses("vocabulary", self.model.decode, [self.model.tokenizer.vocab_size])

    def test_nll(self):
        logits = self.model.forward(self.tokens[:20])
        found = neoxref.nll(logits[:-1], self.tokens[1:20])
        wide = logits[:-1].astype(float)
        top = wide.max(axis=1)
        expected = (top + np.log(np.exp(wide - top[:, np.newaxis]).sum(axis=1)) -
                    wide[range(19), self.tokens[1:20]])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        self.refuses("vocabulary", neoxref.nll, logits[:1], [self.model.config.vocab])
        self.refuses("one for each", neoxref.nll, logits, [1])


if __name__ == "__main__":
    unittest.main()
