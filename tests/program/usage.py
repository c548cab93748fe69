# SPDX-License-Identifier: Apache-2.0
"""Help, and command lines that make no sense: exit status 2."""
from .case import COMMANDS, environment, Case


class Help(Case):
    def test_every_command_has_help(self):
        self.assertRegex(self.ok("--version"), r"\Aneoxref \d+\.\d+\.\d+\n\Z")
        text = self.ok("--help")
        for command in COMMANDS:
            self.assertIn("\n  " + command + " ", text)
            own = self.ok(command, "--help")
            self.assertIn("Usage: neoxref " + command, own)
            for option in ("--isa", "--backend", "--threads", "--json"):
                self.assertIn(option + " ", own)
            for line in own.splitlines():
                self.assertLessEqual(len(line), 100, line)
        for status in "01234":
            self.assertIn(status, text.split("Exit status:")[1])


class Usage(Case):
    def test_commands(self):
        self.fails(2, ["no such command", "run, eval", "found nothing"])
        self.fails(2, ["no such command", "run, eval", "found frob"], "frob")
        self.fails(2, ["no such command", "--frob"], "--frob")
        self.fails(2, ["run", "MODEL"], "run")
        self.fails(2, ["run", "--frob"], "run", "mini", "--prompt", "a", "--frob")
        self.fails(2, ["run", "extra"], "run", "mini", "extra", "--prompt", "a")

    def test_one_source_of_text(self):
        for command, rest in (("run", ()), ("logits", ("-o", self.folder / "x.npy")),
                              ("tokenize", ())):
            self.fails(2, [command + ": ", "exactly one of", "--file"], command, "mini", *rest)
            other = "--prompt" if command == "run" else "--text"
            self.fails(2, ["exactly one of"], command, "mini", other, "a", "--file", "b", *rest)
        self.fails(2, ["--jsonl", "--json"], "tokenize", "mini", "--jsonl", "x", "--json")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_numbers(self):
        for option, found in (("--max-new", "-1"), ("--max-new", "abc"), ("--max-new", ""),
                              ("--max-new", "1.5"), ("--max-new", "+3"), ("--max-new", "0x10"),
                              ("--max-new", "9" * 30), ("--top-k", "-1"), ("--seed", "-1"),
                              ("--seed", "18446744073709551616"), ("--threads", "0"),
                              ("--threads", "100000"), ("--logprobs", "0"),
                              ("--temperature", "nan"), ("--temperature", "-1"),
                              ("--temperature", "inf"), ("--temperature", "1e-40"),
                              ("--temperature", "1e300"), ("--temperature", "1x"),
                              ("--top-p", "0"), ("--top-p", "1.01"), ("--top-p", "nan")):
            with self.subTest(option=option, found=found):
                self.fails(2, ["run: " + option, "expected", "found " + (found or "nothing")],
                           "run", "mini", "--prompt", "a", option, found)
        self.fails(2, ["--max-new"], "run", "mini", "--prompt", "a", "--max-new")
        self.fails(2, ["--max-new"], "run", "mini", "--prompt", "a", "--max-new", "1",
                   "--max-new", "2")
        self.fails(2, ["--max-tokens", "34", "found 33"], "eval", "mini", "--max-tokens", "33")
        self.fails(2, ["--length", "34", "found 3"], "plan", "--length", "3", "--keep-ratio", "0.5")
        self.fails(2, ["--length"], "plan", "--length", "9" * 12, "--keep-ratio", "0.5")
        self.fails(2, ["--length"], "plan", "--keep-ratio", "0.5")
        self.fails(2, ["--output"], "logits", "mini", "--tokens", "1")

    def test_compression(self):
        for ratio in ("0", "1.5", "abc", "", "-0.5", "nan", "1e-1", "0.0000000001", "0.5,", "1,2"):
            for command in (("run", "mini", "--prompt", "a"), ("eval", "mini"),
                            ("plan", "--length", "99")):
                with self.subTest(command=command[0], ratio=ratio):
                    self.fails(2, [command[0] + ": --keep-ratio", "above 0 and at most 1"],
                               *command, "--keep-ratio", ratio)
        self.fails(2, ["--keep-ratio", "found 0.5,0.1"], "run", "mini", "--prompt", "a",
                   "--keep-ratio", "0.5,0.1")
        self.fails(2, ["--prune-after", "found -1"], "eval", "mini", "--prune-after", "-1")
        self.fails(2, ["--prune-after"], "eval", "mini", "--prune-after", str(2**64 - 1))
        for layers in ("x", "", "0,", "-1", "1-2"):
            self.fails(2, ["--skip-layers", "found"], "eval", "mini", "--skip-layers", layers)
        for option in (("--prune-after", "1"), ("--skip-layers", "0"), ("--allow-no-cuts",)):
            self.fails(2, [option[0], "needs --keep-ratio"], "run", "mini", "--prompt", "a",
                       *option)

    def test_names(self):
        self.fails(2, ["--backend", "tbb, openmp or serial", "found cuda"], "run", "mini",
                   "--prompt", "a", "--backend", "cuda")
        self.fails(2, ["--isa", "sse9", "usable here: scalar"], "run", "mini", "--prompt", "a",
                   "--isa", "sse9")
        self.fails(2, ["--isa", "found nothing"], "run", "mini", "--prompt", "a", "--isa", "")
        foreign = "neon" if "neon" not in self.usable_isas() else "avx512"
        self.fails(2, ["--isa", foreign, "usable here"], "run", "mini", "--prompt", "a", "--isa",
                   foreign)
        self.fails(2, ["NEOXREF_ISA", "sse9"], "run", "mini", "--prompt", "a",
                   env=environment(NEOXREF_ISA="sse9"))
        forced = self.document("run", "mini", "--prompt", "a", "--max-new", "1",
                               env=environment(NEOXREF_ISA="scalar"))
        self.assertEqual(forced["machine"]["isa"], "scalar")
        self.fails(2, ["--dataset", "found c4"], "eval", "mini", "--dataset", "c4")
        self.fails(2, ["--dataset", "--text"], "eval", "mini", "--dataset", "jsonl:x", "--text", "y")
        self.fails(2, ["--dataset", "--text"], "eval", "mini", "--dataset", "jsonl:x", "--text",
                   "y")
        self.fails(2, ["--unit", "wikitext"], "eval", "mini", "--unit", "article")
        self.fails(2, ["--unit", "page"], "eval", "mini", "--dataset", "wikitext", "--unit", "page")
        self.fails(2, ["--stop", "nothing"], "run", "mini", "--prompt", "a", "--stop", "")
        self.fails(2, ["--logprobs", "--json"], "run", "mini", "--prompt", "a", "--logprobs", "2")
