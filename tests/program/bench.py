# SPDX-License-Identifier: Apache-2.0
"""The commands bench and synth."""
import json
import resource
import signal
import time

from .case import environment, Case

TINY = ("--layers", "2", "--hidden", "32", "--heads", "2", "--intermediate", "96", "--vocab", "64")
QUICK = ("--repeat", "2", "--warm-up", "0", "--starts", "0")


class Bench(Case):
    def rows(self, document, kind):
        return [row for row in document["rows"] if row["kind"] == kind]

    def test_document(self):
        found = self.document("bench", "mini", "--prompt", "32,64", "--context", "100", "--batch",
                              "1,2", "--threads", "1,2", "--new", "4", "--repeat", "2", "--starts",
                              "1")
        self.assertEqual(len(self.rows(found, "prefill")), 8)
        self.assertEqual(len(self.rows(found, "decode")), 4)
        starts = self.rows(found, "start")
        self.assertEqual([row["threads"] for row in starts], [1, 2])
        for row in starts:
            # Weights, what 16 tokens need, and the program itself; sanitizers add their own.
            if not self.sanitized():
                self.assertLess(row["peak_bytes"], 1.25 * found["weight_bytes"] + 40e6)
            self.assertGreater(row["peak_bytes"], found["weight_bytes"])
            self.assertGreater(row["seconds"], row["load_seconds"])
        self.assertEqual(found["machine"]["threads"], [1, 2])
        kinds = {(limit["kind"], limit["threads"]) for limit in found["limits"]}
        self.assertLessEqual({("fma", 1), ("read", 1), ("fma", 2), ("read", 2)}, kinds)
        self.assertGreater(found["peak_bytes"], found["weight_bytes"])
        self.assertIn("cpu", found["machine"])
        digests = {}
        for row in found["rows"]:
            if row["kind"] == "start":
                continue
            time = "time_to_first_token" if row["kind"] == "prefill" else "time_of_token"
            self.assertLessEqual(row[time + "_min"], row[time])
            self.assertLessEqual(row[time], row[time + "_max"])
            self.assertIn(row["limit"]["bound"], ("fma", "read"))
            self.assertAlmostEqual(row["share_of_fma"] * row["limit"]["flops_per_second"],
                                   row["flops_per_second"], delta=1)
            self.assertAlmostEqual(row["share_of_read"] * row["limit"]["bytes_per_second"],
                                   row["bytes_per_second"], delta=1)
            self.assertEqual(row["n"], 2)
            self.assertLessEqual(row["tokens_per_second_min"], row["tokens_per_second"])
            self.assertLessEqual(row["tokens_per_second"], row["tokens_per_second_max"])
            self.assertAlmostEqual(row["share_of_limit"],
                                   row["tokens_per_second"] / row["limit_tokens_per_second"])
            self.assertAlmostEqual(
                sum(phase["worked"] + phase["waited"] for phase in row["phases"]), 1)
            self.assertDigest(row["digest"])
            # The number of threads changes no bit.
            key = (row["kind"], row.get("prompt"), row.get("context"), row["batch"])
            self.assertEqual(digests.setdefault(key, row["digest"]), row["digest"])

    def test_kernels(self):
        found = self.document("bench", "mini", "--prompt", "64", "--context", "64", "--new", "4",
                              "--threads", "1", "--kernels", *QUICK)
        prefill, decode = found["rows"]
        for row, kernel in ((prefill, "product"), (decode, "product, 1 to 4 rows")):
            shares = {entry["kernel"]: entry["share"] for entry in row["kernels"]}
            self.assertAlmostEqual(sum(shares.values()), 1)
            self.assertIn(kernel, shares)
            if not self.sanitized():
                self.assertEqual(max(shares, key=shares.get), kernel)
            self.assertIn("layer_norm", shares)
        # Six layers, two norms each, and the last one.
        calls = {entry["kernel"]: entry.get("calls") for entry in decode["kernels"]}
        self.assertEqual(calls["layer_norm"], 13)
        self.assertIn("of fma", self.ok("bench", "mini", "--prompt", "16", "--kernels", *QUICK))

    def test_least_share(self):
        options = ("bench", "mini", "--prompt", "16", "--threads", "1", *QUICK)
        self.ok(*options, "--least-share", "0.1")
        code, _, err = self.run_program(*options, "--least-share", "1000")
        self.assertEqual(code, 1)
        self.assertIn("prefill 16, batch 1, 1 thread", err.decode())
        self.assertIn("asked for 1000.0 %", err.decode())

    def test_too_little_memory(self):
        if self.sanitized():
            print("SKIP Bench.test_too_little_memory: the address sanitizer needs all addresses")
            return

        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

        self.fails(4, ["pythia-410m", "too little memory", "available"], "bench", "--shape",
                   "pythia-410m", "--threads", "1", *QUICK, preexec_fn=limit)
        self.fails(4, ["caches", "too little memory"], "bench", "mini", "--prompt", "16",
                   "--context", "900", "--batch", "64", "--threads", "1", *QUICK,
                   preexec_fn=limit)

    def test_presses(self):
        found = self.document("bench", "mini", "--keep-ratio", "1,0.5", "--prune-after", "64",
                              "--naive-press", "--press-prompt", "100", "--press-new", "100",
                              "--threads", "1", *QUICK)
        rows = self.rows(found, "press")
        self.assertEqual(len(found["rows"]), 3)
        self.assertEqual([(row["keep"], row["naive"]) for row in rows],
                         [("1", False), ("0.5", False), ("0.5", True)])
        full, cut, naive = rows
        self.assertEqual([full["relative"], full["cut_share"]], [1, 0])
        self.assertEqual(cut["digest"], naive["digest"])
        self.assertNotEqual(cut["digest"], full["digest"])
        self.assertEqual(cut["cuts"][0], 0)
        self.assertTrue(all(cut["cuts"][1:]))
        self.assertLess(cut["mean_slots"], full["mean_slots"])
        for row in rows:
            split = row["time_to_first_token_split"]
            self.assertGreater(split["prefill"], 0)
            self.assertGreater(split["first_token"], 0)
            self.assertEqual([bucket["to"] for bucket in row["by_context"]], [200])
        self.assertGreater(cut["time_to_first_token_split"]["press"], 0)
        self.assertIn("keep", self.ok("bench", "mini", "--keep-ratio", "0.5", "--prune-after", "64",
                                      "--press-new", "64", *QUICK))

    def test_nothing_cut(self):
        options = ("bench", "mini", "--keep-ratio", "0.5", "--prune-after", "500", "--press-new",
                   "64", *QUICK)
        code, out, err = self.run_program(*options, "--json")
        self.assertEqual(code, 3, err)
        self.assertIn("nothing was cut in 192 tokens", err.decode())
        self.assertEqual(json.loads(out)["rows"][0]["digest"], json.loads(out)["rows"][1]["digest"])
        self.ok(*options, "--allow-no-cuts")

    def test_cold_first(self):
        found = self.document("bench", "mini", "--prompt", "16,16", "--cold-first", "--repeat",
                              "1")
        self.assertEqual(found["schedule"]["order"], "fixed")
        self.assertEqual(found["schedule"]["warm_up"], 0)
        first, second = found["cold_first"]["rows"]
        self.assertEqual([first["change"], first["change_with_load"]], [0, 0])
        self.assertAlmostEqual(
            second["change"],
            second["time_to_first_token"] / first["time_to_first_token"] - 1)
        cold = first["time_to_first_token"] + found["cold_first"]["load_seconds"]
        self.assertAlmostEqual(second["change_with_load"],
                               second["time_to_first_token"] / cold - 1)
        self.assertIn("nothing warmed up", self.ok("bench", "mini", "--prompt", "16",
                                                   "--cold-first", "--repeat", "1"))

    def test_baseline(self):
        path = self.folder / "before.json"
        options = ("bench", "mini", "--prompt", "16", "--threads", "1", *QUICK)
        path.write_text(self.ok(*options, "--json"))
        same = self.document(*options, "--baseline", path, "--tolerance", "99")
        self.assertTrue(same["baseline"]["ok"])
        self.assertEqual(len(same["baseline"]["rows"]), 1)
        before = json.loads(path.read_text())
        before["rows"][0]["tokens_per_second"] *= 1000
        before["rows"].append({**before["rows"][0], "prompt": 17})
        path.write_text(json.dumps(before))
        self.assertIn("1 rows of", self.ok(*options, "--baseline", path, status=1))
        self.assertIn("SLOWER", self.ok(*options, "--baseline", path, status=1))
        before["rows"][0]["tokens_per_second"] = 1
        before["rows"][0]["digest"] = "0" * 32
        path.write_text(json.dumps(before))
        self.assertIn("OTHER LOGITS", self.ok(*options, "--baseline", path, status=1))
        for text, problem in (("{}", "rows"), ("[", "rows"), ('{"rows": []}', "in common"),
                              ('{"rows": [{"kind": "prefill"}]}', "tokens_per_second")):
            path.write_text(text)
            self.fails(4, ["before.json", problem], *options, "--baseline", path)

    def test_shape(self):
        shape = self.folder / "temporary"
        shape.mkdir()
        env = environment(TMPDIR=str(shape))
        found = self.document("bench", "--shape", "pythia-14m", "--prompt", "8", "--threads", "1",
                              *QUICK, env=env)
        self.assertIn("pythia-14m", found["model"])
        self.assertEqual(list(shape.iterdir()), [])
        # Interrupted while it writes: nothing is left.
        with self.start("bench", "--shape", "pythia-160m", *QUICK, env=env) as process:
            while not list(shape.iterdir()):
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGTERM)
        self.assertEqual(list(shape.iterdir()), [])

    def test_errors(self):
        self.fails(2, ["bench", "MODEL", "--shape"], "bench")
        self.fails(2, ["bench", "MODEL", "--shape"], "bench", "mini", "--shape", "pythia-14m")
        self.fails(2, ["pythia-7b", "pythia-70m"], "bench", "--shape", "pythia-7b")
        self.fails(2, ["--prompt", "found 0"], "bench", "mini", "--prompt", "0")
        self.fails(2, ["--threads", "found 1,"], "bench", "mini", "--threads", "1,")
        self.fails(2, ["--naive-press", "--keep-ratio"], "bench", "mini", "--naive-press")
        self.fails(4, ["1024", "found 1100"], "bench", "mini", "--prompt", "1100", *QUICK)


class Synth(Case):
    def test_files(self):
        place = self.folder / "m"
        found = self.document("synth", *TINY, "--seed", "7", "-o", place)
        self.assertEqual([file["file"] for file in found["files"]],
                         ["config.json", "model.safetensors"])
        for file in found["files"]:
            self.assertEqual((place / file["file"]).stat().st_size, file["bytes"])
            self.assertDigest(file["xxh3"])
        again = self.document("synth", *TINY, "--seed", "7", "-o", self.folder / "again")
        self.assertEqual(found["files"], again["files"])
        other = self.document("synth", *TINY, "--seed", "8", "-o", self.folder / "other")
        self.assertNotEqual(found["files"][1]["xxh3"], other["files"][1]["xxh3"])
        self.fails(4, ["exists already", "--force"], "synth", *TINY, "-o", place)
        text = self.ok("synth", *TINY, "--force", "--dtype", "f32", "-o", place)
        self.assertIn("model.safetensors", text)
        self.document("inspect", place)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()),
                         ["again", "m", "other"])

    def test_errors(self):
        self.fails(2, ["synth", "--shape"], "synth", "-o", self.folder / "m")
        self.fails(2, ["--output"], "synth", *TINY)
        self.fails(2, ["pythia-7b", "pythia-70m"], "synth", "--shape", "pythia-7b", "-o",
                   self.folder / "m")
        self.fails(4, ["heads"], "synth", *TINY[:4], "--heads", "5", *TINY[6:], "-o",
                   self.folder / "m")
        self.assertEqual(list(self.folder.iterdir()), [])
