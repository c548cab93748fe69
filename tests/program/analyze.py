# SPDX-License-Identifier: Apache-2.0
"""The command analyze."""
import csv

from .case import Case

FIGURES = ("alr", "random_alr", "relative", "spearman")


class Analyze(Case):
    def test_document(self):
        table = self.folder / "heads.csv"
        found = self.document("analyze", "mini", "--max-tokens", "300", "--windows", "2", "--score",
                              "knorm,knorm-high,keydiff,random", "--csv", table)
        self.assertEqual(set(found), {"max_tokens", "first_query", "scores", "windows", "left_out",
                                      "machine"})
        self.assertMachine(found["machine"])
        self.assertEqual([(w["begin"], w["tokens"], w["queries"]) for w in found["windows"]],
                         [(0, 300, 268), (300, 300, 268)] * 2)
        self.assertEqual([s["static"] for s in found["scores"]], [True, True, False, True])
        with table.open() as file:
            lines = list(csv.DictReader(file))
        self.assertEqual(len(lines), 4 * 4 * 6 * 6)
        for score in found["scores"]:
            mine = [line for line in lines if line["score"] == score["score"]]
            for figure in FIGURES:
                matrix = score["heads"][figure]
                self.assertEqual([len(row) for row in matrix], [6] * 6)
                for layer, row in enumerate(matrix):
                    self.assertAlmostEqual(sum(row) / 6, score["layers"][layer][figure]["mean"])
                    here = [float(line[figure]) for line in mine if int(line["layer"]) == layer]
                    self.assertAlmostEqual(sum(here) / 24, sum(row) / 6)
                self.assertAlmostEqual(sum(map(sum, matrix)) / 36, score[figure]["mean"])
                # Four windows are too few for an interval.
                self.assertIsNone(score[figure]["interval"])
                self.assertEqual(score["heads"][figure + "_low"], [[None] * 6] * 6)
            for line in mine:
                self.assertGreaterEqual(float(line["alr"]), -1e-12)
                self.assertLessEqual(float(line["relative"]), 2 + 1e-9)
                self.assertAlmostEqual(
                    float(line["relative"]), float(line["alr"]) / float(line["random_alr"]))
            self.assertEqual(score["heads_below_random"],
                             sum(value < 1 for row in score["heads"]["relative"] for value in row))
        low, high = found["scores"][:2]
        for a, b in zip(low["heads"]["spearman"], high["heads"]["spearman"]):
            for x, y in zip(a, b):
                self.assertAlmostEqual(x, -y)
        # Keys of equal norm are rare: one order is the reverse of the other.
        self.assertAlmostEqual(low["relative"]["mean"] + high["relative"]["mean"], 2, places=3)

    def test_intervals_and_tables(self):
        options = ("analyze", "mini", "--max-tokens", "60", "--windows", "6", "--score", "knorm")
        score = self.document(*options)["scores"][0]
        interval = score["relative"]["interval"]
        self.assertEqual([interval["over"], interval["units"]], ["windows", 12])
        self.assertLess(interval["low"], score["relative"]["mean"])
        self.assertGreater(interval["high"], score["relative"]["mean"])
        self.assertIsInstance(score["heads"]["relative_low"][5][5], float)
        text = self.ok(*options)
        self.assertIn(f"{score['relative']['mean']:.4f}", text)
        self.assertIn("Student's t over 12 windows", text)
        again = self.ok(*options, "--threads", "1", "--backend", "serial")
        self.assertEqual(again.splitlines()[:-1], text.splitlines()[:-1])
        for line in text.splitlines():
            self.assertLessEqual(len(line), 100, line)

    def test_future(self):
        options = ("analyze", "mini", "--max-tokens", "300", "--prune-after", "200", "--future",
                   "--keep-ratio", "0.5,0.2", "--score", "knorm,random,observed")
        found = self.document(*options)
        self.assertEqual([s["score"] for s in found["scores"]], ["knorm", "random"])
        rows = found["future"]["rows"]
        self.assertEqual([row["press"] for row in rows],
                         ["none"] + ["future-attention", "knorm", "random", "observed"] * 2)
        for row in rows[1:]:
            self.assertEqual([row["protocol"], row["trigger"]], ["two-phase", "after-prompt"])
            self.assertEqual([text["cuts"] for text in row["texts"]], [[0, 1, 1, 1, 1, 1]] * 2)
            kept = 100 if row["keep_ratio"] == 0.5 else 40
            self.assertEqual(row["texts"][0]["lengths"], [299] + [kept + 99] * 5)
        for reference, others in ((rows[1], rows[2:5]), (rows[5], rows[6:9])):
            self.assertEqual(reference["log_ratio_to_reference"], 0)
            self.assertFalse(reference["better_than_reference"])
            for row in others:
                self.assertAlmostEqual(row["log_ratio_to_reference"],
                                       row["log_ratio"] - reference["log_ratio"])
                self.assertEqual(row["better_than_reference"], row["log_ratio_to_reference"] < 0)
            # It knows the attention to come; lots know nothing.
            self.assertGreater(others[1]["log_ratio_to_reference"], 0)
        self.assertIn("future-attention 0.5", self.ok(*options))
        only = self.document("analyze", "mini", "--max-tokens", "100", "--prune-after", "50",
                             "--future", "--keep-ratio", "0.5", "--score", "tova")
        self.assertNotIn("scores", only)

    def test_nothing_cut(self):
        code, out, err = self.run_program(
            "analyze", "mini", "--max-tokens", "60", "--prune-after", "32", "--future",
            "--keep-ratio", "0.99", "--score", "knorm")
        self.assertEqual(code, 3)
        self.assertIn(b"nothing was cut", err)

    def test_refusals(self):
        self.fails(4, ["score tova", "attention"], "analyze", "mini", "--score", "tova",
                   "--max-tokens", "60")
        self.fails(4, ["random-fresh", "drawn anew"], "analyze", "mini", "--score", "random-fresh")
        self.fails(4, ["max_tokens", "1024"], "analyze", "mini", "--max-tokens", "1025")
        self.fails(2, ["--max-tokens", "33"], "analyze", "mini", "--max-tokens", "32")
        self.fails(2, ["--keep-ratio", "needs --future"], "analyze", "mini", "--keep-ratio", "0.5")
        self.fails(2, ["score", "frob"], "analyze", "mini", "--score", "frob")
        self.fails(4, ["keeps all"], "analyze", "mini", "--future", "--keep-ratio", "1",
                   "--max-tokens", "60")
        short = self.folder / "short.txt"
        short.write_text("Too short.")
        self.fails(4, ["long enough", "33"], "analyze", "mini", "--text", short)
