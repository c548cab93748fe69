# SPDX-License-Identifier: Apache-2.0
"""compare: what agrees, what diverges and why, and what cannot be compared."""
import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

from program.case import MINI, ROOT, Case, Safetensors

TEXT = "The old captain looked at the sea and"
DEVIATIONS = ROOT / "tests" / "deviations" / "parallel"
EMPTY_ELEMENTS = {"meta", "br", "hr", "img", "input", "link"}


class Elements(HTMLParser):
    """Elements of a page that are still open, and what it would load."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.loaded = []

    def handle_starttag(self, tag, attrs):
        if tag not in EMPTY_ELEMENTS:
            self.open.append(tag)
        if tag in ("script", "link", "img", "iframe"):
            self.loaded.append(tag)
        self.loaded += [value for name, value in attrs
                        if name in ("src", "href") and not (value or "").startswith("#")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY_ELEMENTS:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


class Compare(Case):
    def golden(self, name, model, *options, source=("--text", TEXT)):
        folder = self.folder / name
        self.ok("golden", model, *source, "-o", folder, *options)
        return folder

    def dump(self, name="dump", model=MINI):
        """A file as another backend would write it: all tensors of a model's run."""
        return self.golden(name, model, "--tensors", "all") / "tensors.safetensors"

    def flagged(self, document):
        return [finding["name"] for finding in document["causes"]["findings"] if finding["flagged"]]

    def test_agrees(self):
        golden, other = self.golden("golden", MINI), self.dump()
        found = self.document("compare", golden, other, "--model", MINI, "--require", "all")
        self.assertTrue(found["agrees"])
        self.assertIsNone(found["first_diverging"])
        self.assertIsNone(found["causes"])
        self.assertEqual(found["missing"], [])
        self.assertEqual(found["profile"], "f32")
        for tensor in found["tensors"]:
            self.assertEqual(tensor["error"]["max_abs"], 0.0, tensor["name"])
        # What agrees has no causes, and asking for them changes no verdict.
        found = self.document("compare", golden, other, "--model", MINI, "--causes", "always")
        self.assertTrue(found["agrees"])
        self.assertEqual(self.flagged(found), [])
        self.assertFalse(found["causes"]["none_explains"])
        text = self.ok("compare", golden, other, "--model", MINI)
        self.assertIn("agrees under profile f32", text)
        self.assertNotIn("cause", text)

    def test_missing_tensors(self):
        golden, other = self.golden("golden", MINI), self.dump()
        file = Safetensors(other)
        file.write(self.folder / "few.safetensors",
                   [name for name in file.header if ".mlp." not in name])
        few = self.folder / "few.safetensors"
        found = self.document("compare", golden, few, "--model", MINI)
        self.assertTrue(found["agrees"])
        self.assertTrue(found["missing"])
        found = self.document("compare", golden, few, "--model", MINI, "--require",
                              "embed_out,*.mlp.act", status=1)
        self.assertEqual(found["required_missing"],
                         [name for name in found["missing"] if name.endswith("mlp.act")])
        self.assertIsNone(found["causes"])  # no tensor fails
        self.fails(4, ["nonsense"], "compare", golden, few, "--model", MINI, "--require", "nonsense")

    def test_a_changed_value_and_its_reports(self):
        golden, other = self.golden("golden", MINI), self.dump()
        file = Safetensors(other)
        name = "gpt_neox.layers.2.attention.dense"
        file.body[file.header[name]["data_offsets"][0] + 3] ^= 0x04  # an exponent of token 0
        file.write(other)
        page, junit = self.folder / "page.html", self.folder / "junit.xml"
        code, out, err = self.run_program("compare", golden, other, "--model", MINI, "--json",
                                          "--html", page, "--junit", junit)
        self.assertEqual(code, 1, err)
        found = json.loads(out)
        self.assertFalse(found["agrees"])
        self.assertEqual(found["first_diverging"], name)
        (tensor,) = (each for each in found["tensors"] if each["name"] == name)
        self.assertEqual(tensor["error"]["max_abs_at"], [0, 0])
        # No rule gone wrong does that.
        self.assertEqual(self.flagged(found), [])
        self.assertTrue(found["causes"]["none_explains"])
        self.assertEqual(found["causes"]["unexplained"][0]["name"], name)

        suite = ElementTree.parse(junit).getroot().find("testsuite")
        cases = suite.findall("testcase")
        self.assertEqual(int(suite.get("tests")), len(cases))
        self.assertEqual(int(suite.get("failures")), len(suite.findall("testcase/failure")))
        failing = [case.get("name") for case in cases if case.find("failure") is not None]
        self.assertEqual(failing, [each["name"] for each in found["tensors"] if each["fails"]])
        self.assertIn(name, failing)

        text = page.read_text()
        self.assertIn("DIVERGES at " + name, text)
        self.assertIn("No known deviation explains", text)
        elements = Elements()
        elements.feed(text)
        self.assertEqual(elements.open, [])
        self.assertEqual(elements.loaded, [])
        self.assertIsNone(re.search(r"@import|url\(|https?://(?!www\.w3\.org/)", text))

        text = self.ok("compare", golden, other, "--model", MINI, "--causes", "never", status=1)
        self.assertIn("DIVERGES at " + name, text)
        self.assertNotIn("deviation", text)

    def test_a_wrong_rule_is_named(self):
        # Another eps in the config makes the same dump as a backend that has that eps.
        golden = self.golden("golden", MINI)
        eps = json.loads((MINI / "config.json").read_text()).get("layer_norm_eps", 1e-5)
        self.assertEqual(eps, 1e-5)
        other = self.dump(model=self.checkpoint(config={"layer_norm_eps": 1e-3}))
        found = self.document("compare", golden, other, "--model", MINI, status=1)
        self.assertEqual(found["first_diverging"], "gpt_neox.layers.0.input_layernorm")
        self.assertEqual(self.flagged(found), ["eps 1e-3"])
        first = found["causes"]["findings"][0]
        self.assertEqual(set(first), {"name", "beta", "standard_error", "null", "power",
                                      "can_be_told", "flagged", "layers", "behind_last_layer",
                                      "alternatives"})
        self.assertAlmostEqual(first["beta"], 1.0, delta=0.01)
        layers = json.loads((MINI / "config.json").read_text())["num_hidden_layers"]
        self.assertEqual(first["layers"], list(range(layers)))
        self.assertTrue(first["behind_last_layer"])
        self.assertFalse(found["causes"]["none_explains"])
        text = self.ok("compare", golden, other, "--model", MINI, status=1)
        self.assertRegex(text, r"causes that fit\n  eps 1e-3: beta 1\.\d+ ")

    def test_deviations_of_another_backend(self):
        index = json.loads((DEVIATIONS / "cases.json").read_text())
        ids = ",".join(map(str, index["tokens"]))
        golden = self.golden("golden", DEVIATIONS, source=("--tokens", ids))
        cases = {case["file"]: case for case in index["cases"]}
        for file in ("rotary_pairs_interleaved_bf16.safetensors",
                     "two_activation_gelu_new_and_eps_1e-6.safetensors",
                     "first_token_missing.safetensors", "rotary_base_500.safetensors"):
            case = cases[file]
            with self.subTest(file):
                profile = {"float32": "f32", "bfloat16": "bf16-acc32"}[case["dtype"]]
                # Without ids: those of a dump that begins with the second token are others.
                dump = Safetensors(DEVIATIONS / file)
                dump.write(self.folder / file, [name for name in dump.header if name != "input_ids"])
                found = self.document("compare", golden, self.folder / file, "--model", DEVIATIONS,
                                      "--profile", profile, status=1)
                self.assertEqual(sorted(self.flagged(found)), sorted(case["expected"]))
                self.assertEqual(found["causes"]["none_explains"], case["unlisted"])
        found = self.document("compare", golden, DEVIATIONS / "none_bf16.safetensors", "--model",
                              DEVIATIONS, "--causes", "always")
        self.assertEqual(found["profile"], "bf16-acc32")
        self.assertEqual(self.flagged(found), [])

    def test_other_tokens(self):
        golden = self.golden("golden", MINI)
        other = self.golden("other", MINI, "--tensors", "logits", source=("--text", "The old man"))
        found = self.document("compare", golden, other / "tensors.safetensors", "--model", MINI,
                              "--causes", "always", status=1)
        self.assertFalse(found["input"]["same"])
        self.assertEqual(found["tensors"], [])
        self.assertIsNone(found["causes"])

    def test_refused(self):
        golden, other = self.golden("golden", MINI), self.dump()
        model = self.checkpoint()
        path = model / "model.safetensors"
        file = Safetensors(path)
        file.body[0] ^= 1
        file.write(path)
        sha256 = json.loads((golden / "golden.json").read_text())["model"]["sha256"]
        found = self.golden("of_other", model) / "golden.json"
        other_sha256 = json.loads(found.read_text())["model"]["sha256"]
        self.assertNotEqual(sha256, other_sha256)
        self.fails(4, ["another model", sha256, other_sha256], "compare", golden, other, "--model",
                   model)
        self.fails(4, ["no-such-file"], "compare", golden, self.folder / "no-such-file", "--model",
                   MINI)
        self.fails(4, ["golden.json"], "compare", self.folder / "no-such", other, "--model", MINI)
        shutil.copy(other, self.folder / "cut.safetensors")
        with open(self.folder / "cut.safetensors", "r+b") as cut:
            cut.truncate(1000)
        self.fails(4, ["cut.safetensors"], "compare", golden, self.folder / "cut.safetensors",
                   "--model", MINI)
        pressed = self.golden("pressed", MINI, "--keep-ratio", "0.5", "--prune-after", "4")
        self.fails(4, ["press", "knorm"], "compare", pressed, other, "--model", MINI)
        self.fails(2, ["--causes", "auto, always or never"], "compare", golden, other, "--causes",
                   "perhaps")
        self.fails(4, ["no-such-profile"], "compare", golden, other, "--model", MINI, "--profile",
                   "no-such-profile")
