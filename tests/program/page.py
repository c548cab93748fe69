# SPDX-License-Identifier: Apache-2.0
"""The page of eval --html and the series beside it."""
import csv
import json
import math
import os
import re
import shutil
import stat
import xml.etree.ElementTree
from html.parser import HTMLParser

from .case import TEXTS, Case, environment

SECTIONS = ["ratio", "length", "survival", "age", "since-cut", "cuts", "alr", "tables",
            "origin"]
VOID = {"meta", "br"}


class Balanced(HTMLParser):
    """What a browser's parser sees: every element closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.addresses, self.problems = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.note(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.note(attributes)

    def note(self, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                self.addresses.append(value)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append((tag, self.getpos()))


class Page(Case):
    def page(self, *arguments, status=0, **options):
        path = self.folder / "page.html"
        found = self.document("eval", "mini", *arguments, "--html", path, status=status, **options)
        self.assertEqual(sorted(p.name for p in self.folder.glob("page*")), ["page.html"])
        return found, path.read_text(encoding="utf-8")

    def needs_gnuplot(self):
        if shutil.which("gnuplot") is None:
            print("SKIP page: gnuplot is not installed")
            self.skipTest("gnuplot is not installed")

    def parsed(self, page):
        parser = Balanced()
        parser.feed(page)
        parser.close()
        self.assertEqual([parser.open, parser.problems], [[], []])
        self.assertEqual(len(parser.ids), len(set(parser.ids)))
        for address in parser.addresses:
            self.assertRegex(address, r"\A#[\w-]+\Z")
            self.assertIn(address[1:], parser.ids)
        self.assertNotRegex(page, r"(?i)https?:|//[a-z]|url\((?!#)|@import|<script|<link|<img|<image")
        self.assertNotRegex(page, r"color=.(white|#fff)")
        # Colours are those of the style sheet, so that they follow its scheme.
        defined = set(re.findall(r"(--\w+):", page))
        self.assertLessEqual(set(re.findall(r"var\((--\w+)\)", page)), defined)
        return xml.etree.ElementTree.fromstring(page)

    def numbers(self, root, table):
        """Row name -> the machine-readable values of its cells, None for a dash."""
        body = root.find(f".//table[@id='{table}']/tbody")
        rows = {}
        for row in body.findall("tr"):
            values = []
            for cell in row.findall("td"):
                data = cell.find("data")
                values.append(float(data.get("value")) if data is not None else
                              None if cell.text == "-" else cell.text)
            rows["".join(row.find("th").itertext())] = values
        return rows

    def test_everything_is_there(self):
        self.needs_gnuplot()
        series = self.folder / "series.csv"
        options = ("--score", "knorm,keydiff", "--keep-ratio", "0.7,0.25", "--prune-after", "60",
                   "--max-tokens", "200", "--controls")
        found, page = self.page(*options, "--series", series)
        root = self.parsed(page)
        self.assertEqual([s.get("id") for s in root.iter("section")], SECTIONS)
        rows = found["rows"]
        # Two budgets; knorm, keydiff, random, random-fresh and recent at each.
        budgets, scores = 2, 5
        promised = {"ratio": 2, "length": 1, "survival": budgets * scores, "age": budgets,
                    "since-cut": budgets, "cuts": budgets, "alr": 4, "tables": 0, "origin": 0}
        for section in root.iter("section"):
            pictures = section.findall(".//figure/svg")
            self.assertEqual(len(pictures), promised[section.get("id")], section.get("id"))
            self.assertEqual(len(list(section.iter("svg"))), len(pictures))
            for picture in pictures:
                self.assertTrue(picture.get("aria-label"))
                drawn = sum(1 for _ in picture.iter("path")) + sum(1 for _ in picture.iter("polygon"))
                self.assertGreater(drawn, 5)
        quality = self.numbers(root, "quality")
        self.assertEqual(len(quality), len(rows))
        for row, values in zip(rows, quality.values()):
            interval = row["log_ratio_interval"]
            ends = [math.exp(interval[k]) for k in ("low", "high")] if interval else [None, None]
            expected = [row["perplexity"], row["ratio"], *ends, row["accuracy"], row["agreement"],
                        row["kl"], row["bits_per_byte"], row["share_after_cut"]]
            for value, other in zip(values, expected):
                if other is None:
                    self.assertIsNone(value)
                else:
                    self.assertAlmostEqual(value, other, delta=1e-12 * abs(other))
            self.assertEqual(values[-1], str(row["tokens_scored"]))
        memory = self.numbers(root, "memory")
        for row, values in zip(rows, memory.values()):
            self.assertEqual(values[:4], [row["mean_slots"], row["mean_bytes"], row["peak_bytes"],
                                          row["peak_resident_bytes"]])
            self.assertEqual(values[5], row["digest"])
        controls = self.numbers(root, "controls")
        self.assertEqual(len(found["controls"]), 4)
        self.assertEqual(set(controls), {"random", "random-fresh"})
        texts = self.numbers(root, "texts")
        for name, values in texts.items():
            of_rows = [next(t for t in row["texts"] if t["text"] == name) for row in rows
                       if not row["control"]]
            self.assertEqual(values[:2], [str(of_rows[0]["tokens"]),
                                          str(of_rows[0]["tokens_scored"])])
            for value, text in zip(values[3:], of_rows[1:]):
                self.assertAlmostEqual(value, text["ratio"], delta=1e-12)
        # Buckets under the pictures.
        for section, kind in (("since-cut", "since_cut"), ("cuts", "cuts")):
            tables = root.findall(f".//section[@id='{section}']//details//table")
            for budget, table in zip((0.7, 0.25), tables):
                knorm = next(r for r in rows if r["press"] == "knorm" and r["keep_ratio"] == budget)
                lines = table.findall("tr")[1:]
                self.assertEqual([line.findall("td")[1].text for line in lines],
                                 [str(b["tokens"]) for b in knorm["buckets"][kind]])
                self.assertEqual([float(line.findall("td")[2].find("data").get("value"))
                                  for line in lines],
                                 [b["log_ratio"] for b in knorm["buckets"][kind]])
        text = "".join(root.find(".//section[@id='origin']").itertext())
        self.assertIn("neoxref eval mini --score knorm,keydiff --keep-ratio 0.7,0.25", text)
        self.assertIn("gnuplot ", text)
        self.assertIn("model.safetensors", text)
        self.check_series(series, rows)

    def check_series(self, path, rows):
        with open(path, newline="") as file:
            lines = list(csv.DictReader(file))
        for index, row in enumerate(rows):
            own = [line for line in lines if int(line["row"]) == index]
            for kind, buckets in row["buckets"].items():
                for field in ("log_ratio", "kl"):
                    self.assertEqual([(int(x["first"]), int(x["last"]), int(x["count"]),
                                       float(x["value"])) for x in own
                                      if x["series"] == f"{field}_by_{kind}"],
                                     [(b["first"], b["last"], b["tokens"], b[field])
                                      for b in buckets])
            survival = row["survival"]
            self.assertLessEqual(len(survival["entered"]), 64)
            for name, field in (("held_by_position", "share"), ("held_by_age", "share_by_age")):
                for layer, shares in enumerate(survival[field]):
                    found = [x for x in own if x["series"] == name and int(x["layer"]) == layer]
                    self.assertEqual([float(x["value"]) for x in found], shares)
                    self.assertEqual(int(found[-1]["last"]), survival["positions"] - 1)
                    self.assertTrue(all(0 <= share <= 1 for share in shares))
            held = [share for layer in survival["share"][1:] for share in layer]
            if row["press"] == "none":
                self.assertEqual(survival["share"], [])
            else:
                self.assertLess(min(held), 1)
            # The saw by the steps of the cuts.
            lengths = [float(x["value"]) for x in own if x["series"] == "length"]
            cut = {step["token"]: step["before"] - step["after"] for step in row["texts"][0]["steps"]}
            slots, expected = 0, []
            for token in range(len(lengths)):
                slots += 1 - cut.get(token, 0)
                expected.append(slots)
            self.assertEqual(lengths, expected)

    def test_slots_and_several_limits(self):
        self.needs_gnuplot()
        found, page = self.page("--keep-slots", "40", "--prune-after", "60,90", "--max-tokens", "160")
        root = self.parsed(page)
        # No share to draw against: only the picture against bytes, for each limit.
        self.assertEqual(len(root.findall(".//section[@id='ratio']//svg")), 2)
        self.assertEqual(len(root.findall(".//section[@id='length']//svg")), 2)
        self.assertIn("prune_after 90", page)
        self.assertEqual(len(found["rows"]), 4)

    def test_nothing_compressed(self):
        self.needs_gnuplot()
        _, page = self.page("--keep-ratio", "1", "--max-tokens", "100")
        root = self.parsed(page)
        self.assertEqual([s.get("id") for s in root.iter("section")], ["tables", "origin"])
        self.assertEqual(list(root.iter("svg")), [])

    def test_names_from_files(self):
        self.needs_gnuplot()
        body = (TEXTS / "pg19_10146_excerpt.txt").read_text()[:3000]
        names = [b'a"b<c>.txt', b"&amp;'x'\n; system('touch gone').txt", b"bad\xff\xed\xa0\x80.txt",
                 "\u202egnol \u00e9.txt".encode()]
        for name in names:
            with open(os.path.join(os.fsencode(self.folder), name), "w") as file:
                file.write(body)
        paths = [os.path.join(os.fsencode(self.folder), name) for name in names]
        _, page = self.page("--text", *paths, "--max-tokens", "100", "--keep-ratio", "0.5",
                            cwd=self.folder)
        root = self.parsed(page)
        shown = list(self.numbers(root, "texts"))
        self.assertEqual(shown, ['a"b<c>.txt', "&amp;'x'\\x0a; system('touch gone').txt",
                                 "bad\ufffd\ufffd\ufffd\ufffd.txt", "\u202egnol \u00e9.txt"])
        self.assertFalse((self.folder / "gone").exists())
        command = "".join(root.find(".//section[@id='origin']//code").itertext())
        self.assertIn("""'""" + str(self.folder) + """/a"b<c>.txt'""", command)

    def test_errors_leave_the_old_page(self):
        page = self.folder / "page.html"
        page.write_text("old")
        options = ("eval", "mini", "--max-tokens", "100", "--keep-ratio", "0.5", "--html", page)
        empty = self.folder / "empty"
        empty.mkdir()
        self.fails(4, ["gnuplot", "is not installed", "gnuplot-nox"], *options,
                   env=environment(PATH=str(empty)))
        broken = empty / "gnuplot"
        for script, fragment in (("echo 'line 0: no such terminal' >&2; exit 1", "no such terminal"),
                                 ("kill -9 $$", "nothing said"),
                                 ("echo gnuplot 9", "no SVG")):
            broken.write_text("#!/bin/sh\n" + script + "\n")
            broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
            self.fails(4, ["gnuplot", fragment], *options,
                       env=environment(PATH=f"{empty}:{os.environ['PATH']}"))
            self.assertEqual(page.read_text(), "old")
        nowhere = self.folder / "none" / "page.html"
        self.fails(4, [str(nowhere)], *options[:-1], nowhere)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["empty", "page.html"])
