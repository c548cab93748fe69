#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The conformance kit: the committed one is what the program makes, another implementation passes it, and
wrong answers are found.

usage: run.py PATH_TO_NEOXREF
"""

import filecmp
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
KIT = HERE.parent.parent / "datasets" / "conformance"
PROGRAM = []
LEVELS = ["operation", "layer", "model", "generation"]


def neoxref(*arguments, stdin=None):
    environment = {**os.environ, "NEOXREF_DATA_DIR": str(KIT.parent)}
    return subprocess.run([*PROGRAM, "conform", *map(str, arguments)], input=stdin, text=True,
                          capture_output=True, check=False, env=environment)


def cases():
    with open(KIT / "kit.jsonl", encoding="ascii") as kit:
        return [json.loads(line) for line in kit][1:]


def answer_lines(change=None):
    """The answers of the kit itself, changed where asked."""
    head = {"format": "neoxref-answers/1", "contract": "NX-F32/1"}
    answers = {case["id"]: case["expected"] for case in cases()}
    if change:
        change(head, answers)
    lines = [head] + [{"id": name, "output": output} for name, output in answers.items()]
    return "".join(json.dumps(line) + "\n" for line in lines)


class Kit(unittest.TestCase):
    def test_the_committed_kit_is_what_the_program_makes(self):
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "kit"
            result = neoxref("--make", "-o", made)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            names = sorted(p.relative_to(made) for p in made.rglob("*") if p.is_file())
            committed = sorted(p.relative_to(KIT) for p in KIT.rglob("*")
                               if p.is_file() and p.name != "README.md")
            self.assertEqual(names, committed)
            for name in names:
                self.assertTrue(filecmp.cmp(made / name, KIT / name, shallow=False), name)
            self.assertEqual(neoxref("--make", "-o", made).returncode, 4)

    def test_every_hard_argument_is_asked(self):
        asked = {}
        for case in cases():
            if case["operation"] == "function":
                pairs = zip(case["input"]["x"].split(), case["expected"]["y"].split())
                asked.setdefault(case["input"]["function"], {}).update(pairs)
        fixture = HERE.parent / "fixtures" / "function_hard_cases.txt"
        count = 0
        for line in fixture.read_text(encoding="ascii").splitlines():
            if not line.startswith("#"):
                name, argument, result = line.split()
                self.assertEqual(asked[name][argument], result, line)
                count += 1
        self.assertGreater(count, 200)

    def test_a_second_implementation_conforms(self):
        try:
            import mpmath
            import numpy
        except ImportError as error:
            print(f"SKIP conformance: {error}")
            self.skipTest(str(error))
        del mpmath, numpy
        made = subprocess.run([sys.executable, HERE / "implementation.py", KIT], text=True,
                              capture_output=True, check=False,
                              env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        self.assertEqual((made.returncode, made.stderr), (0, ""))
        result = neoxref("-", stdin=made.stdout)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertTrue(result.stdout.endswith("conforms to NX-F32/1\n"))


class Grading(unittest.TestCase):
    def grades(self, change, *arguments):
        result = neoxref("-", "--json", *arguments, stdin=answer_lines(change))
        self.assertEqual(result.stderr, "")
        document = json.loads(result.stdout)
        self.assertEqual(document["conformant"], result.returncode == 0)
        return result.returncode, {grade["level"]: grade for grade in document["levels"]}

    def test_right_answers_pass(self):
        code, grades = self.grades(None)
        self.assertEqual((code, list(grades)), (0, LEVELS))
        self.assertEqual(sum(grade["passed"] for grade in grades.values()), len(cases()))

    def test_one_wrong_bit_is_found(self):
        def change(_, answers):
            words = answers["dot/wide"]["y"]
            answers["dot/wide"]["y"] = f"{int(words, 16) ^ 1:08x}"
        code, grades = self.grades(change)
        self.assertEqual((code, grades["operation"]["failed"]), (1, 1))
        first = grades["operation"]["first_failure"]
        self.assertEqual((first["id"], first["place"]), ("dot/wide", "y"))
        self.assertNotEqual(first["expected"], first["found"])
        self.assertEqual(grades["layer"]["failed"], 0)
        text = neoxref("-", stdin=answer_lines(change))
        self.assertEqual(text.returncode, 1)
        self.assertIn("first: dot/wide, y\n", text.stdout)
        self.assertIn(first["found"], text.stdout)

    def test_places_inside_an_answer(self):
        def late_row(_, answers):
            rows = answers["layer/parallel-1"]["gpt_neox.layers.1.mlp.act"]
            words = rows[3].split()
            words[17] = "00000000"
            rows[3] = " ".join(words)
        _, grades = self.grades(late_row)
        self.assertEqual(grades["layer"]["first_failure"]["place"],
                         "gpt_neox.layers.1.mlp.act[3], number 17")

        def short(_, answers):
            answers["layer_norm/5"]["y"] = answers["layer_norm/5"]["y"][:-9]
            del answers["attend/1-slots-of-16"]["scale"]
            answers["argmax/ties"]["more"] = 1
            answers["rotary_dims/16-0"]["rotary_dims"] = 1
            answers["philox/words"]["words"].pop()
        _, grades = self.grades(short)
        self.assertEqual(grades["operation"]["failed"], 5)

    def test_nan_is_any_nan_and_case_does_not_matter(self):
        def change(_, answers):
            for answer in answers.values():
                for name, value in answer.items():
                    if isinstance(value, str) and name == "y":
                        answer[name] = value.replace("7fc00000", "ffc00001").upper()
        self.assertEqual(self.grades(change)[0], 0)

    def test_missing_answers_fail_where_they_are_asked_for(self):
        def only_operations(_, answers):
            for case in cases():
                if case["level"] != "operation":
                    del answers[case["id"]]
        code, grades = self.grades(only_operations)
        self.assertEqual(code, 1)
        self.assertGreater(grades["model"]["missing"], 0)
        self.assertEqual(grades["model"]["first_failure"]["found"], "no answer")
        code, grades = self.grades(only_operations, "--level", "operation")
        self.assertEqual((code, list(grades)), (0, ["operation"]))

    def test_another_kit(self):
        with tempfile.TemporaryDirectory() as folder:
            kit = Path(folder) / "small.jsonl"
            lines = (KIT / "kit.jsonl").read_text(encoding="ascii").splitlines(True)
            kit.write_text("".join(lines[:2]), encoding="ascii")
            case = json.loads(lines[1])
            answers = json.dumps({"format": "neoxref-answers/1", "contract": "NX-F32/1"}) + "\n"
            answers += json.dumps({"id": case["id"], "output": case["expected"]})
            self.assertEqual(neoxref("-", "--kit", kit, stdin=answers).returncode, 0)

    def test_bad_answers_files(self):
        def other_contract(head, _):
            head["contract"] = "NX-F32/2"

        def other_format(head, _):
            head["format"] = "neoxref-conformance/1"

        def unknown(_, answers):
            answers["dot/66"] = {"y": "00000000"}
        for change, words in ((other_contract, "NX-F32/2"), (other_format, "neoxref-answers/1"),
                              (unknown, "dot/66")):
            result = neoxref("-", stdin=answer_lines(change))
            self.assertEqual((result.returncode, result.stdout), (4, ""))
            self.assertIn(words, result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1)
        twice = answer_lines() + json.dumps({"id": "dot/65", "output": {}}) + "\n"
        for text in (twice, "", "{\n", answer_lines() + "[]\n", answer_lines() + '{"id": "x"}\n',
                     answer_lines()[:-30]):
            result = neoxref("-", stdin=text)
            self.assertEqual((result.returncode, result.stdout), (4, ""), text[-40:])

    def test_usage(self):
        for arguments in ([], ["--make"], ["-", "-o", "x"], ["-", "--level", "letters"],
                          ["--make", "-o", "x", "-"]):
            self.assertEqual(neoxref(*arguments, stdin="").returncode, 2, arguments)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit("usage: run.py PATH_TO_NEOXREF [unittest arguments]")
    PROGRAM[:] = [os.path.abspath(sys.argv[1])]
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
