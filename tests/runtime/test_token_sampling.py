# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What is sampled follows the distribution and the seed; with a draft as well, whoever drafts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.runtime.token_sampling import (
    MostLikely,
    Sampled,
    Sampling,
    left_over,
    probabilities,
)


def by_hand(logits: list[float], temperature: float, top_p: float, top_k: int) -> np.ndarray:
    """The same in words of one token: the definition, without torch."""
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    if top_k:
        least = sorted(logits, reverse=True)[min(top_k, len(logits)) - 1]
        weights = [w if x >= least else 0.0 for w, x in zip(weights, logits)]
    share = [w / sum(weights) for w in weights]
    kept, reached = [0.0] * len(share), 0.0
    for i in sorted(range(len(share)), key=lambda i: (-share[i], i)):
        if reached < top_p:
            kept[i] = share[i]
        reached += share[i]
    return np.array(kept) / sum(kept)


@settings(max_examples=200)
@given(
    logits=st.lists(st.integers(-60, 60).map(lambda x: x / 8), min_size=1, max_size=9),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    top_p=st.sampled_from([0.05, 0.31, 0.77, 0.93, 1.0]),
    top_k=st.integers(0, 10),
)
def test_probabilities_are_the_formula(logits, temperature, top_p, top_k):
    given = torch.tensor([logits, logits[::-1]], dtype=torch.float64)
    result = probabilities(given, Sampling(temperature, top_p, top_k)).numpy()
    for row, values in zip(result, (logits, logits[::-1])):
        np.testing.assert_allclose(row, by_hand(values, temperature, top_p, top_k), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", [Sampling(0.8, 0.9, 6), Sampling(1.5)])
def test_what_is_sampled_has_the_probabilities_of_the_formula(how):
    """Chi-squared over 20,000 samples; a step too many or one too few at any border is far outside."""
    logits = [1.5, 0.2, -0.3, 1.1, -2.0, 0.9, 0.0, -1.2]
    expected = by_hand(logits, how.temperature, how.top_p, how.top_k)
    samples, rows = 20_000, 500
    sampler, counts = Sampled(how), np.zeros(len(logits))
    for _ in range(samples // rows):
        for token in sampler.choose(torch.tensor([logits] * rows), range(rows)):
            counts[token] += 1
    some = expected > 0
    assert counts[~some].sum() == 0
    chi2 = ((counts[some] - samples * expected[some]) ** 2 / (samples * expected[some])).sum()
    assert chi2 < 2 * some.sum() + 12  # p below 1e-3 for any number of tokens here


def test_temperatures_of_any_size():
    logits = torch.tensor([[3.0, 1.0, 2.9, -1e30]])
    for small in (1e-3, 1e-30, 5e-324):
        assert Sampled(Sampling(small)).choose(logits, [0]) == [0]
    flat = probabilities(logits[:, :3], Sampling(1e30))
    torch.testing.assert_close(flat, torch.full((1, 3), 1 / 3))


def test_half_precision_is_widened():
    logits = torch.linspace(-4, 4, 4096).bfloat16()[None]
    assert probabilities(logits, Sampling(1.0)).dtype == torch.float32
    torch.testing.assert_close(probabilities(logits, Sampling(1.0)), logits.float().softmax(-1))


def test_each_prompt_has_a_stream_of_its_own():
    """A row samples the same alone, in any place of the batch, and whatever the others do."""
    logits, how = torch.zeros(1, 1000), Sampling(1.0, seed=5)

    def sampled(prompts: list[int], steps: int = 4) -> list[list[int]]:
        sampler = Sampled(how)
        return [sampler.choose(logits.expand(len(prompts), -1), prompts) for _ in range(steps)]

    together = sampled([0, 1, 2])
    for place, prompt in enumerate((0, 1, 2)):
        assert [row[place] for row in together] == [row[0] for row in sampled([prompt])]
    assert sampled([2, 0])[0] == [together[0][2], together[0][0]]
    assert len({tuple(row[i] for row in together) for i in range(3)}) == 3
    assert Sampled(Sampling(1.0, seed=6)).choose(logits, [0]) != [together[0][0]]


SHARES = st.lists(st.integers(0, 5), min_size=4, max_size=4).filter(any)


def share(weights: list[int]) -> torch.Tensor:
    return torch.tensor(weights, dtype=torch.float64) / sum(weights)


@settings(max_examples=200)
@given(SHARES, SHARES)
def test_the_two_ways_to_a_token_add_up_to_what_the_large_member_samples_with(p_weights, q_weights):
    """Kept with min(1, p / q), or else sampled from what is left over: together p, exactly."""
    p, q = share(p_weights), share(q_weights)
    kept = torch.minimum(p, q)
    left = left_over(p, q)
    torch.testing.assert_close(kept + (1 - kept.sum()) * left / left.sum(), p)


def test_where_rounding_alone_differs_nothing_is_left_and_the_distribution_is_taken():
    p = torch.tensor([0.25, 0.75])
    assert torch.equal(left_over(p, p), p) and torch.equal(left_over(p, p * (1 + 1e-7)), p)


def test_a_draft_like_the_large_member_is_always_kept():
    logits = torch.tensor([[0.3, 1.0, -2.0, 0.1]])
    for chooser in (MostLikely(), Sampled(Sampling(0.8, 0.9, 3, seed=2))):
        for _ in range(50):
            drafted = [chooser.draft(logits, [7])[0] for _ in range(3)]
            said = chooser.settle(logits.expand(4, -1), drafted, 7)
            assert said[:3] == drafted and len(said) == 4
