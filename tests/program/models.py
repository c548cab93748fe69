# SPDX-License-Identifier: Apache-2.0
"""What MODEL may be, broken checkpoints, and verify."""
import json
import shutil
import struct

from .case import MINI, TEXTS, PROMPT, environment, Safetensors, Case


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
