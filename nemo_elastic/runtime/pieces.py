# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens to text one by one, so that whole characters come out and their pieces make the text of all tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: what decoders put where bytes make no character, yet
_BROKEN = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of a growing list of tokens.

    A token of a byte-level vocabulary may end in the middle of a character, and the text of a token may depend on the
    one before it (a space at the beginning of a text is dropped by some decoders). So what is new is what the last
    tokens say together with it, beyond what they said without it; nothing comes out while the end is half a character.

    Args:
        decode: token ids to text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []  # tokens since the last piece but one
        self._known = 0  # of them, those whose text has come out

    def push(self, token: int) -> str:
        """Give the text that is whole now that `token` has come."""
        self._window.append(token)
        return self._text(whole=True)

    def flush(self) -> str:
        """Give what is left, whole or not: no more tokens come."""
        return self._text(whole=False)

    def _text(self, whole: bool) -> str:
        before = self._decode(self._window[: self._known])
        text = self._decode(self._window)
        if len(text) <= len(before) or (whole and text.endswith(_BROKEN)):
            return ""
        self._window = self._window[self._known :]
        self._known = len(self._window)
        return text[len(before) :]
