# SPDX-License-Identifier: Apache-2.0
"""The commands logits, tokenize and inspect."""
import json
import resource
import signal
import struct
import time

from .case import MINI, MALFORMED, PROMPT, Safetensors, Case


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
        by_file = self.ok("tokenize", MINI / "tokenizer.json", "--text", text)
        self.assertEqual(by_file, listed + "\n")
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
        self.assertEqual([json.loads(line) for line in out.splitlines()],
                         [{"ids": ids}, {"ids": []}])
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
        for broken, options, fragment in (
                ("nonsense", (), "not a JSON object"), ("", (), "not a JSON object"),
                ("{}", (), "no such field"), ('{"text": 3}', (), "found 3"),
                ('{"ids": "x"}', ("--decode",), 'found "x"'),
                ('{"ids": [1.5]}', ("--decode",), "found 1.5"),
                ('{"ids": [4294967297]}', ("--decode",), "found 4294967297"),
                ('{"ids": [18446744073709551615]}', ("--decode",), "found 18446744073709551615"),
                ('{"ids": [-1]}', ("--decode",), "found -1"),
                ('{"ids": [2048]}', ("--decode",), "found 2048")):
            path.write_text(broken + "\n")
            with self.subTest(line=broken):
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
