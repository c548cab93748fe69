# SPDX-License-Identifier: Apache-2.0
"""The command run."""
import json
import os

from .case import MINI, TEXTS, PROMPT, Case


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
                                "0.95", "--seed", "1", "--threads", "3", "--backend", "serial")
        self.assertEqual(tuple(threads["tokens"]), draws[0])

    def test_context(self):
        ids = self.ids((TEXTS / "wikitext2_test_excerpt.txt").read_text()[:8000])
        path = self.folder / "long.txt"
        path.write_text((TEXTS / "wikitext2_test_excerpt.txt").read_text()[:8000])
        self.assertGreater(len(ids), 1024)
        self.fails(4, ["prompt", "context", "at most 1024 tokens", f"found {len(ids)}"],
                   "run", "mini", "--file", path)
        full = self.ok("tokenize", "mini", "--decode", "--text", ",".join(map(str, ids[:1024])))
        self.assertEqual(len(self.ids(full)), 1024)
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
        self.assertRegex(err.decode(), r"\Aneoxref: .*0\.5.*nothing was cut.*2000.*\n\Z")
        self.generate(*options, "--allow-no-cuts")
        self.fails(4, ["skip_layers", "0 to 5", "found 9"], "run", "mini", "--prompt", "a",
                   "--keep-ratio", "0.5", "--skip-layers", "9")

    def test_presses(self):
        plain = self.generate("--max-new", "40")
        seen = {plain["digest"]}
        for options in (("--score", "knorm"), ("--score", "knorm-high"), ("--score", "keydiff"),
                        ("--score", "recent", "--sinks", "4"), ("--score", "random"),
                        ("--score", "random-fresh"), ("--score", "vk-ratio", "--recent", "6"),
                        ("--trigger", "every", "--interval", "7"), ("--trigger", "after-prompt"),
                        ("--positions", "cache-length")):
            found = self.generate("--max-new", "40", "--keep-ratio", "0.5", "--prune-after", "12",
                                  *options)
            self.assertGreater(found["cuts"][1], 0, options)
            seen.add(found["digest"])
        self.assertGreater(len(seen), 8)
        fixed = self.generate("--max-new", "40", "--keep-slots", "9", "--prune-after", "12")
        self.assertLessEqual(max(fixed["lengths"][1:]), 12)
        endless = self.generate("--max-new", "1200", "--keep-ratio", "0.5", "--prune-after", "100",
                                "--sinks", "4", "--recent", "16", "--positions", "rerotate",
                                "--skip-layers", "none", "--ignore-eos")
        self.assertEqual([len(endless["tokens"]), endless["finish"]], [1200, "max_new"])
        self.assertLessEqual(max(endless["lengths"]), 100)

    def test_press_errors(self):
        def wrong(status, needles, *options):
            self.fails(status, needles, "run", "mini", "--prompt", "a", *options)
        wrong(2, ["score", "knorm-high", "found norm"], "--keep-ratio", "0.5", "--score", "norm")
        wrong(2, ["--keep-slots", "--keep-ratio"], "--keep-ratio", "0.5", "--keep-slots", "5")
        wrong(2, ["--interval"], "--keep-ratio", "0.5", "--trigger", "every")
        wrong(2, ["--sinks", "needs"], "--sinks", "5")
        wrong(4, ["rerotate", "skip_layers"], "--keep-ratio", "0.5", "--positions", "rerotate")

    def test_bits_do_not_depend_on_the_machine_part(self):
        seen = {}
        backends = self.built_backends()
        for isa in self.usable_isas():
            for backend in backends:
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
