# SPDX-License-Identifier: Apache-2.0
"""The slots that kvpress' scorers and l2compress' rule keep, which tests/literature/compare.py wrote
down, against those that we keep."""

import json
import os
import sys
import unittest
from pathlib import Path

import neoxref

FOLDER = Path(os.environ["NEOXREF_SOURCE_DIR"]) / "tests" / "literature"
sys.path.insert(0, str(FOLDER))
import inputs  # noqa: E402
import ours  # noqa: E402


class Literature(unittest.TestCase):
    def test_same_slots(self):
        rows = json.loads((FOLDER / "kept.json").read_text(encoding="utf-8"))["rows"]
        self.assertEqual({row["rule"] for row in rows}, set(ours.FEATURES))
        self.tied = set()
        for row in rows:
            with self.subTest(**{key: row[key] for key in row if key != "kept"}):
                self.compare(row)
        # Equal norms of whole numbers; a budget below snapkv's window, whose slots share one score.
        self.assertEqual(self.tied, {("knorm", "ties"), ("l2compress", "ties"),
                                     *(("snapkv", name) for name in inputs.CASES)})

    def compare(self, row):
        """The same slots, but for those that have the score of the worst one kept: which of several
        equal scores stay is defined here, and not there."""
        slots = inputs.CASES[row["case"]][2]
        scores = ours.scores_by_us(row)
        for head, (mine, mask) in enumerate(zip(ours.kept_by_us(row), row["kept"], strict=True)):
            theirs = {slot for slot in range(slots) if int(mask, 16) >> slot & 1}
            mine = set(mine.tolist())
            self.assertEqual(len(mine), len(theirs))
            border = min(scores[head, slot] for slot in mine)
            self.assertEqual({slot for slot in mine ^ theirs if scores[head, slot] != border}, set(),
                             f"head {head}")
            if mine != theirs:
                self.tied.add((row["rule"], row["case"]))

    def test_inputs_are_the_same_everywhere(self):
        arrays = [array for name in inputs.CASES for array in inputs.layer(name)]
        self.assertEqual(neoxref.digest(*arrays), "85e95f3906774928963ba20ef2f129bb")


if __name__ == "__main__":
    unittest.main()
