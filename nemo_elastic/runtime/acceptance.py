# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a draft stay: greedy, or drawn so that the large member's distribution is met exactly.

Speculative decoding after Leviathan et al. (arXiv 2211.17192, algorithm 1) and Chen et al. (arXiv 2302.01318): a draft
token stays with probability min(1, p / q); in place of the first that does not, one is drawn from max(p - q, 0).

l: positions, v: vocabulary; p: what the large member draws with, q: what the draft drew with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from nemo_elastic.nn.generate import most_likely

from .sampling import Sampler, Sampling, pick


def agreed(said: Sequence[int], drafted: Sequence[int]) -> list[int]:
    """Draft tokens up to the first that the large member would not have said, and what it says there.

    Args:
        said: l + 1 tokens: what the large member takes behind the tokens so far, and behind each draft token.
        drafted: l draft tokens.

    Returns:
        From 1 to l + 1 tokens: those that it says alone.
    """
    same = next((n for n, (a, b) in enumerate(zip(said, drafted, strict=False)) if a != b), len(drafted))
    return list(said[: same + 1])


def drawn(
    p_lv: torch.Tensor, q_lv: Sequence[torch.Tensor], drafted: Sequence[int], chance: Callable[[], float]
) -> list[int]:
    """Draft tokens that stay, and one more; together they are distributed as what the large member draws alone.

    Args:
        p_lv: [l + 1, v]: behind the tokens so far, and behind each draft token.
        q_lv: l times [v].
        drafted: l tokens, each drawn from its q.
        chance: gives numbers from 0 up to 1, exclusive.

    Returns:
        From 1 to l + 1 tokens.
    """
    for n, (token, q_v) in enumerate(zip(drafted, q_lv, strict=True)):
        if chance() * float(q_v[token]) >= float(p_lv[n, token]):
            return [*drafted[:n], *pick(left_over(p_lv[n], q_v)[None], [chance()])]
    return [*drafted, *pick(p_lv[-1:], [chance()])]


def left_over(p_v: torch.Tensor, q_v: torch.Tensor) -> torch.Tensor:
    """What to draw with where a draft token did not stay: max(p - q, 0), not scaled to sum to 1.

    Where rounding alone sets p and q apart nothing may be left; then it is p.
    """
    left_v = (p_v - q_v).clamp(min=0)
    return left_v if bool(left_v.any()) else p_v


class Chooser(Protocol):
    """Chooses for both members; prompts are told apart by their numbers."""

    def first(self, logits_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        """Tokens of the large member behind its prompts, as without a draft."""
        ...

    def draft(self, logits_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        """One more draft token of each prompt."""
        ...

    def settle(self, logits_lv: torch.Tensor, drafted: Sequence[int], prompt: int) -> list[int]:
        """What is said: the draft tokens of a prompt that stay, and one more.

        Args:
            logits_lv: of the large member, [l + 1, v]: behind the tokens so far, and behind each of l draft tokens.
            drafted: what `draft` gave since the last time, l tokens.
            prompt: its number.
        """
        ...


class MostLikely:
    """The most likely token, by either member."""

    def first(self, logits_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        """See `Chooser`."""
        return most_likely(logits_bv, prompts)

    draft = first

    def settle(self, logits_lv: torch.Tensor, drafted: Sequence[int], prompt: int) -> list[int]:
        """See `Chooser`."""
        return agreed(most_likely(logits_lv, ()), drafted)


class Drawn:
    """Tokens are drawn, by either member with the same temperature, top_k and top_p.

    Every prompt has a stream of random numbers of its own, see `Sampling`.
    """

    def __init__(self, how: Sampling) -> None:
        self._sampler = Sampler(how)
        self._q: dict[int, list[torch.Tensor]] = {}  # of each prompt, what its draft tokens were drawn with

    def first(self, logits_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        """See `Chooser`."""
        return self._sampler(logits_bv, prompts)

    def draft(self, logits_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        """See `Chooser`."""
        q_bv = self._sampler.probabilities(logits_bv)
        for q_v, i in zip(q_bv, prompts, strict=True):
            self._q.setdefault(i, []).append(q_v)
        return pick(q_bv, [self._sampler.chance(i) for i in prompts])

    def settle(self, logits_lv: torch.Tensor, drafted: Sequence[int], prompt: int) -> list[int]:
        """See `Chooser`."""
        p_lv = self._sampler.probabilities(logits_lv)
        return drawn(p_lv, self._q.pop(prompt, []), drafted, lambda: self._sampler.chance(prompt))
