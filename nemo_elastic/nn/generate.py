# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding of many prompts at once, whatever their lengths; greedily, or with a choice of one's own.

b: sequences of the batch, v: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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


class Decoding(Unfinished):
    """Prompts that are being decoded; each step of the iteration gives one token more of each.

    All sequences start at position 0 and move in step: the shortest prompt's length is read in one forward; from there
    on a sequence that is still in its prompt is fed the prompt's next token, and the others the token they got last.
    So there is neither padding nor a mask, which Mamba's states would not tolerate, and each sequence gets exactly
    what it would get alone. Ended sequences leave the batch.
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
        weights, ids = self._weights, self._prompts
        device = weights.embedding.device
        at = min(len(ids[i]) for i in active)
        cache = Cache.empty(weights.parent, weights.member, len(active), weights.embedding)
        logits_bv = self._read([list(ids[i][:at]) for i in active], cache)
        while True:
            new = self._say(logits_bv, active, at)
            if new:
                yield new
            at += 1
            gone = len(self.ended.intersection(active))
            if gone == len(active):
                return
            if gone > COMPACT_AT * len(active):
                rows = [row for row, i in enumerate(active) if i not in self.ended]
                cache.select(torch.tensor(rows, device=device))
                active = [active[row] for row in rows]
            # what an ended sequence is fed is read by nobody
            fed = [ids[i][at - 1] if at <= len(ids[i]) else new.get(i, 0) for i in active]
            logits_bv = self._read([[token] for token in fed], cache)

    def _read(self, tokens: Sequence[Sequence[int]], cache: Cache) -> torch.Tensor:
        """The last logits [b, v] behind more tokens of every row."""
        tokens_bl = torch.tensor(tokens, device=self._weights.embedding.device)
        with torch.no_grad():
            return forward(self._weights, tokens_bl, cache=cache, last=True)[:, -1]

    def _say(self, logits_bv: torch.Tensor, active: Sequence[int], at: int) -> dict[int, int]:
        """New tokens of the sequences whose prompts are behind them, `at` tokens long."""
        rows = [row for row, i in enumerate(active) if at >= len(self._prompts[i]) and i not in self.ended]
        if not rows:
            return {}
        speaking = [active[row] for row in rows]
        chosen = self._choose(logits_bv if len(rows) == len(active) else logits_bv[rows], speaking)
        new = dict(zip(speaking, chosen, strict=True))
        for i, token in new.items():
            self._got(i, token)
        return new


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
