#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The program as a user meets it: documents, exit statuses, errors, files, pipes.

usage: python3 tests/program_test.py PATH_TO_NEOXREF [unittest arguments]
       python3 tests/program_test.py --parts      prints the names of the parts

Needs only the standard library.
"""
import os
import sys
import unittest

from program import case
from program.analyze import Analyze
from program.bench import Bench, Synth
from program.compare import Compare
from program.evaluate import Eval, Plan
from program.files import Inspect, Logits, Tokenize
from program.golden import Golden
from program.laboratory import Laboratory
from program.models import Checkpoints, Verify
from program.page import Page
from program.run import Run
from program.streams import Streams
from program.usage import Help, Usage

PARTS = [name for name, value in globals().items()
         if isinstance(value, type) and issubclass(value, unittest.TestCase)]

if __name__ == "__main__":
    if sys.argv[1:] == ["--parts"]:
        sys.exit(print(*PARTS))
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit("usage: program_test.py PATH_TO_NEOXREF [unittest arguments]")
    case.PROGRAM[:] = [os.path.abspath(sys.argv[1])]
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
