# SPDX-License-Identifier: Apache-2.0
"""Log-likelihoods of continuations, what evaluation harnesses ask for."""

from __future__ import annotations

from typing import Callable, List, NamedTuple, Optional, Sequence as Many, Tuple

import numpy as np

from neoxref._arrays import Floats, Tokens, as_tokens, nll
from neoxref._core import Error
from neoxref._model import Model, Sequence
from neoxref._press import Press


class Continuation(NamedTuple):
    """How likely a continuation is."""

    log_likelihood: float  #: sum of -nll over its tokens, binary64, in token order
    greedy: bool           #: every token of it was the arg-max
    cut: bool              #: some of its tokens were predicted after a cut


def continuations(model: Model, pairs: Many[Tuple[Tokens, Tokens]], press: Optional[Press] = None,
                  progress: Optional[Callable[[int], object]] = None) -> List[Continuation]:
    """Log-likelihoods of continuations, each behind its context.

    pairs     (context, continuation) token ids, at least one each. A pair that is longer than the
              model's context and one token loses the beginning of its context.
    press     set from the first token of the context on; the context is its prompt. A context that
              several pairs share enters once, and is forked.
    progress  called with the number of pairs done.
    Errors    Error for a continuation that does not fit, and as Sequence.feed.
    """
    most = model.config.max_positions + 1
    jobs = []
    for index, (before, after) in enumerate(pairs):
        context, continuation = as_tokens(before, "context"), as_tokens(after, "continuation")
        if len(context) == 0 or not 0 < len(continuation) < most:
            raise Error(f"pair {index}: not usable (expected a context, and a continuation of 1 to "
                        f"{most - 1} tokens, found {len(context)} and {len(continuation)})")
        context = context[max(0, len(context) + len(continuation) - most):]
        jobs.append((context.tobytes(), index, context, continuation))
    results: List[Optional[Continuation]] = [None] * len(jobs)
    entered: Optional[bytes] = None
    base: Optional[Sequence] = None
    first: Optional[Floats] = None
    for done, (key, index, context, continuation) in enumerate(sorted(jobs, key=lambda job: job[:2])):
        if base is None or key != entered:
            base = model.sequence(most, press)
            first = base.feed(context)
            base.end_prompt()
            entered = key
        assert first is not None
        sequence = base.fork()
        logits = first[np.newaxis]
        if len(continuation) > 1:
            rest = sequence.feed(continuation[:-1], "all")
            assert rest is not None
            logits = np.concatenate([logits, rest])
        # A cut behind the last token that entered changes no logits.
        cut = any(one.position + 1 < sequence.position for one in sequence.cuts)
        results[index] = Continuation(
            -float(sum(nll(logits, continuation).astype(float))),
            bool((logits.argmax(axis=1) == continuation).all()), cut)
        if progress is not None:
            progress(done + 1)
    return [result for result in results if result is not None]
