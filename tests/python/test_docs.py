# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/python.md, run."""

import doctest
import os
import re
import unittest
from pathlib import Path

PAGE = Path(os.environ["NEOXREF_SOURCE_DIR"]) / "docs" / "python.md"


class Docs(unittest.TestCase):
    def test_examples(self):
        text = PAGE.read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M))
        examples = doctest.DocTestParser().get_doctest(code, {}, "docs/python.md", str(PAGE), 0)
        self.assertGreater(len(examples.examples), 20)
        said = []
        doctest.DocTestRunner(verbose=False).run(examples, out=said.append)
        self.assertFalse(said, "".join(said))


if __name__ == "__main__":
    unittest.main()
