# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX inference on CPUs with bits fixed by a contract; a laboratory for KV-cache compression.

    >>> import neoxref
    >>> model = neoxref.load("mini")
    >>> tokens = model.encode("The old captain")
    >>> model.forward(tokens).shape
    (4, 2048)

Arrays go in and come out as numpy arrays: token ids int32, all else float32. Whatever cannot be used
raises Error, in one line. docs/python.md shows the whole package.
"""

from neoxref._arrays import Digest, digest, key_norms, nll
from neoxref._compare import Comparison, assert_matches, compare
from neoxref._compare_torch import compare_torch, torch_tensors
from neoxref._compare_units import UnitComparison, compare_units
from neoxref._compress import l2_compress
from neoxref._core import Error
from neoxref._core import version as __version__
from neoxref._evaluate import Evaluation, NotCut, Row, TextRow, evaluate
from neoxref._generate import Generation
from neoxref._golden import (Difference, Golden, TensorDigest, Verification, golden, oracle,
                             verify)
from neoxref._likelihood import Continuation, continuations
from neoxref._model import CacheLayer, Config, Cut, Model, Sequence, load, sample_texts
from neoxref._press import OwnScore, PlannedCut, Press, plan
from neoxref._tokenizer import Tokenizer

__all__ = [
    "CacheLayer", "Comparison", "Config", "Continuation", "Cut", "Difference", "Digest", "Error",
    "Evaluation", "Generation", "Golden", "Model", "NotCut", "OwnScore", "PlannedCut", "Press",
    "Row", "Sequence", "TensorDigest", "TextRow", "Tokenizer", "UnitComparison", "Verification",
    "__version__", "assert_matches", "compare", "compare_torch", "compare_units", "continuations",
    "digest", "evaluate", "golden", "key_norms", "l2_compress", "load", "nll", "oracle", "plan",
    "sample_texts", "torch_tensors", "verify",
]
