# SPDX-License-Identifier: Apache-2.0
"""Log-likelihoods of continuations, and the adapter to lm-evaluation-harness where that is there."""

import importlib.util
import json
import os
import tempfile
import unittest
from pathlib import Path

import neoxref
import numpy as np

TASK = """\
task: last_word
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{text.split(' ')[:-1]|join(' ')}}}}"
doc_to_target: "{{{{' ' + text.split(' ')[-1]}}}}"
metric_list:
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


class Likelihood(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = neoxref.load("mini")
        cls.tokens = cls.model.encode(neoxref.sample_texts()["pg19_10146_excerpt.txt"])

    def by_hand(self, context, continuation, press=None):
        """One token at a time, in a sequence of its own."""
        sequence = self.model.sequence(press=press)
        for token in context[:-1]:
            sequence.feed([token], "none")
        logits = [sequence.feed(context[-1:])]
        sequence.end_prompt()
        logits += [sequence.feed([token]) for token in continuation[:-1]]
        nll = neoxref.nll(np.stack(logits), continuation)
        greedy = [int(row.argmax()) for row in logits] == list(continuation)
        return -float(sum(nll.astype(float))), greedy

    def test_same_as_by_hand(self):
        pairs = [(self.tokens[:50], self.tokens[50:53]), (self.tokens[:50], self.tokens[60:61]),
                 (self.tokens[10:40], self.tokens[40:80]), (self.tokens[:50], self.tokens[50:70])]
        for press in (None, neoxref.Press(0.5, prune_after=20),
                      neoxref.Press(0.5, trigger="after-prompt"),
                      neoxref.Press(0.5, trigger="reaches", prune_after=52)):
            found = neoxref.continuations(self.model, pairs, press)
            for pair, one in zip(pairs, found, strict=True):
                self.assertEqual((one.log_likelihood, one.greedy), self.by_hand(*pair, press))
            expected = {None: [False] * 4}.get(press)
            if expected is None:
                expected = {"exceeds": [True] * 4, "after-prompt": [True, False, True, True],
                            "reaches": [False, False, True, True]}[press.trigger]
            self.assertEqual([one.cut for one in found], expected)

    def test_greedy(self):
        logits = self.model.forward(self.tokens[:30])
        best = int(logits[-1].argmax())
        found = neoxref.continuations(self.model, [(self.tokens[:30], [best]),
                                                   (self.tokens[:30], [best ^ 1])])
        self.assertEqual([one.greedy for one in found], [True, False])
        self.assertGreater(found[0].log_likelihood, found[1].log_likelihood)

    def test_long_contexts_lose_their_beginning(self):
        context = self.model.config.max_positions
        long = np.resize(self.tokens, context + 300)
        found = neoxref.continuations(self.model, [(long, [5, 6]), (long[-(context - 1):], [5, 6])])
        self.assertEqual(found[0], found[1])
        for pair in (([], [1]), ([1], []), ([1], [1] * (context + 1))):
            with self.assertRaises(neoxref.Error):
                neoxref.continuations(self.model, [pair])


class Harness(unittest.TestCase):
    def setUp(self):
        if importlib.util.find_spec("lm_eval") is None:
            print("SKIP lm_eval: lm-evaluation-harness is not installed")
            self.skipTest("lm-evaluation-harness is not installed")
        os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"

    def evaluate(self, items, model, **options):
        import lm_eval
        from lm_eval.tasks import TaskManager
        with tempfile.TemporaryDirectory() as place:
            os.environ["HF_DATASETS_CACHE"] = place
            data = Path(place) / "items.jsonl"
            data.write_text("".join(json.dumps({"text": text}) + "\n" for text in items))
            (Path(place) / "last_word.yaml").write_text(TASK.format(data=data))
            result = lm_eval.simple_evaluate(
                model=model, tasks=["last_word"], bootstrap_iters=0,
                task_manager=TaskManager(include_path=place, include_defaults=False), **options)
        return result["results"]["last_word"]

    def test_a_task(self):
        from neoxref.lm_eval import NeoxrefLM
        model = neoxref.load("mini")
        paragraphs = neoxref.sample_texts()["pg19_10146_excerpt.txt"].split("\n\n")
        items = [" ".join(text.split()) for text in paragraphs if len(text.split()) > 20][:12]
        for press in (None, neoxref.Press(0.5, prune_after=16)):
            found = self.evaluate(items, NeoxrefLM(model, press=press))
            expected = []
            for text in items:
                whole = model.encode(text)
                context = model.encode(text.rsplit(" ", 1)[0])
                expected += neoxref.continuations(model, [(context, whole[len(context):])], press)
            mean = sum(one.log_likelihood for one in expected) / len(expected)
            self.assertAlmostEqual(found["perplexity,none"] / np.exp(-mean), 1.0, places=12)
            self.assertEqual(found["acc,none"], sum(one.greedy for one in expected) / len(items))
        by_name = self.evaluate(items, "neoxref", model_args={
            "pretrained": "mini", "keep_ratio": 0.5, "prune_after": 16, "skip_layers": "0"})
        self.assertEqual(by_name["perplexity,none"], found["perplexity,none"])

    def test_whole_texts_and_generation(self):
        from lm_eval.api.instance import Instance
        from neoxref.lm_eval import NeoxrefLM
        model = neoxref.load("mini")
        text = neoxref.sample_texts()["wikitext2_test_excerpt.txt"]
        lm = NeoxrefLM(model)
        found = lm.loglikelihood_rolling(
            [Instance("loglikelihood_rolling", {}, (text,), 0)])[0]
        ids, context = model.encode(text), model.config.max_positions
        expected = 0.0
        for first in range(0, len(ids), context):
            window = ids[first:first + context]
            end = first + len(window)
            fed = [lm.eot_token_id, *window[:-1]] if first == 0 else ids[end - context - 1:end - 1]
            logits = model.forward(fed)[-len(window):]
            expected -= float(neoxref.nll(logits, window).astype(float).sum())
        self.assertAlmostEqual(found / expected, 1.0, places=12)
        made = lm.generate_until([Instance("generate_until", {}, (
            "The old captain", {"until": ["\n\n"], "max_gen_toks": 20, "do_sample": False}), 0)])
        self.assertEqual(made, [model.generate("The old captain", 20, stop="\n\n").text])

    def test_what_measures_nothing_is_an_error(self):
        from neoxref.lm_eval import NeoxrefLM
        for options in ({"keep_ration": 0.5}, {"press": neoxref.Press(0.5), "sinks": 4}):
            with self.assertRaises(neoxref.Error):
                NeoxrefLM("mini", **options)
        items = ["A short text with a last word"]
        with self.assertRaisesRegex(neoxref.Error, "nothing was cut"):
            self.evaluate(items, NeoxrefLM("mini", keep_ratio=0.5))
        self.evaluate(items, NeoxrefLM("mini", keep_ratio=0.5, allow_no_cuts=True))


if __name__ == "__main__":
    unittest.main()
