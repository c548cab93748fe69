#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The program as a user meets it: documents, exit statuses, errors, files, pipes.

usage: python3 tests/program_test.py PATH_TO_NEOXREF [unittest arguments]

Needs only the standard library. Checkpoints are made here from the bytes of the embedded default.
"""
import json
import os
import pathlib
import pty
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
MINI = ROOT / "datasets" / "mini"
TEXTS = ROOT / "datasets" / "texts"
MALFORMED = ROOT / "tests" / "fixtures" / "malformed"
PROGRAM = ""
COMMANDS = ("run", "eval", "plan", "verify", "logits", "tokenize", "inspect")
PROMPT = "The old man looked at the sea and"


def environment(**changes):
    values = dict(os.environ, NEOXREF_DATA_DIR=str(ROOT / "datasets"), LC_ALL="C")
    values.pop("NEOXREF_ISA", None)
    values.update(changes)
    return values


def encoded(argument):
    return argument if isinstance(argument, bytes) else str(argument).encode()


class Safetensors:
    """Just enough of the format to rewrite a file."""

    def __init__(self, path):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        self.header = json.loads(data[8:8 + length])
        self.header.pop("__metadata__", None)
        self.body = bytearray(data[8 + length:])

    def write(self, path, names=None):
        header, body = {}, b""
        for name in names if names is not None else self.header:
            entry = self.header[name]
            first, last = entry["data_offsets"]
            header[name] = dict(entry, data_offsets=[len(body), len(body) + last - first])
            body += bytes(self.body[first:last])
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="neoxref_test_")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def start(self, *arguments, **options):
        options.setdefault("env", environment())
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen([PROGRAM, *map(encoded, arguments)], **options)

    def run_program(self, *arguments, input=None, **options):
        if input is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*arguments, **options) as process:
            out, err = process.communicate(input, timeout=50)
        return process.returncode, out, err

    def ok(self, *arguments, status=0, **options):
        code, out, err = self.run_program(*arguments, **options)
        self.assertEqual(code, status, err)
        return out.decode()

    def document(self, *arguments, status=0, **options):
        """Standard output is one JSON document."""
        return json.loads(self.ok(*arguments, "--json", status=status, **options))

    def fails(self, status, fragments, *arguments, **options):
        """One line on standard error that holds the fragments, nothing on standard output."""
        code, out, err = self.run_program(*arguments, **options)
        line = err.decode(errors="replace")
        shown = f"{arguments}: status {code}, standard error {line!r}"
        self.assertEqual(code, status, shown)
        self.assertEqual(out or b"", b"", shown)
        self.assertRegex(line, r"\Aneoxref: [^\x00-\x1f\x7f]+\n\Z", shown)
        for fragment in fragments:
            self.assertIn(fragment, line, shown)

    def checkpoint(self, name="model", config=None, without=()):
        folder = self.folder / name
        folder.mkdir()
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            if file not in without:
                shutil.copy(MINI / file, folder / file)
        if config:
            values = json.loads((MINI / "config.json").read_text())
            values.update(config)
            (folder / "config.json").write_text(json.dumps(values))
        return folder

    def usable_isas(self):
        _, _, err = self.run_program("run", "mini", "--prompt", "a", "--isa", "none-such")
        return err.decode().split("usable here: ")[1].rstrip(")\n").split(", ")

    def ids(self, text):
        return self.document("tokenize", "mini", "--text", text)["ids"]

    def assertMachine(self, machine):
        self.assertEqual(set(machine), {"isa", "backend", "threads"})
        self.assertIn(machine["isa"], self.usable_isas())
        self.assertIn(machine["backend"], ("tbb", "openmp", "serial"))
        self.assertGreaterEqual(machine["threads"], 1)

    def assertDigest(self, digest):
        self.assertRegex(digest, r"\A[0-9a-f]{32}\Z")


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
            self.fails(2, [option[0], "needs --keep-ratio"], "run", "mini", "--prompt", "a", *option)

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
        self.fails(2, ["--dataset", "--text"], "eval", "mini", "--dataset", "pg19")
        self.fails(2, ["--dataset", "--text"], "eval", "mini", "--dataset", "jsonl:x", "--text", "y")
        self.fails(2, ["--unit", "wikitext"], "eval", "mini", "--unit", "article")
        self.fails(2, ["--unit", "page"], "eval", "mini", "--dataset", "wikitext", "--unit", "page")
        self.fails(2, ["--stop", "nothing"], "run", "mini", "--prompt", "a", "--stop", "")
        self.fails(2, ["--logprobs", "--json"], "run", "mini", "--prompt", "a", "--logprobs", "2")


class Run(Case):
    def generate(self, *options, **more):
        return self.document("run", "mini", "--prompt", PROMPT, *options, **more)

    def test_document(self):
        found = self.generate("--max-new", "12", "--logprobs", "3")
        self.assertEqual(set(found), {"text", "tokens", "prompt_tokens", "finish", "digest",
                                      "load_seconds", "time_to_first_token", "tokens_per_second",
                                      "machine", "logprobs"})
        self.assertEqual(len(found["tokens"]), 12)
        self.assertEqual(found["finish"], "max_new")
        self.assertEqual(found["prompt_tokens"], self.ids(PROMPT))
        self.assertGreater(found["time_to_first_token"], 0)
        self.assertGreater(found["tokens_per_second"], 0)
        self.assertDigest(found["digest"])
        self.assertMachine(found["machine"])
        ids = ",".join(map(str, found["tokens"]))
        self.assertEqual(self.ok("tokenize", "mini", "--decode", "--text", ids), found["text"])
        for token, row in zip(found["tokens"], found["logprobs"]):
            self.assertEqual([len(row), row[0]["id"]], [3, token])
            self.assertLessEqual(row[1]["logprob"], row[0]["logprob"])
            self.assertLess(row[0]["logprob"], 0)
        code, out, err = self.run_program("run", "mini", "--prompt", PROMPT, "--max-new", "12")
        self.assertEqual((code, out.decode()), (0, found["text"] + "\n"))
        self.assertIn("digest " + found["digest"], err.decode())
        self.assertIn("first token after", err.decode())
        self.assertNotIn("\r", err.decode())

    def test_text_from_files_and_pipes(self):
        expected = self.generate("--max-new", "4")["digest"]
        path = self.folder / "prompt.txt"
        path.write_text(PROMPT)
        self.assertEqual(self.document("run", "mini", "--file", path, "--max-new", "4")["digest"],
                         expected)
        piped = self.document("run", "mini", "--file", "-", "--max-new", "4", input=PROMPT.encode())
        self.assertEqual(piped["digest"], expected)
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        self.fails(4, ["fifo", "is empty"], "run", "mini", "--file", fifo)  # and does not hang

    def test_no_new_tokens(self):
        found = self.generate("--max-new", "0")
        self.assertEqual([found["text"], found["tokens"], found["finish"]], ["", [], "max_new"])
        self.assertIsNone(found["time_to_first_token"])
        self.assertIsNone(found["tokens_per_second"])
        self.assertIsNone(self.generate("--max-new", "1")["tokens_per_second"])

    def test_stop(self):
        whole = self.generate("--max-new", "24")
        pieces = [self.ok("tokenize", "mini", "--decode", "--text", str(id))
                  for id in whole["tokens"][:8]]
        across = pieces[4][-1] + pieces[5][0]
        cut = whole["text"].find(across)
        found = self.generate("--max-new", "24", "--stop", across)
        self.assertEqual([found["text"], found["finish"]], [whole["text"][:cut], "stop"])
        self.assertLess(len(found["tokens"]), 24)
        plain = self.ok("run", "mini", "--prompt", PROMPT, "--max-new", "24", "--stop", across)
        self.assertEqual(plain, whole["text"][:cut] + "\n")
        earlier = whole["text"][1:3]
        found = self.generate("--max-new", "24", "--stop", across, "--stop", "not there", "--stop",
                              earlier)
        self.assertEqual(found["text"], whole["text"][:whole["text"].find(earlier)])
        # A beginning of a stop text at the very end is shown after all.
        found = self.generate("--max-new", "24", "--stop", whole["text"][-1] + "\x01never")
        self.assertEqual([found["text"], found["finish"]], [whole["text"], "max_new"])

    def test_end_of_text(self):
        whole = self.generate("--max-new", "8")
        last = whole["tokens"][3]
        model = self.checkpoint(config={"eos_token_id": last})
        stopped = self.document("run", model, "--prompt", PROMPT, "--max-new", "8")
        self.assertEqual(stopped["finish"], "eos")
        self.assertEqual(stopped["tokens"], whole["tokens"][:whole["tokens"].index(last) + 1])
        self.assertTrue(whole["text"].startswith(stopped["text"]))
        going_on = self.document("run", model, "--prompt", PROMPT, "--max-new", "8", "--ignore-eos")
        self.assertEqual(going_on["tokens"], whole["tokens"])

    def test_sampling(self):
        greedy = self.generate("--max-new", "10")["tokens"]
        for options in (("--seed", "7"), ("--temperature", "0.9", "--top-k", "1"),
                        ("--temperature", "2", "--top-p", "0.000001")):
            self.assertEqual(self.generate("--max-new", "10", *options)["tokens"], greedy)
        draws = [tuple(self.generate("--max-new", "10", "--temperature", "1", "--top-k", "50",
                                     "--top-p", "0.95", "--seed", seed)["tokens"])
                 for seed in ("1", "2", "3", "1", "18446744073709551615")]
        self.assertEqual(draws[0], draws[3])
        self.assertEqual(len(set(draws)), 4)
        threads = self.generate("--max-new", "10", "--temperature", "1", "--top-k", "50", "--top-p",
                                "0.95", "--seed", "1", "--threads", "3", "--backend", "openmp")
        self.assertEqual(tuple(threads["tokens"]), draws[0])

    def test_context(self):
        ids = self.ids((TEXTS / "wikitext2_test_excerpt.txt").read_text()[:8000])
        path = self.folder / "long.txt"
        path.write_text((TEXTS / "wikitext2_test_excerpt.txt").read_text()[:8000])
        self.assertGreater(len(ids), 1024)
        self.fails(4, ["prompt", "context", "at most 1024 tokens", f"found {len(ids)}"],
                   "run", "mini", "--file", path)
        full = " hello" * 1020
        count = len(self.ids(full))
        while count != 1024:
            full = full + "\n" if count < 1024 else full[:-1]
            count = len(self.ids(full))
        found = self.document("run", "mini", "--prompt", full, "--max-new", "9")
        self.assertEqual([found["finish"], len(found["tokens"])], ["context", 1])

    def test_compression(self):
        plain = self.generate("--max-new", "30")
        same = self.generate("--max-new", "30", "--keep-ratio", "1", "--prune-after", "4")
        self.assertEqual([same["digest"], same["cuts"]], [plain["digest"], [0] * 6])
        cut = self.generate("--max-new", "30", "--keep-ratio", "0.5", "--prune-after", "16")
        entered = len(plain["prompt_tokens"]) + 29
        self.assertNotEqual(cut["digest"], plain["digest"])
        self.assertEqual(cut["cuts"][0], 0)
        self.assertEqual(cut["lengths"][0], entered)
        self.assertEqual(len(set(cut["cuts"][1:])), 1)
        self.assertGreater(cut["cuts"][1], 1)
        self.assertLess(max(cut["lengths"][1:]), entered)
        none = self.generate("--max-new", "9", "--keep-ratio", "0.5", "--prune-after", "0",
                             "--skip-layers", "none")
        self.assertTrue(all(none["cuts"]))
        options = ("--max-new", "4", "--keep-ratio", "0.5", "--prune-after", "2000")
        code, out, err = self.run_program("run", "mini", "--prompt", PROMPT, "--json", *options)
        self.assertEqual(code, 3)
        self.assertEqual(json.loads(out)["cuts"], [0] * 6)
        self.assertRegex(err.decode(), r"\Aneoxref: [^\n]*0\.5[^\n]*nothing was cut[^\n]*2000[^\n]*\n\Z")
        self.generate(*options, "--allow-no-cuts")
        self.fails(4, ["--skip-layers", "0 to 5", "found 9"], "run", "mini", "--prompt", "a",
                   "--keep-ratio", "0.5", "--skip-layers", "9")

    def test_bits_do_not_depend_on_the_machine_part(self):
        seen = {}
        for isa in self.usable_isas():
            for backend in ("tbb", "openmp", "serial"):
                for threads in ("1", "2", "3"):
                    found = self.generate("--max-new", "3", "--isa", isa, "--backend", backend,
                                          "--threads", threads)
                    machine = found["machine"]
                    self.assertEqual([machine["isa"], machine["backend"]], [isa, backend])
                    self.assertEqual(machine["threads"], 1 if backend == "serial" else int(threads))
                    seen.setdefault(found["digest"], []).append((isa, backend, threads))
        self.assertEqual(len(seen), 1, seen)

    def test_tokens_without_text(self):
        """A model may know more ids than its tokenizer."""
        model = self.checkpoint()
        tokenizer = json.loads((MINI / "tokenizer.json").read_text())
        token = self.generate("--max-new", "1")["tokens"][0]
        vocab = tokenizer["model"]["vocab"]
        # Drop everything from that id on, and what depends on it.
        kept = {text: id for text, id in vocab.items() if id < max(token, 300)}
        tokenizer["model"]["vocab"] = kept
        def is_kept(merge):
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            return left in kept and right in kept and left + right in kept
        tokenizer["model"]["merges"] = [m for m in tokenizer["model"]["merges"] if is_kept(m)]
        tokenizer["added_tokens"] = [a for a in tokenizer["added_tokens"] if a["id"] < len(kept)]
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        found = self.document("run", model, "--prompt", PROMPT, "--max-new", "8", "--logprobs", "2")
        self.assertEqual(len(found["tokens"]), 8)


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
                self.assertIn("keep_ratio " + extra[1], line)
            self.ok(*arguments, "--allow-no-cuts")
        rows = self.document(*options)["rows"]
        self.assertEqual(rows[1]["texts"][0]["effective_prune_after"], 150)

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
        self.fails(4, ["--skip-layers", "0 to 5", "found 9"], "eval", "mini", "--skip-layers", "9")
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


class Logits(Case):
    def test_file(self):
        path = self.folder / "x.npy"
        found = self.document("logits", "mini", "--text", PROMPT, "-o", path)
        ids = self.ids(PROMPT)
        self.assertEqual(found["shape"], [len(ids), 2048])
        self.assertEqual([found["file"], found["tokens"]], [str(path), ids])
        self.assertDigest(found["digest"])
        self.assertMachine(found["machine"])
        data = path.read_bytes()
        self.assertEqual(data[:8], b"\x93NUMPY\x01\x00")
        (length,) = struct.unpack("<H", data[8:10])
        self.assertEqual((10 + length) % 64, 0)
        self.assertEqual(eval(data[10:10 + length]),
                         {"descr": "<f4", "fortran_order": False, "shape": (len(ids), 2048)})
        values = struct.unpack(f"<{len(ids) * 2048}f", data[10 + length:])
        last = values[-2048:]
        greedy = self.document("run", "mini", "--prompt", PROMPT, "--max-new", "1")
        self.assertEqual(last.index(max(last)), greedy["tokens"][0])
        again = self.folder / "y.npy"
        tokens = ", ".join(map(str, ids))
        line = self.ok("logits", "mini", "--tokens", tokens, "-o", again, "--isa", "scalar")
        self.assertIn(found["digest"], line)
        self.assertEqual(again.read_bytes(), data)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["x.npy", "y.npy"])

    def test_a_link_stays_a_link(self):
        (self.folder / "target.npy").write_text("old")
        (self.folder / "link.npy").symlink_to("target.npy")
        self.ok("logits", "mini", "--tokens", "1", "-o", self.folder / "link.npy")
        self.assertTrue((self.folder / "link.npy").is_symlink())
        self.assertTrue((self.folder / "target.npy").read_bytes().startswith(b"\x93NUMPY"))

    def test_errors(self):
        out = ("-o", self.folder / "x.npy")
        self.fails(4, ["token 1 is outside the vocabulary", "0 to 2047", "found 2048"],
                   "logits", "mini", "--tokens", "1,2048", *out)
        self.fails(4, ["outside the vocabulary", "found -1"], "logits", "mini", "--tokens", "-1",
                   *out)
        self.fails(4, ["token 300 ", "found 5000"], "logits", "mini", "--tokens",
                   ",".join(["1"] * 300 + ["5000"]), *out)
        for text in ("", "1,,2", "1,x", "99999999999", "1.5"):
            self.fails(4, ["--tokens", "expected", "found"], "logits", "mini", "--tokens", text,
                       *out)
        self.fails(4, ["context", "1024", "found 1025"], "logits", "mini", "--tokens",
                   ",".join(["1"] * 1025), *out)
        self.fails(4, ["nowhere", "No such file"], "logits", "mini", "--tokens", "1", "-o",
                   self.folder / "nowhere" / "x.npy")
        self.fails(4, ["a folder"], "logits", "mini", "--tokens", "1", "-o", self.folder)
        self.fails(4, ["/dev/full", "a special file"], "logits", "mini", "--tokens", "1", "-o",
                   "/dev/full")
        self.fails(4, ["output", "found nothing"], "logits", "mini", "--tokens", "1", "-o", "")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_nothing_is_left_behind(self):
        path = self.folder / "x.npy"
        path.write_text("old")

        def small_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))

        self.fails(4, ["x.npy", "cannot be written"], "logits", "mini", "--tokens", "1,2,3", "-o",
                   path, preexec_fn=small_files)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["x.npy"])
        self.assertEqual(path.read_text(), "old")
        with self.start("logits", "mini", "--tokens", ",".join(["1"] * 1024), "-o", path, "--isa",
                        "scalar", "--threads", "1") as process:
            for _ in range(500):
                if len(list(self.folder.iterdir())) > 1:
                    break
                time.sleep(0.01)
            self.assertEqual(len(list(self.folder.iterdir())), 2)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
        self.assertEqual(process.returncode, -signal.SIGTERM)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["x.npy"])
        self.assertEqual(path.read_text(), "old")


class Tokenize(Case):
    def test_both_ways(self):
        text = "Grüße, 世界!\n\n  x = 1"
        ids = self.ids(text)
        listed = ",".join(map(str, ids))
        self.assertEqual(self.ok("tokenize", "mini", "--text", text), listed + "\n")
        self.assertEqual(self.ok("tokenize", MINI / "tokenizer.json", "--text", text), listed + "\n")
        self.assertEqual(self.ok("tokenize", "mini", "--decode", "--text", listed), text)
        self.assertEqual(self.document("tokenize", "mini", "--decode", "--text", listed),
                         {"text": text})
        self.assertEqual(self.ids(""), [])
        self.assertEqual(self.ok("tokenize", "mini", "--decode", "--text", ""), "")
        path = self.folder / "text.txt"
        path.write_bytes(text.encode())
        self.assertEqual(self.document("tokenize", "mini", "--file", path), {"ids": ids})
        self.assertEqual(self.document("tokenize", "mini", "--file", "-", input=text.encode()),
                         {"ids": ids})
        lines = self.folder / "a.jsonl"
        lines.write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": ""}) + "\n")
        out = self.ok("tokenize", "mini", "--jsonl", lines)
        self.assertEqual([json.loads(line) for line in out.splitlines()], [{"ids": ids}, {"ids": []}])
        lines.write_text(out)
        back = self.ok("tokenize", "mini", "--jsonl", lines, "--decode")
        self.assertEqual([json.loads(line) for line in back.splitlines()],
                         [{"text": text}, {"text": ""}])

    def test_errors(self):
        self.fails(4, ["--text", "byte 0", "UTF-8", "0xff"], "tokenize", "mini", "--text",
                   b"\xff\xfe")
        self.fails(4, ["0 to 2047", "found 99999"], "tokenize", "mini", "--decode", "--text",
                   "99999")
        self.fails(4, ["No such file"], "tokenize", "mini", "--file", self.folder / "none")
        self.fails(4, ["a folder"], "tokenize", "mini", "--file", self.folder)
        path = self.folder / "x.jsonl"
        for line, options, fragment in (
                ("nonsense", (), "not a JSON object"), ("", (), "not a JSON object"),
                ("{}", (), "no such field"), ('{"text": 3}', (), "found 3"),
                ('{"ids": "x"}', ("--decode",), 'found "x"'),
                ('{"ids": [1.5]}', ("--decode",), "found 1.5"),
                ('{"ids": [4294967297]}', ("--decode",), "found 4294967297"),
                ('{"ids": [18446744073709551615]}', ("--decode",), "found 18446744073709551615"),
                ('{"ids": [-1]}', ("--decode",), "found -1"),
                ('{"ids": [2048]}', ("--decode",), "found 2048")):
            path.write_text(line + "\n")
            with self.subTest(line=line):
                self.fails(4, ["x.jsonl: line 1", fragment], "tokenize", "mini", "--jsonl", path,
                           *options)


class Inspect(Case):
    def test_model(self):
        found = self.document("inspect", "mini")
        self.assertEqual(found["verdict"], "ok")
        self.assertEqual([found["config"][name] for name in ("hidden", "layers", "heads", "vocab")],
                         [192, 6, 6, 2048])
        self.assertEqual(found["tokenizer_vocab"], 2048)
        header = Safetensors(MINI / "model.safetensors").header
        self.assertEqual({t["name"]: (t["dtype"], t["shape"]) for t in found["tensors"]},
                         {name: (t["dtype"], t["shape"]) for name, t in header.items()})
        self.assertEqual(found["tensor_bytes"], sum(t["bytes"] for t in found["tensors"]))
        text = self.ok("inspect", "mini")
        for name in header:
            self.assertIn(name, text)
        self.document("inspect", self.checkpoint(without=("tokenizer.json",)))

    def test_single_files(self):
        manifest = json.loads((MALFORMED / "MANIFEST.json").read_text())
        self.assertEqual({entry["file"] for entry in manifest},
                         {path.name for path in MALFORMED.glob("*.safetensors")})
        for entry in manifest:
            path = MALFORMED / entry["file"]
            with self.subTest(file=entry["file"]):
                if entry["safetensors_0_8_0"] == "reject":
                    self.fails(4, [entry["file"]], "inspect", path)
                    self.fails(4, [entry["file"]], "inspect", path, "--json")
                    continue
                found = self.document("inspect", path)
                self.assertEqual(found["verdict"], "ok")
                self.assertEqual(sorted(t["name"] for t in found["tensors"]), sorted(entry["keys"]))
                self.assertEqual(found.get("metadata"), entry["metadata"])
                self.ok("inspect", path)

    def test_hostile_names_cannot_garble_a_terminal(self):
        path = self.folder / "x.safetensors"
        header = json.dumps({"a\x1b[2J\n": {"dtype": "I8", "shape": [0], "data_offsets": [0, 0]}})
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
        self.assertRegex(self.ok("inspect", path), r"\A[^\x00-\x09\x0b-\x1f\x7f]*\Z")

    def test_errors(self):
        self.fails(4, ["no such model"], "inspect", self.folder / "none")
        self.fails(4, ["no such model"], "inspect", "")
        self.fails(4, ["neoxref"], "inspect", "a" * 5000)
        self.fails(4, ["/dev/null"], "inspect", "/dev/null")
        self.fails(4, ["config.json"], "inspect", MINI / "config.json")
        self.fails(4, ["config.json"], "inspect", self.folder)


class Checkpoints(Case):
    def refused(self, model, *fragments):
        self.fails(4, fragments, "run", model, "--prompt", "a", "--max-new", "1")
        self.fails(4, fragments, "inspect", model)

    def test_broken_weights(self):
        name = "gpt_neox.layers.2.mlp.dense_h_to_4h.weight"
        for bits, label in ((0x7E00, "nan"), (0xFC00, "inf")):
            model = self.checkpoint(label)
            weights = Safetensors(MINI / "model.safetensors")
            struct.pack_into("<H", weights.body, weights.header[name]["data_offsets"][0] + 40, bits)
            weights.write(model / "model.safetensors")
            self.refused(model, name, label)
        model = self.checkpoint("missing")
        weights = Safetensors(MINI / "model.safetensors")
        weights.write(model / "model.safetensors", [n for n in weights.header if n != name])
        self.refused(model, name)
        model = self.checkpoint("truncated")
        data = (MINI / "model.safetensors").read_bytes()
        (model / "model.safetensors").write_bytes(data[:-100])
        self.refused(model, "model.safetensors", "truncated", "expected", "found")
        self.refused(self.checkpoint("other", config={"intermediate_size": 512}), "expected", "512",
                     "found", "768")

    def shards(self, name):
        model = self.checkpoint(name, without=("model.safetensors",))
        weights = Safetensors(MINI / "model.safetensors")
        names = sorted(weights.header)
        files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        parts = (names[:len(names) // 2], names[len(names) // 2:])
        for file, part in zip(files, parts):
            weights.write(model / file, part)
        index = {"metadata": {"total_size": len(weights.body)},
                 "weight_map": {n: f for f, part in zip(files, parts) for n in part}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        return model, files

    def test_shards(self):
        model, files = self.shards("whole")
        options = ("--prompt", PROMPT, "--max-new", "2")
        self.assertEqual(self.document("run", model, *options)["digest"],
                         self.document("run", "mini", *options)["digest"])
        self.document("inspect", model)
        (model / files[1]).write_bytes((model / files[1]).read_bytes()[:-2])
        self.refused(model, files[1], "truncated")
        (model / files[1]).unlink()
        self.refused(model, files[1])

    def test_missing_files(self):
        self.refused(self.checkpoint("no_config", without=("config.json",)), "config.json")
        self.refused(self.checkpoint("no_weights", without=("model.safetensors",)),
                     "model.safetensors")
        model = self.checkpoint("old", without=("model.safetensors",))
        (model / "pytorch_model.bin").write_bytes(b"x")
        self.refused(model, "pytorch_model.bin", "safetensors")
        model = self.checkpoint("no_tokenizer", without=("tokenizer.json",))
        self.fails(4, ["tokenizer.json"], "run", model, "--prompt", "a")
        self.fails(4, ["tokenizer.json"], "tokenize", model, "--text", "a")
        self.ok("logits", model, "--tokens", "1,2", "-o", self.folder / "x.npy")
        model = self.checkpoint("bad_config")
        (model / "config.json").write_text('{"model_type": "gpt_neox", "hidden_size": ')
        self.refused(model, "config.json")

    def test_prompt(self):
        self.fails(4, ["--prompt", "empty"], "run", "mini", "--prompt", "")
        self.fails(4, ["--prompt", "byte 1", "UTF-8"], "run", "mini", "--prompt", b"a\xc3")
        self.fails(4, ["No such file"], "run", "mini", "--file", self.folder / "none")
        self.fails(4, ["a folder"], "run", "mini", "--file", self.folder)
        self.assertEqual(len(self.document("run", "mini", "--prompt", "--json", "--max-new",
                                           "1")["tokens"]), 1)

    def test_hub_cache(self):
        commit = "0123456789abcdef0123456789abcdef01234567"
        cache = self.folder / "hub"
        repository = cache / "models--some--thing"
        (repository / "snapshots").mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        shutil.copytree(MINI, repository / "snapshots" / commit)
        env = environment(HF_HUB_CACHE=str(cache))
        options = ("--prompt", PROMPT, "--max-new", "2")
        expected = self.document("run", "mini", *options)["digest"]
        for name in ("some/thing", "some/thing@main", "some/thing@" + commit):
            self.assertEqual(self.document("run", name, *options, env=env)["digest"], expected)
        self.fails(4, ["some/thing@v2", "hf download some/thing --revision v2"], "run",
                   "some/thing@v2", *options, env=env)
        self.fails(4, ["some/other", "hf download some/other", "models--some--other"], "run",
                   "some/other", *options, env=env)
        self.fails(4, ["nosuch", "no such model"], "run", "nosuch", *options, env=env)


class Verify(Case):
    def data(self):
        data = self.folder / "data"
        (data / "mini").mkdir(parents=True)
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            (data / "mini" / file).symlink_to(MINI / file)
        (data / "texts").symlink_to(TEXTS)
        return data

    def test_known_answer(self):
        text = "wikitext2_test_excerpt.txt"
        ids = self.document("tokenize", "mini", "--file", TEXTS / text)["ids"][:64]
        digest = self.document("logits", "mini", "--tokens", ",".join(map(str, ids)), "-o",
                               self.folder / "x.npy")["digest"]
        data = self.data()
        env = environment(NEOXREF_DATA_DIR=str(data))
        self.fails(4, ["digest.json", "No such file"], "verify", env=env)
        answer = {"contract": "NX-F32/1", "text": text, "tokens": 64, "digest": digest}
        file = data / "mini" / "digest.json"
        file.write_text(json.dumps(answer))
        found = self.document("verify", env=env)
        self.assertEqual([found["same"], found["contract"], found["expected"], found["digest"]],
                         [True, "NX-F32/1", digest, digest])
        self.assertTrue(found["compiler"])
        self.assertMachine(found["machine"])
        self.assertIn("same bits", self.ok("verify", "--threads", "3", env=env))
        other = ("1" if digest[0] == "0" else "0") + digest[1:]
        file.write_text(json.dumps(dict(answer, digest=other)))
        self.assertFalse(self.document("verify", status=1, env=env)["same"])
        self.assertIn("OTHER BITS", self.ok("verify", status=1, env=env))
        for change, fragments in (({"tokens": "x"}, ["digest.json: tokens"]),
                                  ({"tokens": 0}, ["digest.json: tokens"]),
                                  ({"tokens": 10**9}, [text, "found 1024"]),
                                  ({"digest": 3}, ["digest.json: digest"]),
                                  ({"text": "none.txt"}, ["none.txt"])):
            file.write_text(json.dumps(dict(answer, **change)))
            self.fails(4, fragments, "verify", env=env)
        file.write_text("nonsense")
        self.fails(4, ["digest.json", "JSON"], "verify", env=env)

    def test_embedded_answer(self):
        if not (MINI / "digest.json").exists():
            print("SKIP Verify.test_embedded_answer: datasets/mini/digest.json is not there")
            self.skipTest("datasets/mini/digest.json is not there")
        self.assertTrue(self.document("verify")["same"])


class Streams(Case):
    def test_full_and_closed_output(self):
        commands = (("run", "mini", "--prompt", "a", "--max-new", "2"),
                    ("run", "mini", "--prompt", "a", "--max-new", "2", "--json"),
                    ("eval", "mini", "--max-tokens", "60", "--keep-ratio", "1"),
                    ("plan", "--length", "100", "--keep-ratio", "0.5"), ("inspect", "mini"),
                    ("tokenize", "mini", "--text", "a"), ("--help",), ("run", "--help"))
        with open("/dev/full", "wb") as full:
            for command in commands:
                self.fails(4, ["standard output", "No space left"], *command, stdout=full)
            self.assertEqual(self.run_program("inspect", "mini", stderr=full)[0], 0)
            self.assertEqual(self.run_program("inspect", "none", stderr=full)[0], 4)
        for command in commands:
            self.fails(4, ["standard output", "cannot be written"], *command,
                       preexec_fn=lambda: os.close(1))
        # A closed standard output must not become the file that is written.
        path = self.folder / "x.npy"
        self.run_program("logits", "mini", "--tokens", "1", "-o", path,
                         preexec_fn=lambda: os.close(1))
        self.assertNotIn(b"digest", path.read_bytes())

    def test_reader_that_goes_away(self):
        with self.start("run", "mini", "--prompt", "a", "--max-new", "200") as process:
            process.stdout.close()
            err = process.stderr.read()
            process.wait(timeout=20)
        self.assertEqual((process.returncode, err), (-signal.SIGPIPE, b""))

    def test_progress_only_on_a_terminal(self):
        command = ("eval", "mini", "--max-tokens", "60", "--keep-ratio", "1")
        _, _, err = self.run_program(*command)
        self.assertEqual(err, b"")
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        try:
            self.assertEqual(self.run_program(*command, stderr=slave)[0], 0)
        finally:
            os.close(slave)
        shown = os.read(master, 10000)
        self.assertIn(b"\reval ", shown)
        self.assertTrue(shown.endswith(b"\r\x1b[K"))


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit("usage: program_test.py PATH_TO_NEOXREF [unittest arguments]")
    PROGRAM = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
