# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The next token, sampled as vLLM and transformers do it, and which tokens of a draft stay.

Temperature, the k most likely, the smallest set of share p. Of a draft, those tokens stay that the large member would
have chosen. Where tokens are sampled, its distribution is met exactly: speculative decoding after Leviathan et al.
(arXiv 2211.17192, algorithm 1) and Chen et al. (arXiv 2302.01318), where a draft token stays with probability
min(1, p / q), and in place of the first that does not, one is sampled from max(p - q, 0).

b: sequences, l: positions, v: vocabulary; p: what the large member samples with, q: what the draft sampled with.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nemo_elastic.errors import bad
from nemo_elastic.io.values import integer, keep_plain, number
from nemo_elastic.nn.functional import work_dtype
from nemo_elastic.nn.generate import check_finite, most_likely


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: logits are divided by it; 0 takes the most likely token.
        top_p: of what `top_k` leaves, keep the fewest most likely tokens whose share is at least this; above 0, to 1.
        top_k: keep this many of the most likely tokens, and those as likely as the last; 0 keeps all.
        seed: makes sampling reproducible. Every sequence of a batch has a separate random stream: other sequences
            change nothing of it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        number("temperature", self.temperature, 0, sys.float_info.max, "a number from 0, where nothing is sampled")
        number("top_p", self.top_p, sys.float_info.min, 1, "a share above 0, and at most 1")
        integer("top_k", self.top_k, 0, "how many of the most likely tokens are kept; 0 keeps all")
        integer("seed", self.seed, 0, "a whole number from 0 to 2^63 - 1", 2**63 - 1)
        keep_plain(self)
        for name, value, off in (("top_p", self.top_p, 1), ("top_k", self.top_k, 0)):
            if value != off and not self.temperature:
                raise bad(name, value, "at temperature 0 nothing is sampled; give a temperature as well")


def probabilities(logits_bv: torch.Tensor, how: Sampling) -> torch.Tensor:
    """Probabilities [b, v] with which tokens are sampled, in float32 or wider; `how.temperature` is above 0.

    Temperature, top_k and top_p are applied in this order. Logits that are not finite are an error.
    """
    scores_bv = check_finite(logits_bv).to(work_dtype(logits_bv))
    temperature = max(how.temperature, torch.finfo(scores_bv.dtype).tiny)
    scores_bv = (scores_bv - scores_bv.amax(-1, keepdim=True)) / temperature  # the best is 0, so nothing overflows
    if 0 < how.top_k < scores_bv.shape[-1]:
        least_b1 = scores_bv.topk(how.top_k, dim=-1).values[:, -1:]
        scores_bv = scores_bv.masked_fill(scores_bv < least_b1, -torch.inf)
    p_bv = scores_bv.softmax(-1)
    if how.top_p < 1:
        sorted_bv, order_bv = p_bv.sort(dim=-1, descending=True, stable=True)
        before_bv = sorted_bv.cumsum(-1) - sorted_bv
        sorted_bv = sorted_bv.masked_fill(before_bv >= how.top_p, 0)
        p_bv = torch.zeros_like(p_bv).scatter_(-1, order_bv, sorted_bv)
        p_bv = p_bv / p_bv.sum(-1, keepdim=True)
    return p_bv


def pick(p_bv: torch.Tensor, at: Sequence[float]) -> list[int]:
    """The token of each row that a number from 0 up to 1, exclusive, falls on; rows of `p_bv` need not sum to 1."""
    reach_bv = p_bv.double().cumsum(-1)
    at_b1 = torch.tensor([[x] for x in at], dtype=torch.float64, device=p_bv.device)
    drawn_b1 = torch.searchsorted(reach_bv, at_b1 * reach_bv[:, -1:], right=True)
    # rounding may lead to the end, behind the last token that can be sampled
    last_b1 = (p_bv > 0).long().cumsum(-1).argmax(-1, keepdim=True)
    return torch.minimum(drawn_b1, last_b1).squeeze(1).tolist()


def agreed(chosen: Sequence[int], drafted: Sequence[int]) -> list[int]:
    """Accepted draft tokens, and the large member's choice at the first rejected one.

    `chosen` has one token more than `drafted`: what the large member chooses after the tokens so far, and after each
    draft token.
    """
    same = next((n for n, (a, b) in enumerate(zip(chosen, drafted, strict=False)) if a != b), len(drafted))
    return list(chosen[: same + 1])


def sampled(
    p_lv: torch.Tensor, q_lv: Sequence[torch.Tensor], drafted: Sequence[int], chance: Callable[[], float]
) -> list[int]:
    """Draft tokens that stay, and one more; together they are distributed as what the large member samples alone.

    Args:
        p_lv: [l + 1, v]: after the tokens so far, and after each draft token.
        q_lv: l times [v].
        drafted: l tokens, each sampled from its q.
        chance: gives numbers from 0 up to 1, exclusive.
    """
    for n, (token, q_v) in enumerate(zip(drafted, q_lv, strict=True)):
        if chance() * float(q_v[token]) >= float(p_lv[n, token]):
            return [*drafted[:n], *pick(left_over(p_lv[n], q_v)[None], [chance()])]
    return [*drafted, *pick(p_lv[-1:], [chance()])]


def left_over(p_v: torch.Tensor, q_v: torch.Tensor) -> torch.Tensor:
    """What to sample with where a draft token did not stay: max(p - q, 0), not scaled to sum to 1.

    Where p and q differ by rounding alone nothing may be left; then it is p.
    """
    left_v = (p_v - q_v).clamp(min=0)
    return left_v if bool(left_v.any()) else p_v


class MostLikely:
    """Chooses the most likely token, for a member alone, and for one with its draft. Prompts are known by numbers."""

    def choose(self, logits_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        """The next token of each prompt, as without a draft."""
        return most_likely(logits_bv, prompts)

    def draft(self, logits_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        """One more draft token of each prompt."""
        return most_likely(logits_bv, prompts)

    def settle(self, logits_lv: torch.Tensor, drafted: Sequence[int], prompt: int) -> list[int]:
        """The tokens of a prompt's draft that stay, and one more.

        `logits_lv` are the large member's, [l + 1, v]: after the tokens so far, and after each of l draft tokens.
        """
        return agreed(most_likely(logits_lv, ()), drafted)


class Sampled(MostLikely):
    """Samples tokens, for either member with the same temperature, top_k and top_p.

    Every prompt has a separate stream of random numbers, see `Sampling`.
    """

    def __init__(self, how: Sampling) -> None:
        self._how = how
        self._streams: dict[int, torch.Generator] = {}
        self._q: dict[int, list[torch.Tensor]] = {}  # prompt -> distributions of its draft tokens

    def choose(self, logits_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        return self._pick(probabilities(logits_bv, self._how), prompts)

    def draft(self, logits_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        q_bv = probabilities(logits_bv, self._how)
        for q_v, i in zip(q_bv, prompts, strict=True):
            self._q.setdefault(i, []).append(q_v)
        return self._pick(q_bv, prompts)

    def settle(self, logits_lv: torch.Tensor, drafted: Sequence[int], prompt: int) -> list[int]:
        p_lv = probabilities(logits_lv, self._how)
        return sampled(p_lv, self._q.pop(prompt, []), drafted, lambda: self._chance(prompt))

    def _pick(self, p_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        return pick(p_bv, [self._chance(i) for i in prompts])

    def _chance(self, prompt: int) -> float:
        """The next number from 0 up to 1, exclusive, of a prompt's stream."""
        if prompt not in self._streams:
            seed = hashlib.sha256(f"{self._how.seed}/{prompt}".encode()).digest()[:8]
            self._streams[prompt] = torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)
        return float(torch.rand((), generator=self._streams[prompt], dtype=torch.float64))
