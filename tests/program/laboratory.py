# SPDX-License-Identifier: Apache-2.0
"""The command eval as a laboratory: protocols, controls, presets, tasks, files, resuming."""
import csv
import json
import math

from .case import Case

MEASURED = ("seconds", "mean_resident_bytes", "peak_resident_bytes")
SENTENCES = ("The captain walked along the shore and looked for his old boat under the trees. ",
             "A letter came from the town, but nobody in the house could read it that evening. ",
             "They sat by the fire until the rain was over, and then the children went to bed. ")


def without_measurements(value):
    if isinstance(value, dict):
        return {key: without_measurements(entry) for key, entry in value.items()
                if key not in MEASURED}
    if isinstance(value, list):
        return [without_measurements(entry) for entry in value]
    return value


class Laboratory(Case):
    def text(self, name="plain.txt", times=6):
        path = self.folder / name
        path.write_text("".join(SENTENCES) * times)
        return path

    def test_protocols(self):
        options = ("eval", "mini", "--text", self.text(), "--max-tokens", "120", "--prune-after",
                   "50", "--keep-ratio", "0.5")
        tokens = len(self.ids("".join(SENTENCES) * 6))
        scored = {}
        for protocol, more in (("two-phase", ()), ("all", ()), ("after-first-cut", ()),
                               ("fixed", ()), ("sliding", ("--stride", "40"))):
            rows = self.document(*options, "--protocol", protocol, *more)["rows"]
            self.assertEqual([row["press"] for row in rows], ["none", "knorm"])
            for row in rows:
                self.assertEqual(row["protocol"], protocol)
                self.assertEqual(row["text"], "plain.txt")
                self.assertAlmostEqual(row["baseline_perplexity"], rows[0]["perplexity"])
                self.assertAlmostEqual(row["ratio"], row["perplexity"] / rows[0]["perplexity"])
                self.assertAlmostEqual(row["log_ratio"], math.log(row["ratio"]))
                text = row["texts"][0]
                for field in ("nll", "log_ratio", "kl", "digest", "bits_per_byte"):
                    self.assertEqual(text[field], row[field], field)
            self.assertEqual([rows[0]["kl"], rows[0]["agreement"]], [0, 1])
            self.assertGreater(rows[1]["kl"], 0)
            self.assertLess(rows[1]["mean_bytes"], rows[0]["mean_bytes"])
            self.assertLessEqual(rows[1]["peak_bytes"], rows[1]["physical_bytes"])
            self.assertLessEqual(rows[1]["peak_resident_bytes"], rows[1]["physical_bytes"])
            scored[protocol] = rows[1]["tokens_scored"]
            share = rows[1]["share_after_cut"]
            self.assertEqual(share == 1, protocol == "after-first-cut")
            buckets = rows[1]["buckets"]
            for name in ("position", "since_cut", "cuts"):
                self.assertEqual(sum(b["tokens"] for b in buckets[name]), scored[protocol])
            mean = sum(b["tokens"] * b["log_ratio"] for b in buckets["cuts"]) / scored[protocol]
            self.assertAlmostEqual(mean, rows[1]["log_ratio"])
            self.assertEqual({d["layer"] for d in rows[1]["drops"]}, {1, 2, 3, 4, 5})
        windows = math.ceil(tokens / 120)
        self.assertEqual(scored, {"two-phase": 70, "all": 119, "after-first-cut": 68,
                                  "fixed": tokens - windows, "sliding": tokens - 1})

    def test_scores_and_limits_side_by_side(self):
        found = self.document("eval", "mini", "--text", self.text(), "--max-tokens", "120",
                              "--score", "knorm,keydiff", "--keep-ratio", "0.9,0.5",
                              "--prune-after", "40,60")
        self.assertEqual([(row["press"], row["keep_ratio"], row["prune_after"])
                          for row in found["rows"]],
                         [(press, keep, limit) for limit in (40, 60)
                          for press, keep in (("none", 1), ("knorm", 0.9), ("keydiff", 0.9),
                                              ("knorm", 0.5), ("keydiff", 0.5))])
        self.assertEqual(len({row["digest"] for row in found["rows"]}), 10)
        alone = self.document("eval", "mini", "--text", self.text(), "--max-tokens", "120",
                              "--score", "keydiff", "--keep-ratio", "0.5", "--prune-after", "60")
        self.assertEqual(alone["rows"][1]["digest"], found["rows"][9]["digest"])
        self.assertEqual(alone["rows"][1]["log_ratio_interval"],
                         found["rows"][9]["log_ratio_interval"])

    def test_protected_slots_beyond_the_budget(self):
        options = ("eval", "mini", "--text", self.text(), "--max-tokens", "120", "--prune-after",
                   "50", "--keep-ratio", "0.1", "--recent", "20")
        row = self.document(*options, "--sinks", "4")["rows"][1]
        self.assertEqual(row["protected_cuts"], sum(row["cuts"]))
        self.assertIn("4 sinks and 20 recent slots were more than the budget",
                      self.ok(*options, "--sinks", "4"))
        row = self.document("eval", "mini", "--text", self.text(), "--max-tokens", "120",
                            "--prune-after", "50", "--keep-ratio", "0.9", "--recent", "20")["rows"][1]
        self.assertEqual(row["protected_cuts"], 0)

    def test_controls(self):
        options = ("eval", "mini", "--text", self.text(), "--max-tokens", "120", "--prune-after",
                   "50", "--keep-ratio", "0.5", "--controls")
        found = self.document(*options)
        rows = found["rows"][1:]
        self.assertEqual([row["press"] for row in rows],
                         ["knorm"] + ["random"] * 5 + ["random-fresh"] * 5 + ["recent"])
        for row in rows:
            self.assertEqual(row["control"], row is not rows[0])
            for field in ("mean_slots", "peak_bytes", "cuts"):
                self.assertEqual(row[field], rows[0][field])
            self.assertEqual(row["texts"][0]["steps"], rows[0]["texts"][0]["steps"])
        self.assertEqual(len({row["digest"] for row in rows}), 12)
        for spread, first in zip(found["controls"], (1, 6)):
            ratios = [row["log_ratio"] for row in rows[first:first + 5]]
            self.assertEqual([spread["seeds"], spread["least"], spread["most"]],
                             [5, min(ratios), max(ratios)])
        tables = self.ok(*options)
        self.assertIn("random-fresh", tables)
        self.assertIn("5 seeds", tables)
        self.assertLessEqual(max(map(len, tables.splitlines())), 100)

    def test_presets(self):
        text = self.text(times=12)
        first = self.document("eval", "mini", "--text", text, "--preset", "study-1")
        self.assertEqual([row["keep_ratio"] for row in first["rows"]], [1, .95, .9, .8, .7])
        self.assertEqual([first["preset"], first["max_tokens"]], ["study-1", 256])
        for row in first["rows"]:
            self.assertEqual([row["protocol"], row["trigger"], row["prune_after"],
                              row["skip_layers"], row["positions"], row["tokens_scored"]],
                             ["all", "reaches", 32, [0], "original", 255])
        code, out, err = self.run_program("eval", "mini", "--text", text, "--preset", "study-2",
                                          "--json")
        self.assertEqual(code, 3)
        self.assertEqual(len(err.decode().splitlines()), 4)
        rows = json.loads(out)["rows"]
        self.assertEqual(len({row["digest"] for row in rows}), 1)
        self.assertTrue(all(row["texts"][0]["never_cut"] for row in rows[1:]))
        tables = self.ok("eval", "mini", "--dataset", "wikitext", "--unit", "paragraph",
                         "--preset", "study-final")
        for choice in ("preset study-final", "trigger reaches", "prune_after 256", "score knorm",
                       "skip layers 0", "unit paragraph", "two-phase, max_tokens 1024"):
            self.assertIn(choice, tables)
        self.assertLessEqual(max(map(len, tables.splitlines())), 100)
        for option in (("--keep-ratio", "0.5"), ("--max-tokens", "100"), ("--score", "vnorm")):
            self.fails(2, ["--preset study-1: fixes " + option[0]], "eval", "mini", "--preset",
                       "study-1", *option)

    def test_files(self):
        table, tokens, lines = (self.folder / n for n in ("t.csv", "tokens.csv", "tokens.jsonl"))
        options = ("eval", "mini", "--text", self.text("a, b.txt"), self.text("c.txt", 7),
                   "--max-tokens", "100", "--prune-after", "50", "--keep-ratio", "0.5")
        rows = self.document(*options, "--csv", table, "--per-token", tokens)["rows"]
        found = list(csv.DictReader(table.read_text().splitlines()))
        self.assertEqual([line["text"] for line in found], ["a, b.txt", "c.txt", "all"] * 2)
        for line, row in zip(found[2::3], rows):
            for field in ("perplexity", "log_ratio", "kl", "mean_slots"):
                self.assertEqual(float(line[field]), row[field])
            self.assertEqual(line["digest"], row["digest"])
        each = list(csv.DictReader(tokens.read_text().splitlines()))
        self.assertEqual(len(each), sum(row["tokens_scored"] for row in rows))
        mine = [token for token in each if token["row"] == "1"]
        difference = sum(float(t["nll"]) - float(t["baseline_nll"]) for t in mine)
        self.assertAlmostEqual(difference / len(mine), rows[1]["log_ratio"], places=5)
        steps = {step["token"] for step in rows[1]["texts"][0]["steps"]}
        for token in mine[:rows[1]["texts"][0]["tokens_scored"]]:
            before = [cut for cut in steps if cut < int(token["position"]) - 1]
            self.assertEqual(int(token["cuts"]), len(before))
            since = int(token["position"]) - 1 - max(before) if before else 0
            self.assertEqual(int(token["since_cut"]), since)
        self.ok(*options, "--per-token", lines)
        again = [json.loads(line) for line in lines.read_text().splitlines()]
        self.assertEqual([str(t["position"]) for t in again], [t["position"] for t in each])
        self.assertEqual(again[-1]["text"], "c.txt")
        self.fails(4, ["nowhere"], *options, "--csv", self.folder / "nowhere" / "t.csv")

    def test_resume(self):
        texts = [self.text(f"{i}.txt", 5 + i) for i in range(4)]
        options = ("eval", "mini", "--text", *texts, "--max-tokens", "90", "--prune-after", "40",
                   "--keep-ratio", "0.9,0.5", "--protocol", "fixed")
        journal = self.folder / "journal"
        plain = self.document(*options)
        whole = self.document(*options, "--resume", journal)
        self.assertEqual(without_measurements(whole), without_measurements(plain))
        lines = journal.read_bytes().splitlines(keepends=True)
        self.assertEqual(len(lines), 5)
        # Stopped in the middle of the third text's line.
        journal.write_bytes(b"".join(lines[:3]) + lines[3][:100])
        again = self.document(*options, "--resume", journal)
        self.assertEqual(without_measurements(again), without_measurements(plain))
        self.assertEqual(again["rows"][1]["texts"][0], whole["rows"][1]["texts"][0])
        # Nothing is left to do: the same document to the last figure.
        self.assertEqual(self.document(*options, "--resume", journal), again)
        self.fails(4, ["another sweep"], *options, "--sinks", "2", "--resume", journal)
        texts[0].write_text("Another text. " * 30)
        self.fails(4, ["another sweep"], *options, "--resume", journal)
        journal.write_text("notes\n")
        self.fails(4, ["is not a journal"], *options, "--resume", journal)
        journal.write_text("notes")
        self.fails(4, ["is not a journal"], *options, "--resume", journal)
        self.assertEqual(journal.read_text(), "notes")

    def test_lambada(self):
        items = self.folder / "items.jsonl"
        passages = ["".join(SENTENCES) + "He took the letter and gave it to the captain",
                    "It was a short night"]
        items.write_text("".join(json.dumps({"text": p}) + "\n" for p in passages))
        options = ("eval", "mini", "--task", "lambada", "--text", items, "--keep-ratio", "0.5")
        found = self.document(*options, "--allow-no-cuts")
        self.assertEqual(found["task"], "lambada")
        for row in found["rows"]:
            self.assertEqual([row["items"], len(row["texts"])], [2, 2])
            for text, passage in zip(row["texts"], passages):
                target = passage[passage.rindex(" "):]
                self.assertEqual(text["tokens_scored"], len(self.ids(target)))
                self.assertEqual(text["tokens"], len(self.ids(passage)))
            self.assertAlmostEqual(row["item_perplexity"],
                                   math.exp(sum(t["nll"] for t in row["texts"]) / 2))
            right = sum(t["accuracy"] == 1 for t in row["texts"])
            self.assertEqual(row["item_accuracy"], right / 2)
        pressed = found["rows"][1]
        self.assertEqual([t["never_cut"] for t in pressed["texts"]], [False, True])
        self.assertEqual(pressed["items_never_cut"], 1)
        self.assertIn("never cut", self.ok(*options, "--allow-no-cuts"))
        code, _, err = self.run_program(*options)
        self.assertEqual(code, 3)
        self.assertIn(b"items.jsonl: line 2", err)
        items.write_text('{"text": "word"}\n')
        self.fails(4, ["items.jsonl: line 1", "last word"], *options)

    def test_patterns(self):
        for name in ("b2.txt", "b1.txt", "c.txt"):
            self.text(name)
        rows = self.document("eval", "mini", "--text", self.folder / "b*.txt", self.folder / "c.txt",
                             "--max-tokens", "60", "--keep-ratio", "1")["rows"]
        self.assertEqual([t["text"] for t in rows[0]["texts"]], ["b1.txt", "b2.txt", "c.txt"])
        self.fails(4, ["x*.txt", "no file matches"], "eval", "mini", "--text",
                   self.folder / "x*.txt")

    def test_usage(self):
        for fragments, options in (
                (["--stride"], ("--protocol", "sliding")),
                (["--stride", "sliding"], ("--stride", "4")),
                (["unknown name", "two-phase", "nosuch"], ("--protocol", "nosuch")),
                (["after-prompt", "two-phase"], ("--protocol", "all", "--trigger", "after-prompt")),
                (["--task", "--text"], ("--task", "lambada")),
                (["--task", "two-phase"], ("--task", "lambada", "--text", "x", "--protocol",
                                           "fixed")),
                (["--unit", "wikitext"], ("--unit", "paragraph")),
                (["score", "knorm", "nosuch"], ("--score", "knorm,nosuch")),
                (["--prune-after", "whole numbers"], ("--prune-after", "1,x"))):
            self.fails(2, fragments, "eval", "mini", *options)
        self.fails(4, ["stride", "1 to 100"], "eval", "mini", "--protocol", "sliding", "--stride",
                   "101", "--max-tokens", "100")
