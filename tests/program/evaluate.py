# SPDX-License-Identifier: Apache-2.0
"""The commands eval and plan."""
import json

from .case import Case


class Eval(Case):
    def test_the_study(self):
        found = self.document("eval", "mini", "--keep-ratio", "1,0.9,0.7,0.5,0.1",
                              "--prune-after", "256", "--max-tokens", "1024")
        self.assertEqual(set(found), {"rows", "max_tokens", "machine"})
        self.assertMachine(found["machine"])
        self.assertEqual([row["keep_ratio"] for row in found["rows"]], [1, 0.9, 0.7, 0.5, 0.1])
        for row, cuts in zip(found["rows"], (0, 31, 10, 6, 4)):
            self.assertEqual([row["protocol"], row["trigger"], row["prune_after"]],
                             ["two-phase", "exceeds", 256])
            self.assertEqual(row["press"], "knorm" if cuts else "none")
            self.assertEqual(row["skip_layers"], [0])
            self.assertDigest(row["digest"])
            self.assertEqual(row["tokens_scored"], 2 * 768)
            self.assertEqual(len(row["texts"]), 2)
            for text in row["texts"]:
                self.assertEqual(text["cuts"], [0] + [cuts] * 5)
                self.assertEqual(text["lengths"][0], 1023)
                self.assertEqual([text["tokens"], text["tokens_scored"]], [1024, 768])
                self.assertEqual(text["effective_prune_after"], 256)
                self.assertFalse(text["never_cut"])
                self.assertLessEqual(text["mean_bytes"], text["peak_bytes"])
                for field in ("nll", "perplexity", "baseline_perplexity", "log_ratio", "accuracy"):
                    self.assertIsInstance(text[field], float)
            total = sum(text["nll"] for text in row["texts"])
            baseline = found["rows"][0]
            self.assertAlmostEqual(row["baseline_perplexity"], baseline["perplexity"])
            self.assertAlmostEqual(
                row["log_ratio"],
                (total - sum(text["nll"] for text in baseline["texts"])) / row["tokens_scored"])
        self.assertEqual(len({row["digest"] for row in found["rows"]}), 5)
        self.assertLess(found["rows"][0]["perplexity"], found["rows"][4]["perplexity"])
        plan = self.document("plan", "--length", "1024", "--prune-after", "256", "--keep-ratio",
                             "0.9,0.7,0.5,0.1")
        self.assertEqual([row["cuts"] for row in plan["rows"]], [31, 10, 6, 4])

    def test_keep_ratio_one_is_no_press(self):
        short = ("eval", "mini", "--max-tokens", "120", "--prune-after", "50")
        alone = self.document(*short, "--keep-ratio", "1.0")["rows"]
        beside = self.document(*short, "--keep-ratio", "0.5,1")["rows"]
        self.assertEqual(len(alone), 1)
        self.assertEqual(alone[0]["digest"], beside[0]["digest"])
        self.assertEqual([row["keep_ratio"] for row in beside], [1, 0.5])
        tables = self.ok(*short, "--keep-ratio", "1,0.5")
        for row in beside:
            self.assertIn(row["digest"], tables)

    def test_never_cut(self):
        options = ("eval", "mini", "--max-tokens", "200", "--keep-ratio", "1,0.5",
                   "--prune-after", "2000")
        # The effective prune_after leaves 50 tokens: force the case with a ratio that rounds up.
        for extra in (("--keep-ratio", "0.999"), ("--keep-ratio", "0.5", "--skip-layers",
                                                  "0,1,2,3,4,5")):
            arguments = ("eval", "mini", "--max-tokens", "120", "--prune-after", "50", *extra)
            code, out, err = self.run_program(*arguments, "--json")
            self.assertEqual(code, 3, err)
            rows = json.loads(out)["rows"]
            self.assertTrue(all(text["never_cut"] for text in rows[1]["texts"]))
            lines = err.decode().splitlines()
            self.assertEqual(len(lines), 2)
            for line, text in zip(lines, rows[1]["texts"]):
                self.assertIn("nothing was cut in " + text["text"], line)
                self.assertIn("keep " + extra[1], line)
            self.ok(*arguments, "--allow-no-cuts")
        rows = self.document(*options)["rows"]
        self.assertEqual(rows[1]["texts"][0]["effective_prune_after"], 150)

    def test_triggers_and_slots(self):
        reaches = self.document("eval", "mini", "--trigger", "reaches", "--keep-ratio", "0.7")
        text = reaches["rows"][1]["texts"][0]
        self.assertEqual([text["cuts"], text["tokens_scored"]], [[0] + [11] * 5, 767])
        slots = self.document("eval", "mini", "--keep-slots", "64", "--score", "recent",
                              "--sinks", "4", "--max-tokens", "300", "--prune-after", "100")
        row = slots["rows"][1]
        self.assertEqual([row["label"], row["keep_ratio"], row["press"], row["sinks"]],
                         ["64 slots", None, "recent", 4])
        self.assertTrue(all(row["texts"][0]["cuts"][1:]))

    def test_prune_after_zero(self):
        row = self.document("eval", "mini", "--max-tokens", "100", "--prune-after", "0",
                            "--keep-ratio", "0.5")["rows"][1]
        self.assertEqual(row["texts"][0]["effective_prune_after"], 32)

    def test_sources(self):
        body = "A simple sentence about a river and a boat, told again. " * 12
        plain, short = self.folder / "plain.txt", self.folder / "short.txt"
        plain.write_text(body)
        short.write_text("Too short.")
        options = ("--max-tokens", "60", "--keep-ratio", "1")
        rows = self.document("eval", "mini", "--text", plain, short, *options)["rows"]
        self.assertEqual([t["text"] for t in rows[0]["texts"]], ["plain.txt", "short.txt"])
        self.assertEqual(rows[0]["texts"][1]["tokens_scored"], 0)
        self.assertIn("too short, not scored",
                      self.ok("eval", "mini", "--text", plain, short, *options))
        self.fails(4, ["34"], "eval", "mini", "--text", short, *options)
        lines = self.folder / "texts.jsonl"
        lines.write_text(json.dumps({"text": body}) + "\n")
        jsonl = self.document("eval", "mini", "--dataset", f"jsonl:{lines}", *options)["rows"]
        self.assertEqual(jsonl[0]["digest"], rows[0]["digest"])
        wiki = self.folder / "wiki.txt"
        wiki.write_text(f" \n = One = \n \n {body}\n \n = Two = \n \n {body}\n")
        articles = self.document("eval", "mini", "--dataset", "wikitext", "--text", wiki, *options)
        self.assertEqual([t["text"] for t in articles["rows"][0]["texts"]],
                         ["wiki.txt: One", "wiki.txt: Two"])
        self.document("eval", "mini", "--dataset", "wikitext", "--unit", "paragraph", "--text",
                      wiki, *options)
        books = self.folder / "books"
        books.mkdir()
        (books / "1.txt").write_text(
            "Header\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\n" + body +
            "\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\nFooter\n")
        book = self.document("eval", "mini", "--dataset", "pg19", "--text", books, *options)
        self.assertEqual(book["rows"][0]["digest"], rows[0]["digest"])
        bos = self.document("eval", "mini", "--text", plain, "--bos", *options)["rows"]
        self.assertNotEqual(bos[0]["digest"], rows[0]["digest"])

    def test_errors(self):
        self.fails(4, ["max_tokens", "1025", "found 1026"], "eval", "mini", "--max-tokens", "1026")
        self.fails(4, ["skip_layers", "0 to 5", "found 9"], "eval", "mini", "--skip-layers", "9")
        self.fails(4, ["nowhere.txt"], "eval", "mini", "--text", self.folder / "nowhere.txt")
        self.fails(4, [str(self.folder)], "eval", "mini", "--text", self.folder)
        broken = self.folder / "broken.txt"
        broken.write_bytes(b"good \xff bad")
        self.fails(4, ["broken.txt", "byte 5", "UTF-8", "0xff"], "eval", "mini", "--text", broken)
        lines = self.folder / "x.jsonl"
        lines.write_text('{"text": "a"}\n{"words": 1}\n')
        self.fails(4, ["x.jsonl", "line 2", "text"], "eval", "mini", "--dataset", f"jsonl:{lines}")


class Plan(Case):
    def test_document(self):
        found = self.document("plan", "--length", "300", "--prune-after", "256", "--keep-ratio",
                              "0.5,1")
        self.assertEqual([found["length"], found["prune_after"], found["effective_prune_after"]],
                         [300, 256, 250])
        self.assertEqual(found["rows"][0], {"keep_ratio": 0.5, "cuts": 1, "plan": [
            {"token": 250, "before": 251, "after": 126}]})
        self.assertEqual(found["rows"][1]["cuts"], 0)
        self.assertIn("251->126", self.ok("plan", "--length", "300", "--keep-ratio", "0.5"))
