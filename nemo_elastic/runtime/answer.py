# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""An answer while it is being decoded: tokens in, pieces of text or tokens out, for each prompt of a batch.

Whole characters come out, and their pieces make the text of all tokens. Text ends before a stop string, of which no
part is shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from nemo_elastic.errors import bad
from nemo_elastic.formats.tokenizer import FamilyTokenizer
from nemo_elastic.nn.generate import Decoding

from .speculation import Speculation


def stop_strings(given: Any) -> tuple[str, ...]:
    """A tuple of stop strings, from one, several or None."""
    stops = () if given is None else (given,) if isinstance(given, str) else given
    if not isinstance(stops, (list, tuple)) or not all(isinstance(s, str) and s for s in stops):
        raise bad("stop", given, "a text or a list of texts, each with at least one character")
    return tuple(stops)


class Answer:
    """One answer that grows, as pieces of text or as tokens.

    Args:
        tokenizer: decodes text; None to yield tokens.
        stops: strings before which it ends; they need the tokenizer.
        end_ids: tokens that end it; they are no text.
        as_text: whether pieces of text come out, or tokens.

    Attributes:
        stopped: a stop string was found.
    """

    def __init__(
        self, tokenizer: FamilyTokenizer | None, stops: Sequence[str], end_ids: frozenset[int], as_text: bool
    ) -> None:
        self._tokenizer, self._stops, self._end_ids, self._as_text = tokenizer, tuple(stops), end_ids, as_text
        self._decode = None if tokenizer is None else tokenizer.decode_stream()
        self._ids: list[int] = []
        self._text, self._shown = "", 0  # of these tokens, and how many of its characters are out
        self._waiting: deque[tuple[int, int]] = deque()  # tokens that are not out, and where the text of each ends
        self._partial: list[int] = []  # later tokens, whose text is not complete yet
        self.stopped = False

    def push(self, token: int, last: bool) -> list[str] | list[int]:
        """What comes out now that `token` has come; no more come after the `last`."""
        if self._tokenizer is None or self._decode is None:
            return [token]
        before, ends = len(self._text), token in self._end_ids
        if not ends:
            self._ids.append(token)
            self._partial.append(token)
            self._text += self._decode(token)
        if last:  # half a character comes out too
            self._text = self._tokenizer.decode(self._ids)
        if len(self._text) > before:
            self._waiting.extend((each, len(self._text)) for each in self._partial)
            self._partial = []
        start, self._shown = self._shown, self._end(last)
        if self._as_text:
            return [self._text[start : self._shown]] if self._shown > start else []
        over = last and not self.stopped
        out = []
        while self._waiting and (over or self._waiting[0][1] <= self._shown):
            out.append(self._waiting.popleft()[0])
        return out + (self._partial if over else []) + ([token] if ends and not self.stopped else [])

    def _end(self, last: bool) -> int:
        """Up to where the text may be shown: to a stop string, or to what may be the beginning of one."""
        places = [at for stop in self._stops if (at := self._text.find(stop, self._shown)) >= 0]
        if places:
            self.stopped = True
            return min(places)
        return len(self._text) - (0 if last else max(map(self._begun, self._stops), default=0))

    def _begun(self, stop: str) -> int:
        """Length of the longest beginning of `stop` that the text ends with."""
        longest = min(len(stop) - 1, len(self._text) - self._shown)
        return next((n for n in range(longest, 0, -1) if self._text.endswith(stop[:n])), 0)


class Stream(Iterator):
    """Answers as they come.

    For one prompt it yields pieces of text, or tokens if tokens were given; for a batch (number of the prompt, piece).
    The pieces of a text are whole characters, and together they are what comes without `stream`.

    Attributes:
        prompt_tokens: how many tokens each prompt has.
        new_tokens: how many were decoded for each, so far.
        drafted: how many a draft has proposed for each, so far; zeros without one.
        accepted: how many of these the member would have chosen too.
    """

    def __init__(
        self, decoding: Decoding | Speculation, prompts: Sequence[Sequence[int]], answers: list[Answer], single: bool
    ) -> None:
        self.prompt_tokens = [len(ids) for ids in prompts]
        self.new_tokens = [0] * len(prompts)
        self.drafted, self.accepted = self.new_tokens[:], self.new_tokens[:]
        if isinstance(decoding, Speculation):
            self.drafted, self.accepted = decoding.drafted, decoding.accepted  # which it counts on
        self._numbered, self._single = self._run(decoding, answers), single

    def _run(
        self, decoding: Decoding | Speculation, answers: list[Answer]
    ) -> Generator[tuple[int, str | int], None, None]:
        for step in decoding:
            for i, token in step.items():
                self.new_tokens[i] += 1
                out = answers[i].push(token, i in decoding.ended)
                if answers[i].stopped:
                    decoding.end(i)
                for piece in out:
                    yield i, piece

    def __next__(self) -> str | int | tuple[int, str | int]:
        i, piece = next(self._numbered)
        return piece if self._single else (i, piece)

    def close(self) -> None:
        """Let the answers go no further."""
        self._numbered.close()

    def numbered(self) -> Iterator[tuple[int, str | int]]:
        """Pieces with the number of their prompt, also where there is one prompt."""
        return self._numbered

    @property
    def acceptance(self) -> float | None:
        """The share of draft tokens that were accepted, of all prompts; None where nothing was drafted."""
        return sum(self.accepted) / drafted if (drafted := sum(self.drafted)) else None
