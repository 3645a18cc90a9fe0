# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding of many prompts at once, whatever their lengths; greedily, or with a choice of one's own.

b: sequences of the batch, v: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.values import integer
from nemo_elastic.nn.cache import Cache
from nemo_elastic.nn.forward import forward
from nemo_elastic.nn.functional import count_not_finite
from nemo_elastic.nn.weights import Weights

#: the batch is made smaller once this share of its sequences has ended
COMPACT_AT = 0.125
#: logits [b, v] and the prompts that the rows belong to -> the next token of each row
Choose = Callable[[torch.Tensor, Sequence[int]], list[int]]


def check_finite(logits: torch.Tensor) -> torch.Tensor:
    """Logits [..., v] if they are finite, else `ElasticError`: the most likely token of others is any token."""
    if count := count_not_finite(logits):
        raise ElasticError(
            f"logits: {count} of {logits.numel()} are infinite or not a number; load the family in a wider dtype, or "
            "check it with nemo-elastic verify"
        )
    return logits


def most_likely(logits_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
    """The most likely token of each row; `ElasticError` where logits are not finite."""
    return check_finite(logits_bv).argmax(-1).tolist()


class Unfinished:
    """Which prompts get more tokens, up to their limits and a stop token; `ended` are those that do not."""

    def __init__(self, limits: Sequence[int], stop_ids: Iterable[int]) -> None:
        self._left, self._stops = list(limits), frozenset(stop_ids)
        self.ended = {i for i, limit in enumerate(limits) if limit < 1}

    def end(self, prompt: int) -> None:
        """Let a sequence get no more tokens, for a reason that is not seen here."""
        self.ended.add(prompt)

    def _got(self, prompt: int, token: int) -> None:
        """A sequence has got a token, which may be its last."""
        self._left[prompt] -= 1
        if token in self._stops or not self._left[prompt]:
            self.ended.add(prompt)


class Reader:
    """A member that reads along: its cache, and which prompt each row of it belongs to; `known` grows meanwhile."""

    def __init__(self, weights: Weights, known: Sequence[Sequence[int]]) -> None:
        self._weights, self._known = weights, known
        self._rows: dict[int, int] = {}
        self.cache = self._empty(0)

    def row(self, prompt: int) -> int:
        """Row of a prompt."""
        return self._rows[prompt]

    def length(self, prompt: int) -> int:
        """How many tokens of a prompt were read."""
        return self.cache.lengths[self._rows[prompt]]

    def prefill(self, prompts: Sequence[int]) -> torch.Tensor:
        """Read everything known of these prompts, those of one length at once; the last logits of each, [b, v].

        So there is no padding: a prompt may be much longer than another.
        """
        groups: dict[int, list[int]] = {}
        for i in prompts:
            groups.setdefault(len(self._known[i]), []).append(i)
        caches, logits = [], []
        for group in groups.values():
            cache = self._empty(len(group))
            logits.append(self._forward([self._known[i] for i in group], cache, last=True)[:, -1])
            caches.append(cache)
        self.cache = Cache.joined(caches)
        self._number(i for group in groups.values() for i in group)
        return torch.cat(logits)[[self._rows[i] for i in prompts]]

    def read(self, tokens: Mapping[int, Sequence[int]], mark: bool = False) -> torch.Tensor:
        """Logits [b, l, v] of tokens, l as the most that a prompt has; behind a prompt's own they mean nothing.

        Prompts that are missing or have fewer tokens are padded. With a `mark` that can be taken back, and must be
        where the prompt has not ended.
        """
        width = max(map(len, tokens.values()))
        if mark:
            self.cache.mark()
        rows = [list(tokens.get(i, ())) for i in self._rows]
        return self._forward([[*row, *[0] * (width - len(row))] for row in rows], self.cache)

    def rewind(self, kept: Mapping[int, int]) -> None:
        """Go back to so many tokens behind the mark; of prompts that are missing, to the mark."""
        self.cache.rewind([kept.get(i, 0) for i in self._rows])

    def narrow(self, ended: set[int]) -> None:
        """Leave out prompts that have ended, once there are enough of them."""
        staying = [i for i in self._rows if i not in ended]
        if len(self._rows) - len(staying) > COMPACT_AT * len(self._rows):
            self.cache.select(torch.tensor([self._rows[i] for i in staying], device=self._weights.embedding.device))
            self._number(staying)

    def _number(self, prompts: Iterable[int]) -> None:
        self._rows = {i: row for row, i in enumerate(prompts)}

    def _empty(self, batch: int) -> Cache:
        return Cache.empty(self._weights.parent, self._weights.member, batch, self._weights.embedding)

    def _forward(self, tokens: Sequence[Sequence[int]], cache: Cache, last: bool = False) -> torch.Tensor:
        tokens_bl = torch.tensor(tokens, device=self._weights.embedding.device)
        with torch.no_grad():
            return forward(self._weights, tokens_bl, cache=cache, last=last)


class Decoding(Unfinished):
    """Prompts that are being decoded; each step of the iteration gives one token more of each.

    Every sequence is at a length of its own, so there is no padding, which Mamba's states would not tolerate, and each
    sequence gets exactly what it would get alone. Ended sequences leave the batch.
    """

    def __init__(
        self,
        weights: Weights,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        stop_ids: Iterable[int] = (),
        choose: Choose = most_likely,
    ) -> None:
        super().__init__(limits, stop_ids)
        self._weights, self._prompts, self._choose = weights, prompts, choose

    def __iter__(self) -> Iterator[dict[int, int]]:
        """Give the new tokens of each step: prompt -> token, the stop token as well."""
        active = [i for i in range(len(self._prompts)) if i not in self.ended]
        if not active:
            return
        reader = Reader(self._weights, self._prompts)
        logits_bv = reader.prefill(active)
        while True:
            new = dict(zip(active, self._choose(logits_bv, active), strict=True))
            for i, token in new.items():
                self._got(i, token)
            yield new
            active = [i for i in active if i not in self.ended]
            if not active:
                return
            reader.narrow(self.ended)
            logits_blv = reader.read({i: [new[i]] for i in active})
            logits_bv = logits_blv[[reader.row(i) for i in active], 0]


def generate(
    weights: Weights,
    prompts: torch.Tensor | Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    stop_ids: Iterable[int] = (),
) -> list[list[int]]:
    """The most likely next token, again and again, for prompts of any lengths (best of similar ones); see `Decoding`.

    Gives the new tokens of each prompt, with the stop token where one came. `ElasticError` where a prompt is empty, or
    a token is not in the vocabulary.
    """
    ids = token_ids(prompts, weights.parent.vocab)
    new: list[list[int]] = [[] for _ in ids]
    for step in Decoding(weights, ids, token_limits(max_new_tokens, len(ids)), stop_ids):
        for i, token in step.items():
            new[i].append(token)
    return new


def token_ids(prompts: Any, vocab: int) -> list[list[int]]:
    """Prompts, a tensor or array [b, l] or sequences of any lengths, as lists of ints below `vocab`."""
    rows = _listed("prompts", prompts)
    ids = []
    for i, given in enumerate(rows):
        name = f"prompts[{i}]"
        row = _listed(name, given)
        if not row:
            raise bad(name, row, "at least one token")
        row = [t if type(t) is int else integer(name, t, 0, "ids of tokens are whole numbers") for t in row]
        if not 0 <= min(row) <= max(row) < vocab:
            raise bad(name, [min(row), max(row)], f"tokens are 0 to {vocab - 1}")
        ids.append(row)
    return ids


def token_limits(max_new_tokens: Any, prompts: int, low: int = 0) -> list[int]:
    """The most new tokens of each prompt, from one number of at least `low` for all or one for each."""
    asked = max_new_tokens.tolist() if isinstance(max_new_tokens, torch.Tensor) else max_new_tokens
    many = isinstance(asked, Iterable) and not isinstance(asked, (str, bytes))
    words = f"a whole number of tokens, at least {low}"
    limits = [integer("max_new_tokens", n, low, words) for n in (asked if many else [asked])]
    if not many:
        return limits * prompts
    if len(limits) != prompts:
        raise bad("max_new_tokens", f"{len(limits)} numbers", f"one number, or one for each of {prompts} prompts")
    return limits


def _listed(name: str, values: Any) -> list[Any]:
    """What can be listed; of a tensor or an array its numbers."""
    if isinstance(values, torch.Tensor):
        if values.device.type == "meta":
            raise bad(f"device of {name}", "meta", "token ids on a device with data")
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise bad(f"dtype of {name}", str(values.dtype), "token ids are whole numbers, such as torch.int64")
    elif isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise bad(name, values, "a list of token ids for each prompt")
    tolist = getattr(values, "tolist", None)
    listed = list(values) if tolist is None else tolist()
    if not isinstance(listed, list):  # a tensor or an array without dimensions
        raise bad(name, listed, "a list of token ids for each prompt")
    return listed
