# SPDX-License-Identifier: Apache-2.0
"""lm-evaluation-harness (0.4) on neoxref: `pip install lm-eval`, then

    python -m neoxref.lm_eval run --model neoxref \\
        --model_args pretrained=mini,keep_ratio=0.5,prune_after=64 --tasks lambada_openai

or `lm_eval.simple_evaluate(model=NeoxrefLM("mini", keep_ratio=0.5, prune_after=64), ...)`.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any, Dict, List, Optional, Tuple, Union

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from neoxref._core import Error
from neoxref._generate import Generation
from neoxref._likelihood import Continuation, continuations
from neoxref._model import Model, load
from neoxref._press import KeepRatio, Press

PRESS_FIELDS = tuple(field.name for field in fields(Press) if field.init)


def _layers(text: Any) -> Tuple[int, ...]:
    """"none", 0, "0:1" (the harness splits its arguments at commas), or numbers."""
    if isinstance(text, str):
        return () if text == "none" else tuple(int(part) for part in text.split(":"))
    return (text,) if isinstance(text, int) else tuple(text)


@register_model("neoxref")
class NeoxrefLM(TemplateLM):
    """A neoxref model as the harness knows models.

    pretrained     what load() takes, or a Model.
    isa, backend, threads   as load().
    press          a Press; or its fields one by one (keep_ratio=0.5, prune_after=64, ...;
                   skip_layers as 0:1 or none). It presses from the first token of a request on;
                   what the harness calls context is its prompt.
    allow_no_cuts  a compressed run in which nothing was cut before the last prediction of any
                   request measures nothing; without this it is an error.
    The harness hands batch_size, max_batch_size and device to every model; here they mean nothing.
    Other model arguments are errors, so that no misspelt one is passed over.
    """

    def __init__(self, pretrained: Union[str, Model] = "mini", *, isa: str = "", backend: str = "",
                 threads: int = 0, press: Optional[Press] = None, max_gen_toks: int = 256,
                 allow_no_cuts: bool = False, batch_size: Any = None,
                 max_batch_size: Any = None, device: Any = None, **parts: Any) -> None:
        super().__init__()
        unknown = sorted(set(parts) - set(PRESS_FIELDS))
        if unknown:
            raise Error(f"model arguments: unknown (expected some of {', '.join(PRESS_FIELDS)}, "
                        f"found {', '.join(unknown)})")
        if press is not None and parts:
            raise Error("press: given both whole and in parts")
        if parts:
            if "skip_layers" in parts:
                parts["skip_layers"] = _layers(parts["skip_layers"])
            press = Press(**parts)
        self.model = pretrained if isinstance(pretrained, Model) else load(
            pretrained, isa=isa, backend=backend, threads=threads)
        self.press = press
        self.max_gen_toks = max_gen_toks
        self.allow_no_cuts = allow_no_cuts
        #: Requests, and those of them that a cut had a say in.
        self.asked = 0
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        """The first end-of-text token of the config."""
        config = self.model.config
        if not config.eos_token_ids:
            raise Error("config.json: eos_token_id: there is none to begin a text with")
        return config.eos_token_ids[0]

    @property
    def max_length(self) -> int:
        """The context of the model, in tokens."""
        return self.model.config.max_positions

    def tok_encode(self, string: str, add_special_tokens: Optional[bool] = None,
                   **options: Any) -> List[int]:
        """Ids of a text; no token is put before or behind it, whatever is asked for."""
        return [int(token) for token in self.model.encode(string)]

    def _count(self, cut: List[bool]) -> None:
        """Says no to a compressed run that compressed nothing."""
        self.asked += len(cut)
        self.cut += sum(cut)
        if self.press is not None and cut and not any(cut) and not self.allow_no_cuts:
            raise Error(f"{len(cut)} requests: nothing was cut before the last prediction of any, so "
                        f"this measures no compression (prune_after {self.press.prune_after}; "
                        f"allow_no_cuts=True goes on)")

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False,
                              **options: Any) -> List[Tuple[float, bool]]:
        found = continuations(self.model, [(context, after) for _, context, after in requests],
                              self.press)
        self._count([one.cut for one in found])
        answers = [(one.log_likelihood, one.greedy) for one in found]
        for (texts, _, _), answer in zip(requests, answers):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> List[float]:
        """Whole texts, in windows that predict each token once: the first begins with eot_token_id,
        the last reaches back over tokens that were predicted already, as the harness has it."""
        windows: List[Tuple[List[int], List[int]]] = []
        owners: List[int] = []
        for number, request in enumerate(requests):
            for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]), prefix_token=self.eot_token_id,
                    max_seq_len=self.max_length, context_len=1):
                windows.append(make_disjoint_window(window))
                owners.append(number)
        found: List[Continuation] = continuations(self.model, windows, self.press)
        self._count([one.cut for one in found])
        sums = [0.0] * len(requests)
        for number, one in zip(owners, found):
            sums[number] += one.log_likelihood
        for request, answer in zip(requests, sums):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return sums

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> List[str]:
        """Continuations up to a stop text; do_sample, temperature, top_k, top_p and max_gen_toks are
        understood, all else is an error."""
        made: List[Generation] = []
        for request in requests:
            context, options = request.args
            made.append(self._generate(context, dict(options)))
            self.cache_hook.add_partial("generate_until", request.args, made[-1].text)
        self._count([any(cut.position + 1 < len(one.prompt_tokens) + len(one.tokens) - 1
                         for cut in one.cuts) for one in made])
        return [one.text for one in made]

    def _generate(self, context: str, options: Dict[str, Any]) -> Generation:
        until = options.pop("until", None) or []
        stop = [until] if isinstance(until, str) else [text for text in until if text]
        most = int(options.pop("max_gen_toks", self.max_gen_toks))
        temperature = float(options.pop("temperature", 0.0))
        if not options.pop("do_sample", temperature > 0.0):
            temperature = 0.0
        drawing = {name: options.pop(name) for name in ("top_k", "top_p") if name in options}
        if options:
            raise Error(f"generation: unknown settings {', '.join(sorted(options))}")
        room = max(1, self.max_length - most + 1)
        prompt = (self.tok_encode(context) or [self.eot_token_id])[-room:]
        return self.model.generate(prompt, most, temperature=temperature, stop=stop,
                                   press=self.press, **drawing)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    sys.exit(cli_evaluate())
