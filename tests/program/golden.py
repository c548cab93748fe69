# SPDX-License-Identifier: Apache-2.0
"""golden and verify: what one makes the other finds, and what cannot be compared is refused."""
import json
import re
import time

from program.case import MINI, Case, Safetensors, environment

TEXT = "The old captain looked at the sea and"


class Golden(Case):
    def golden(self, *options, model=MINI, name="golden"):
        folder = self.folder / name
        return folder, self.document("golden", model, "--text", TEXT, "-o", folder, *options)

    def test_made_and_verified(self):
        folder, made = self.golden()
        ids = self.ids(TEXT)
        self.assertEqual(made["tokens"], len(ids))
        self.assertEqual(made["bytes"]["golden.json"], (folder / "golden.json").stat().st_size)
        self.assertEqual([path.name for path in folder.iterdir()], ["golden.json"])
        golden = json.loads((folder / "golden.json").read_text())
        self.assertEqual(golden["tokens"], ids)
        self.assertEqual(golden["contract"], "NX-F32/1")
        for digest in golden["digests"]:
            self.assertDigest(digest["digest"])
        for isa in self.usable_isas():
            found = self.document("verify", folder, "--model", MINI, "--isa", isa)
            self.assertTrue(found["same"])
            self.assertEqual((found["tensors"], found["differences"]), (len(golden["digests"]), []))
            self.assertMachine(found["machine"])
        self.assertIn("same bits", self.ok("verify", folder, "--model", MINI, "--threads", "3"))
        # Ids from a list and from a file give the same golden.
        listed = ",".join(map(str, ids))
        (self.folder / "ids").write_text(listed + "\n")
        for options in (["--tokens", listed], ["--file", self.folder / "ids"]):
            self.ok("golden", MINI, *options, "-o", self.folder / "again")
            self.assertEqual((self.folder / "again" / "golden.json").read_bytes(),
                             (folder / "golden.json").read_bytes())

    def test_tensors(self):
        folder, made = self.golden("--tensors", "logits,gpt_neox.layers.*.attention.scores,rotary.cos",
                                   "--digests", "all")
        self.assertEqual(made["tensors"], 8)
        stored = Safetensors(folder / "tensors.safetensors").header
        tokens = made["tokens"]
        self.assertEqual(stored["input_ids"]["shape"], [1, tokens])
        self.assertEqual(stored["embed_out"]["shape"], [1, tokens, 2048])
        self.assertEqual(stored["gpt_neox.layers.3.attention.scores"]["shape"],
                         [1, 6, tokens, tokens])
        self.assertEqual(stored["rotary.cos"]["shape"], [tokens, 4])
        self.assertTrue(self.document("verify", folder, "--model", MINI)["same"])
        self.assertIn("8 tensors stored", self.ok("golden", MINI, "--text", TEXT, "-o", folder,
                                                  "--tensors", "logits,*.scores,rotary.cos"))

    def test_press(self):
        folder, made = self.golden("--keep-ratio", "0.5", "--prune-after", "4")
        self.assertIn("knorm", made["press"])
        self.assertTrue(self.document("verify", folder, "--model", MINI)["same"])
        digests = json.loads((folder / "golden.json").read_text())["digests"]
        slots = {entry["name"]: entry["shape"][2] for entry in digests if ".key" in entry["name"]
                 and entry["name"].startswith("past")}
        self.assertEqual(slots["past_key_values.0.key"], made["tokens"])
        self.assertLess(slots["past_key_values.1.key"], made["tokens"])
        _, made = self.golden("--keep-ratio", "1")
        self.assertEqual(made["press"], "none")
        _, made = self.golden("--keep-ratio", "0.5", "--trigger", "after-prompt", "--prompt-tokens",
                              "3")
        self.assertIn("after-prompt", made["press"])

    def test_a_bit_of_a_weight_is_found(self):
        # A checkpoint with one bit turned, under the golden's SHA-256: the golden is made of the good
        # one and then says that it is of the other.
        model = self.checkpoint()
        path = model / "model.safetensors"
        file = Safetensors(path)
        at = file.header["gpt_neox.layers.2.mlp.dense_h_to_4h.bias"]["data_offsets"][0]
        file.body[at + 1] ^= 0x40
        file.write(path)
        other, _ = self.golden(model=model, name="other")
        sha256 = json.loads((other / "golden.json").read_text())["model"]["sha256"]
        for tensors, digests in (("none", "layers"), ("none", "all"), ("all", "all")):
            folder, _ = self.golden("--tensors", tensors, "--digests", digests)
            self.fails(4, ["another model", sha256, "SHA-256"], "verify", folder, "--model", model)
            self.pretend(folder, sha256)
            found = self.document("verify", folder, "--model", model, status=1)
            first = found["differences"][0]
            self.assertEqual((first["name"], first["layer"]),
                             ("gpt_neox.layers.2.mlp.dense_h_to_4h", 2))
            self.assertEqual(first["token"], None if digests == "layers" else 0)
            self.assertEqual(first["channel"], None if tensors == "none" else 0)
            self.assertEqual(found["token_behind"], 0 if digests == "layers" else None)
            text = self.ok("verify", folder, "--model", model, status=1)
            self.assertIn("OTHER BITS", text)
            self.assertIn("first token 0" if digests == "all" else "from token 0 on", text)
            self.assertIn("channel 0: expected" if tensors == "all" else "channel not known", text)

    def pretend(self, folder, sha256):
        """Another SHA-256, with a seal that fits: xxh128 as the program computes it."""
        path = folder / "golden.json"
        text = path.read_text()
        text = re.sub(r'"sha256":"[0-9a-f]{64}"', f'"sha256":"{sha256}"', text)
        path.write_text(text)
        code, _, err = self.run_program("verify", folder, "--model", MINI)
        self.assertEqual(code, 4)
        seal = re.search(rb"changed after it was written \(expected ([0-9a-f]{32}), "
                         rb"found ([0-9a-f]{32})\)", err)
        path.write_text(text.replace(seal[1].decode(), seal[2].decode()))

    def test_refused(self):
        folder, _ = self.golden()
        self.fails(4, ["--model", "no weights", "SHA-256"], "verify", folder)
        self.fails(4, ["golden.json"], "verify", self.folder, "--model", MINI)
        self.fails(4, ["nosuch"], "verify", folder, "--model", "nosuch")
        path = folder / "golden.json"
        text = path.read_text()
        path.write_text(text.replace("NX-F32/1", "NX-F32/2"))
        self.fails(4, ["contract", "NX-F32/1", "NX-F32/2"], "verify", folder, "--model", MINI)
        path.write_text(text.replace('"tokens": [', '"tokens": [1,'))
        self.fails(4, ["seal", "changed"], "verify", folder, "--model", MINI)
        path.write_text(text[:500])
        self.fails(4, ["golden.json", "JSON"], "verify", folder, "--model", MINI)
        path.write_text(text)
        config = json.loads((MINI / "config.json").read_text())
        model = self.checkpoint(config={"rotary_emb_base": config.get("rotary_emb_base", 10000) * 2})
        self.fails(4, ["config", "rotary_emb_base", "10000"], "verify", folder, "--model", model)
        (self.folder / "mine").mkdir()
        (self.folder / "mine" / "notes").write_text("mine")
        self.fails(4, ["mine", "notes"], "golden", MINI, "--text", TEXT, "-o", self.folder / "mine")
        self.fails(4, ["no such tensor", "nonsense"], "golden", MINI, "--text", TEXT, "-o",
                   self.folder / "x", "--tensors", "nonsense")
        self.fails(4, ["outside the vocabulary"], "golden", MINI, "--tokens", "1,99999", "-o",
                   self.folder / "x")
        self.assertFalse((self.folder / "x").exists())

    def test_usage(self):
        target = ["-o", self.folder / "x"]
        self.fails(2, ["exactly one"], "golden", MINI, *target)
        self.fails(2, ["--output"], "golden", MINI, "--text", "a")
        self.fails(2, ["--digests"], "golden", MINI, "--text", "a", *target, "--digests", "some")
        self.fails(2, ["--prompt-tokens"], "golden", MINI, "--text", "a", *target,
                   "--prompt-tokens", "3")
        self.fails(2, ["--prompt-tokens"], "golden", MINI, "--text", "a", *target, "--keep-ratio",
                   "0.5", "--trigger", "after-prompt")
        self.fails(2, ["--model"], "verify", "--model", MINI)

    def test_machine(self):
        # The plain definition is slow, and against itself it says nothing.
        for isa in self.usable_isas()[1:] or ["scalar"]:
            begin = time.monotonic()
            found = self.document("verify", "--isa", isa, env=environment())
            self.assertTrue(found["same"])
            self.assertTrue(all(kernel["same"] for kernel in found["kernels"]))
            self.assertGreater(sum(kernel["values"] for kernel in found["kernels"]), 100000)
            self.assertLess(found["seconds"], time.monotonic() - begin)
        names = {kernel["name"] for kernel in found["kernels"]}
        self.assertLessEqual({"product f32", "product f16", "product bf16", "attention", "layer_norm",
                              "rotate", "store_keys", "key_norms", "compact_keys", "compact_rows",
                              "gelu", "exp", "add3", "add", "widen f16", "max_and_sum",
                              "all_finite"}, names)
