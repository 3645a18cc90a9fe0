# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Self-speculation: a small member of the family drafts, a larger one reads the draft in one forward and keeps the
tokens that it would have chosen.

Where time is spent on reading weights, a forward of a few tokens is about as fast as one of a single token, so a
mostly right draft gives several tokens per forward. The output is the large member's: the same tokens where the most
likely one is taken (up to what rounding makes of ties), the same distribution where tokens are sampled. Draft tokens
that do not stay are taken back from both members' caches (`nn.cache.Cache.rewind`).

The number of draft tokens follows from the accepted share so far. Where each draft token is accepted with
probability a, and the draft's forward costs c of the large member's, k draft tokens make speculation this many times
as fast (Leviathan et al., arXiv 2211.17192, theorem 3.8)::

    (1 + a + ... + a^k) / (c k + 1)

b: sequences of the batch, v: vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from nemo_elastic.core.cost import parameters
from nemo_elastic.nn.generate import Reader, Unfinished
from nemo_elastic.nn.weights import Weights

from .token_sampling import MostLikely

#: default maximum number of draft tokens
MOST = 8
#: forwards of the large member without a draft, after drafts that did not pay
PAUSE = 16
#: prior of the accepted share, and its weight in tokens
_GUESS, _WORTH = 0.8, 4.0
#: factor per round on the weight of earlier observations
_FADE = 0.95


def speed_up(accepted: float, k: int, cost: float) -> float:
    """Tokens per time with k draft tokens over tokens per time without.

    `accepted` is the share of draft tokens accepted where all before them were, `cost` a forward of the draft over one
    of the large member.
    """
    return sum(accepted**n for n in range(k + 1)) / (cost * k + 1)


def best_length(accepted: float, cost: float, most: int = MOST) -> int:
    """The smallest number of draft tokens from 0 to `most` that maximises `speed_up`."""
    return max(range(most + 1), key=lambda k: speed_up(accepted, k, cost))


@dataclass
class DraftLength:
    """Number of draft tokens for one prompt: `fixed`, or chosen by the accepted share so far.

    `cost` is a forward of the draft over one of the large member.
    """

    cost: float
    fixed: int | None = None
    _accepted: float = _GUESS * _WORTH
    _seen: float = _WORTH
    _paused: int = 0

    def next(self, most: int) -> int:
        """How many now, at most `most`; 0 where drafting does not pay, but for one token now and then."""
        if self.fixed is not None:
            return min(self.fixed, most)
        length = best_length(self._accepted / self._seen, self.cost)
        if not length:
            self._paused += 1
            if self._paused <= PAUSE:
                return 0
        self._paused = 0
        return min(max(length, 1), most)

    def learn(self, drafted: int, accepted: int) -> None:
        """Count accepted and rejected draft tokens; tokens after the first rejected one do not count."""
        if drafted:
            self._accepted = self._accepted * _FADE + accepted
            self._seen = self._seen * _FADE + accepted + (accepted < drafted)


class Speculation(Unfinished):
    """Prompts decoded with a draft; an iteration yields one token of each, as in `nn.generate.Decoding`.

    Sequences of a batch advance independently: each keeps the accepted part of its draft and adapts its number of
    draft tokens. Its tokens do not depend on the others.

    Args:
        weights: of the member that answers.
        draft: of a smaller one that drafts; both of the same vocabulary.
        prompts, limits, stop_ids: as of `Decoding`.
        chooser: chooses for both.
        k: number of draft tokens; None adapts it.

    Attributes:
        drafted: of each prompt, draft tokens that were read by the member that answers.
        accepted: how many of them stayed.
    """

    def __init__(
        self,
        weights: Weights,
        draft: Weights,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        stop_ids: Iterable[int],
        chooser: MostLikely,
        k: int | None = None,
    ) -> None:
        super().__init__(limits, stop_ids)
        self._weights, self._draft, self._chooser = weights, draft, chooser
        self._known = [list(ids) for ids in prompts]
        cost = parameters(draft.parent, draft.member) / parameters(weights.parent, weights.member)
        self._lengths = [DraftLength(cost, k) for _ in prompts]
        self.drafted, self.accepted = [0] * len(prompts), [0] * len(prompts)

    def __iter__(self) -> Iterator[dict[int, int]]:
        """Yield new tokens: prompt -> token, also the stop token."""
        active = [i for i in range(len(self._known)) if i not in self.ended]
        if not active:
            return
        large, small = Reader(self._weights, self._known), Reader(self._draft, self._known)
        logits_bv = large.prefill(active)
        small.prefill(active)
        first = self._chooser.choose(logits_bv, active)
        yield from self._give({i: [token] for i, token in zip(active, first, strict=True)})
        while len(active := [i for i in active if i not in self.ended]):
            for reader in (large, small):
                reader.narrow(self.ended)
            yield from self._give(self._round(large, small, active))

    def _round(self, large: Reader, small: Reader, active: Sequence[int]) -> dict[int, list[int]]:
        """Draft, read and keep: the new tokens of each prompt, at least one."""
        counts = {i: self._lengths[i].next(self._left[i] - 1) for i in active}
        drafts = self._drafts(small, {i: n for i, n in counts.items() if n})
        logits_blv = large.read({i: [self._known[i][-1], *drafts.get(i, [])] for i in active}, mark=bool(drafts))
        new = {}
        for i in active:
            drafted = drafts.get(i, [])
            new[i] = self._chooser.settle(logits_blv[large.row(i), : len(drafted) + 1], drafted, i)
            kept = len(new[i]) - 1
            self.drafted[i] += len(drafted)
            self.accepted[i] += kept
            self._lengths[i].learn(len(drafted), kept)
        if drafts:
            large.rewind({i: len(tokens) for i, tokens in new.items()})
            # the draft has not read its last token
            small.rewind({i: min(len(new[i]) - 1, len(tokens) - 1) for i, tokens in drafts.items()})
        return new

    def _drafts(self, small: Reader, counts: Mapping[int, int]) -> dict[int, list[int]]:
        """Draft `counts[i]` tokens of prompt i; marks the end of the known tokens in the cache."""
        drafts: dict[int, list[int]] = {i: [] for i in counts}
        if not drafts:
            return drafts
        unread = {i: self._known[i][small.length(i) :] for i in counts}
        logits_blv = small.read(unread, mark=True)
        small.rewind({i: len(tokens) for i, tokens in unread.items()})
        small.cache.mark()
        last = {i: logits_blv[small.row(i), len(tokens) - 1] for i, tokens in unread.items()}
        while True:
            more = self._chooser.draft(torch.stack([last[i] for i in last]), list(last))
            for i, token in zip(last, more, strict=True):
                drafts[i].append(token)
            going = [i for i in last if len(drafts[i]) < counts[i]]
            if not going:
                return drafts
            logits_blv = small.read({i: drafts[i][-1:] for i in going})
            last = {i: logits_blv[small.row(i), 0] for i in going}

    def _give(self, new: Mapping[int, Sequence[int]]) -> Iterator[dict[int, int]]:
        """Yield tokens one by one, none after the end of a sequence."""
        for n in range(max(map(len, new.values()))):
            step = {i: tokens[n] for i, tokens in new.items() if n < len(tokens) and i not in self.ended}
            for i, token in step.items():
                self._known[i].append(token)
                self._got(i, token)
            if step:
                yield step
