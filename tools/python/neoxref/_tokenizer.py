# SPDX-License-Identifier: Apache-2.0
"""Texts to token ids and back."""

from __future__ import annotations

import os
from typing import Optional, Union

import numpy as np
import numpy.typing as npt

from neoxref import _core
from neoxref._arrays import Tokens, as_tokens
from neoxref._core import Error


class Tokenizer:
    """The tokenizer of GPT-NeoX and Pythia, with the ids that Hugging Face tokenizers gives."""

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        """Reads a tokenizer.json. Errors: Error for a file that is not one, or contradicts itself."""
        self._core = _core.Tokenizer.open(os.fspath(path))

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Ids of a text, int32 [tokens]; no token is put before or behind it."""
        if not isinstance(text, str):
            raise Error(f"text: not a text (found {type(text).__name__})")
        try:
            utf8 = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Error(f"text: not Unicode at character {error.start}") from None
        return self._core.encode(utf8)

    def decode(self, ids: Tokens, skip_special: bool = False) -> str:
        """Text of some ids; U+FFFD stands for bytes that are no character."""
        return self._core.decode(as_tokens(ids), skip_special)

    def bytes_of(self, token: int) -> bytes:
        """The bytes that an id stands for; they may be part of a character."""
        return self._core.bytes_of(int(as_tokens([token])[0]))

    def is_special(self, token: int) -> bool:
        """Whether a special token, such as the end of a text."""
        return self._core.is_special(int(as_tokens([token])[0]))

    def id_of(self, token: str) -> Optional[int]:
        """Id of a token as tokenizer.json spells it ("Ġthe", "<|endoftext|>"), or None."""
        return self._core.id_of(token)

    @property
    def vocab_size(self) -> int:
        """Ids are 0 to vocab_size - 1, added tokens included; a model may have more rows."""
        return self._core.vocab_size
