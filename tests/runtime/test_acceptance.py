# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which draft tokens stay: against the definition, and against the distribution that must come out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.runtime.acceptance import Drawn, MostLikely, agreed, drawn, left_over
from nemo_elastic.runtime.sampling import Sampling

SHARES = st.lists(st.integers(0, 5), min_size=4, max_size=4).filter(any)


def share(weights: list[int]) -> torch.Tensor:
    return torch.tensor(weights, dtype=torch.float64) / sum(weights)


@given(data=st.data())
def test_what_is_said_greedily_is_what_the_large_member_says_alone(data):
    token = st.integers(0, 2)
    drafted = data.draw(st.lists(token, max_size=6))
    said = data.draw(st.lists(token, min_size=len(drafted) + 1, max_size=len(drafted) + 1))
    found = agreed(said, drafted)
    assert found == said[: len(found)] and found[:-1] == drafted[: len(found) - 1]
    assert len(found) == len(said) or found[-1] != drafted[len(found) - 1]


@settings(max_examples=200)
@given(SHARES, SHARES)
def test_the_two_ways_to_a_token_add_up_to_what_the_large_member_draws_with(p_weights, q_weights):
    """Kept with min(1, p / q), or else drawn from what is left over: together p, exactly."""
    p, q = share(p_weights), share(q_weights)
    kept = torch.minimum(p, q)
    left = left_over(p, q)
    torch.testing.assert_close(kept + (1 - kept.sum()) * left / left.sum(), p)


@pytest.mark.parametrize("q_weights", [[1, 1, 1, 1], [5, 1, 0, 2], [0, 0, 0, 1], [1, 2, 4, 1]])
def test_tokens_are_distributed_as_those_of_the_large_member(q_weights):
    """Chi-squared of the first token and of the second behind each first, over 8,000 drafts of two tokens."""
    random = torch.Generator().manual_seed(1)
    after = torch.stack([share(w) for w in ([1, 2, 4, 1], [3, 0, 1, 1], [1, 1, 1, 1], [0, 5, 1, 0], [2, 1, 1, 1])])
    q = share(q_weights)

    def chance() -> float:
        return float(torch.rand((), generator=random, dtype=torch.float64))

    counts, draws = np.zeros((4, 4)), 8_000
    firsts = torch.multinomial(q, 2 * draws, replacement=True, generator=random).view(draws, 2).tolist()
    for drafted in firsts:
        # the large member's first token by row 0, the second by the row of the first, one behind both by the last
        said = drawn(torch.stack([after[0], after[drafted[0]], after[4]]), [q, q], drafted, chance)
        if len(said) == 1:  # it goes on by itself
            row = after[said[0]].cumsum(0)
            said.append(int(torch.searchsorted(row, chance(), right=True)))
        counts[said[0], said[1]] += 1
    expected = draws * (after[0][:, None] * after[:4]).numpy()
    some = expected > 0
    assert counts[~some].sum() == 0
    chi2 = ((counts[some] - expected[some]) ** 2 / expected[some]).sum()
    assert chi2 < 2 * some.sum() + 12


def test_where_rounding_alone_differs_nothing_is_left_and_the_distribution_is_taken():
    p = torch.tensor([0.25, 0.75])
    assert torch.equal(left_over(p, p), p) and torch.equal(left_over(p, p * (1 + 1e-7)), p)


def test_a_draft_like_the_large_member_is_always_kept():
    logits = torch.tensor([[0.3, 1.0, -2.0, 0.1]])
    for chooser in (MostLikely(), Drawn(Sampling(0.8, 0.9, 3, seed=2))):
        for _ in range(50):
            drafted = [chooser.draft(logits, [7])[0] for _ in range(3)]
            said = chooser.settle(logits.expand(4, -1), drafted, 7)
            assert said[:3] == drafted and len(said) == 4


def test_a_prompt_draws_by_its_own_stream():
    """What others of the batch draft or settle changes nothing."""
    logits = torch.linspace(-1, 1, 8)[None]

    def said(others: bool) -> list[list[int]]:
        chooser, out = Drawn(Sampling(1.0, seed=3)), []
        for _ in range(6):
            prompts = [0, 1] if others else [0]
            drafted = chooser.draft(logits.expand(len(prompts), -1), prompts)
            out.append(chooser.settle(-logits.expand(2, -1), drafted[:1], 0))
            if others:
                chooser.settle(logits.expand(2, -1), drafted[1:], 1)
        return out

    assert said(True) == said(False)
