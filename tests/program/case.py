# SPDX-License-Identifier: Apache-2.0
"""Running the program, and checkpoints made from the bytes of the embedded default."""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest


ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MINI = ROOT / "datasets" / "mini"
TEXTS = ROOT / "datasets" / "texts"
MALFORMED = ROOT / "tests" / "fixtures" / "malformed"
PROGRAM = []  # the path, set by program_test.py
COMMANDS = ("run", "eval", "analyze", "bench", "plan", "golden", "verify", "compare", "logits",
            "tokenize", "inspect", "synth", "conform")
SECONDS = 50 * (10 if "NEOXREF_SLOW_MACHINE" in os.environ else 1)
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
        return subprocess.Popen([*PROGRAM, *map(encoded, arguments)], **options)

    def run_program(self, *arguments, input=None, **options):
        if input is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*arguments, **options) as process:
            out, err = process.communicate(input, timeout=SECONDS)
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

    def sanitized(self):
        """Whether the program was built with the address sanitizer."""
        return b"__asan_init" in pathlib.Path(PROGRAM[0]).read_bytes()

    def usable_isas(self):
        _, _, err = self.run_program("run", "mini", "--prompt", "a", "--isa", "none-such")
        return err.decode().split("usable here: ")[1].rstrip(")\n").split(", ")

    def built_backends(self):
        found = []
        for backend in ("tbb", "openmp", "serial"):
            code, _, err = self.run_program("run", "mini", "--prompt", "a", "--max-new", "1",
                                            "--backend", backend)
            if code == 0:
                found.append(backend)
            else:
                self.assertIn(backend + " was not built in", err.decode())
        self.assertIn("serial", found)
        return found

    def ids(self, text):
        return self.document("tokenize", "mini", "--text", text)["ids"]

    def assertMachine(self, machine):
        self.assertEqual(set(machine), {"isa", "backend", "threads"})
        self.assertIn(machine["isa"], self.usable_isas())
        self.assertIn(machine["backend"], ("tbb", "openmp", "serial"))
        self.assertGreaterEqual(machine["threads"], 1)

    def assertDigest(self, digest):
        self.assertRegex(digest, r"\A[0-9a-f]{32}\Z")
