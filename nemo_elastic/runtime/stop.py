# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Text ends before a stop string, of which no part is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nemo_elastic.errors import bad

_ALLOWED = "a text, or a list of texts, none of them empty"


def stop_strings(given: Any) -> tuple[str, ...]:
    """Stop strings as a user gives them: one, several or none.

    Raises:
        ElasticError: one is no text, or empty.
    """
    found = () if given is None else (given,) if isinstance(given, str) else given
    if not isinstance(found, (list, tuple)) or not all(isinstance(s, str) and s for s in found):
        raise bad("stop", given, _ALLOWED)
    return tuple(found)


class StopFilter:
    """Lets text through piece by piece, up to the first stop string.

    What may be the beginning of one is held back until the text behind it has shown whether it is.

    Args:
        stops: none of them empty.

    Attributes:
        stopped: one was found; nothing comes through any more.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = tuple(stops), ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Give what is safe to show now that `piece` has come."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((self._begun(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Give what was held back: the text is over."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """Length of the longest beginning of `stop` that `text` ends with."""
        longest = min(len(stop) - 1, len(text))
        return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
