# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The next token, drawn as vLLM and transformers do it: temperature, the k most likely, the smallest set of share p.

b: sequences, v: vocabulary.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nemo_elastic.errors import bad
from nemo_elastic.io.values import integer, keep_plain, number
from nemo_elastic.nn.functional import work_dtype
from nemo_elastic.nn.generate import check_finite


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: logits are divided by it; 0 takes the most likely token.
        top_p: of what `top_k` leaves, keep the fewest most likely tokens whose share is at least this; above 0, to 1.
        top_k: keep this many of the most likely tokens, and those as likely as the last; 0 keeps all.
        seed: fixes what is drawn. Each sequence of a batch has a stream of its own: what others say, or when they
            end, changes nothing of it.

    Raises:
        ElasticError: a value is not allowed, or `top_p` or `top_k` would do nothing as no token is drawn.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        number("temperature", self.temperature, 0, sys.float_info.max, "a number from 0, where nothing is drawn")
        number("top_p", self.top_p, sys.float_info.min, 1, "a share above 0, and at most 1")
        integer("top_k", self.top_k, 0, "how many of the most likely tokens are kept; 0 keeps all")
        integer("seed", self.seed, 0, "a whole number from 0 to 2^63 - 1", 2**63 - 1)
        keep_plain(self)
        for name, value, off in (("top_p", self.top_p, 1), ("top_k", self.top_k, 0)):
            if value != off and not self.temperature:
                raise bad(name, value, "at temperature 0 nothing is drawn; give a temperature as well")


def probabilities(logits_bv: torch.Tensor, how: Sampling) -> torch.Tensor:
    """What each token is drawn with; how.temperature is above 0.

    Args:
        logits_bv: logits [b, v].
        how: temperature, top_k and top_p, in this order.

    Returns:
        Probabilities [b, v] that sum to 1, in float32 or wider.
    """
    scores_bv = logits_bv.to(work_dtype(logits_bv))
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
    """The token of each row that a number from 0 to 1 falls on, where tokens take up room by what is in `p_bv`.

    Args:
        p_bv: [b, v], from 0; a row need not sum to 1.
        at: b numbers from 0 up to 1, exclusive.
    """
    reach_bv = p_bv.double().cumsum(-1)
    at_b1 = torch.tensor([[x] for x in at], dtype=torch.float64, device=p_bv.device)
    drawn_b1 = torch.searchsorted(reach_bv, at_b1 * reach_bv[:, -1:], right=True)
    # rounding may lead to the end, behind the last token that can be drawn
    last_b1 = (p_bv > 0).long().cumsum(-1).argmax(-1, keepdim=True)
    return torch.minimum(drawn_b1, last_b1).squeeze(1).tolist()


class Sampler:
    """Draws tokens; fits `nn.generate.Decoding` as its `choose`.

    Args:
        how: temperature above 0.
    """

    def __init__(self, how: Sampling) -> None:
        self._how = how
        self._streams: dict[int, torch.Generator] = {}

    def __call__(self, logits_bv: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        """One token of each row.

        Args:
            logits_bv: logits [b, v].
            prompts: which stream of random numbers each row draws from.

        Raises:
            ElasticError: logits are not finite.
        """
        return pick(self.probabilities(logits_bv), [self.chance(i) for i in prompts])

    def probabilities(self, logits_bv: torch.Tensor) -> torch.Tensor:
        """What each token is drawn with, [b, v] as the logits.

        Raises:
            ElasticError: logits are not finite.
        """
        return probabilities(check_finite(logits_bv), self._how)

    def chance(self, prompt: int) -> float:
        """The next number from 0 up to 1, exclusive, of a prompt's stream."""
        if prompt not in self._streams:
            seed = hashlib.sha256(f"{self._how.seed}/{prompt}".encode()).digest()[:8]
            self._streams[prompt] = torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)
        return float(torch.rand((), generator=self._streams[prompt], dtype=torch.float64))
