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

# Scores nearer than this are a matter of rounding: ours are rounded once, theirs in float32 all along.
NEAR = 2e-6


class Literature(unittest.TestCase):
    def test_same_slots(self):
        rows = json.loads((FOLDER / "kept.json").read_text(encoding="utf-8"))["rows"]
        self.assertEqual({row["rule"] for row in rows}, set(ours.FEATURES))
        for row in rows:
            with self.subTest(**{key: row[key] for key in row if key != "kept"}):
                self.compare(row)

    def compare(self, row):
        slots = inputs.CASES[row["case"]][2]
        scores = ours.scores_by_us(row).astype(float)
        for head, (mine, mask) in enumerate(zip(ours.kept_by_us(row), row["kept"], strict=True)):
            theirs = {slot for slot in range(slots) if int(mask, 16) >> slot & 1}
            mine = set(mine.tolist())
            if row["case"] != "ties":
                self.assertEqual(mine, theirs, f"head {head}")
                continue
            # Which of several equal scores stay is not defined there; their scores are.
            self.assertEqual(len(mine), len(theirs))
            border = min(scores[head, slot] for slot in mine)
            for slot in mine ^ theirs:
                self.assertLessEqual(abs(scores[head, slot] - border), NEAR * max(1, abs(border)))

    def test_inputs_are_the_same_everywhere(self):
        arrays = [array for name in inputs.CASES for array in inputs.layer(name)]
        self.assertEqual(neoxref.digest(*arrays), "85e95f3906774928963ba20ef2f129bb")


if __name__ == "__main__":
    unittest.main()
