# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""An answer while it is being decoded: tokens in, pieces of text or tokens out, for each prompt of a batch.

Whole characters come out, and their pieces make the text of all tokens. Text ends before a stop string, of which no
part is shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from nemo_elastic.errors import bad
from nemo_elastic.formats.tokenizer import FamilyTokenizer
from nemo_elastic.nn.generate import Decoding

from .prompts import Prompts
from .speculation import Speculation

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


_ALLOWED = "a text, or a list of texts, none of them empty"


def stop_strings(given: Any) -> tuple[str, ...]:
    """Stop strings as a user gives them: one, several or none.

    Raises:
        ElasticError: one is no text, or empty.
    """
    stops = () if given is None else (given,) if isinstance(given, str) else given
    if not isinstance(stops, (list, tuple)) or not all(isinstance(s, str) and s for s in stops):
        raise bad("stop", given, _ALLOWED)
    return tuple(stops)


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
        places = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
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


class Answer:
    """One answer that grows.

    Args:
        tokenizer: to see its text; None where nobody asks for that, and tokens pass through.
        stops: strings before which it ends; they need the tokenizer.
        end_ids: tokens that end it; they are no text.
        as_text: whether pieces of text come out, or tokens.

    Attributes:
        stopped: a stop string was found.
    """

    def __init__(
        self, tokenizer: FamilyTokenizer | None, stops: Sequence[str], end_ids: frozenset[int], as_text: bool
    ) -> None:
        self._whole = Detokenizer(tokenizer.decode) if tokenizer is not None else None
        self._stop, self._end_ids, self._as_text = StopFilter(stops), end_ids, as_text
        self._decoded = self._shown = 0  # characters
        self._tokens: deque[list[int]] = deque()  # [token, characters up to its end] of those that are not out
        self._unread: list[int] = []  # tokens whose text is not whole yet

    @property
    def stopped(self) -> bool:
        return self._stop.stopped

    def push(self, token: int, last: bool) -> list[str] | list[int]:
        """What comes out now that `token` has come.

        Args:
            token: the next token.
            last: no more tokens will come.
        """
        if self._whole is None:
            return [token]
        ends = token in self._end_ids
        if not ends:
            self._unread.append(token)
        text = self._read("" if ends else self._whole.push(token))
        if last and not self.stopped:
            text += self._read(self._whole.flush())
            if not self.stopped:
                text += self._stop.flush()
        self._shown += len(text)
        if self._as_text:
            return [text] if text else []
        return self._whole_tokens(over=last and not self.stopped) + ([token] if ends and not self.stopped else [])

    def _read(self, piece: str) -> str:
        if piece:
            self._decoded += len(piece)
            self._tokens.extend([t, self._decoded] for t in self._unread)
            self._unread = []
        return self._stop.push(piece)

    def _whole_tokens(self, over: bool) -> list[int]:
        """Tokens of which all text was shown; all that are left where the answer is over."""
        out = []
        while self._tokens and (over or self._tokens[0][1] <= self._shown):
            out.append(self._tokens.popleft()[0])
        if over:
            out, self._unread = out + self._unread, []
        return out


class Pieces(Iterator):
    """Answers as they come, by whoever gives them.

    Args:
        numbered: pieces with the number of their prompt.
        single: one prompt was given, not a batch.
    """

    def __init__(self, numbered: Generator[tuple[int, str | int], None, None], single: bool) -> None:
        self._numbered, self._single = numbered, single

    def numbered(self) -> Iterator[tuple[int, str | int]]:
        """Pieces with the number of their prompt, also where there is one prompt."""
        return self._numbered

    def close(self) -> None:
        """Let the answers go no further."""
        self._numbered.close()

    def __next__(self) -> str | int | tuple[int, str | int]:
        i, piece = next(self._numbered)
        return piece if self._single else (i, piece)


class Stream(Pieces):
    """Answers as they come.

    Of one prompt it gives pieces of text, or tokens where tokens were given; of a batch (number of the prompt, piece).
    The pieces of a text are whole characters, and together they are what comes without `stream`.

    Attributes:
        prompt_tokens: how many tokens each prompt has.
        new_tokens: how many were decoded for each, so far.
        drafted: how many a draft has said for each, so far; zeros without one.
        accepted: how many of these the member would have said too.
    """

    def __init__(
        self, decoding: Decoding | Speculation, prompts: Sequence[Sequence[int]], answers: list[Answer], single: bool
    ) -> None:
        self.prompt_tokens = [len(ids) for ids in prompts]
        self.new_tokens = [0] * len(prompts)
        self.drafted, self.accepted = self.new_tokens[:], self.new_tokens[:]
        if isinstance(decoding, Speculation):
            self.drafted, self.accepted = decoding.drafted, decoding.accepted  # which it counts on
        super().__init__(self._run(decoding, answers), single)

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

    @property
    def acceptance(self) -> float | None:
        """The share of draft tokens that were accepted, of all prompts; None where nothing was drafted."""
        return sum(self.accepted) / drafted if (drafted := sum(self.drafted)) else None


def gathered(running: Pieces, given: Prompts) -> Any:
    """Whole answers in the form of their prompts: texts or token ids, one or a list."""
    out: list[list[Any]] = [[] for _ in given.ids]
    for i, piece in running.numbered():
        out[i].append(piece)
    answers = ["".join(pieces) for pieces in out] if given.are_text else out
    return answers[0] if given.single else answers
