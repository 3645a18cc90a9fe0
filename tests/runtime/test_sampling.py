# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Drawing a token: against a formula of its own, token by token, and against what is drawn in the end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime.sampling import Sampler, Sampling, probabilities


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
    found = probabilities(given, Sampling(temperature, top_p, top_k)).numpy()
    for row, values in zip(found, (logits, logits[::-1])):
        np.testing.assert_allclose(row, by_hand(values, temperature, top_p, top_k), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", [Sampling(0.8, 0.9, 6), Sampling(1.5), Sampling(1.0, 0.6), Sampling(0.5, 1.0, 3)])
def test_what_is_drawn_has_the_probabilities_of_the_formula(how):
    """Chi-squared over 20,000 draws; a step too many or one too few at any border is far outside."""
    logits = [1.5, 0.2, -0.3, 1.1, -2.0, 0.9, 0.0, -1.2]
    expected = by_hand(logits, how.temperature, how.top_p, how.top_k)
    draws, rows = 20_000, 500
    sampler, counts = Sampler(how), np.zeros(len(logits))
    for _ in range(draws // rows):
        for token in sampler(torch.tensor([logits] * rows), range(rows)):
            counts[token] += 1
    some = expected > 0
    assert counts[~some].sum() == 0
    chi2 = ((counts[some] - draws * expected[some]) ** 2 / (draws * expected[some])).sum()
    assert chi2 < 2 * some.sum() + 12  # p below 1e-3 for any number of tokens here


def test_temperatures_of_any_size():
    logits = torch.tensor([[3.0, 1.0, 2.9, -1e30]])
    for small in (1e-3, 1e-30, 5e-324):
        assert Sampler(Sampling(small))(logits, [0]) == [0]
    flat = probabilities(logits[:, :3], Sampling(1e30))
    torch.testing.assert_close(flat, torch.full((1, 3), 1 / 3))


def test_half_precision_is_widened():
    logits = torch.linspace(-4, 4, 4096).bfloat16()[None]
    assert probabilities(logits, Sampling(1.0)).dtype == torch.float32
    torch.testing.assert_close(probabilities(logits, Sampling(1.0)), logits.float().softmax(-1))


def test_each_prompt_has_a_stream_of_its_own():
    """A row draws the same alone, in any place of the batch, and whatever the others do."""
    logits, how = torch.zeros(1, 1000), Sampling(1.0, seed=5)

    def drawn(prompts: list[int], steps: int = 4) -> list[list[int]]:
        sampler = Sampler(how)
        return [sampler(logits.expand(len(prompts), -1), prompts) for _ in range(steps)]

    together = drawn([0, 1, 2])
    for place, prompt in enumerate((0, 1, 2)):
        assert [row[place] for row in together] == [row[0] for row in drawn([prompt])]
    assert drawn([2, 0])[0] == [together[0][2], together[0][0]]
    assert len({tuple(row[i] for row in together) for i in range(3)}) == 3
    assert Sampler(Sampling(1.0, seed=6))(logits, [0]) != [together[0][0]]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"temperature": -0.1}, "temperature: -0.1 is not allowed; a number from 0, where nothing is drawn"),
        ({"temperature": math.inf}, "temperature: inf is not allowed; a number from 0, where nothing is drawn"),
        ({"temperature": math.nan}, "temperature: nan is not allowed; a number from 0, where nothing is drawn"),
        ({"temperature": "1"}, "temperature: '1' is not allowed; a number from 0, where nothing is drawn"),
        ({"temperature": True}, "temperature: True is not allowed; a number from 0, where nothing is drawn"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p: 0.0 is not allowed; a share above 0, and at most 1"),
        ({"temperature": 1.0, "top_p": 1.01}, "top_p: 1.01 is not allowed; a share above 0, and at most 1"),
        ({"temperature": 1.0, "top_p": None}, "top_p: None is not allowed; a share above 0, and at most 1"),
        (
            {"temperature": 1.0, "top_k": -1},
            "top_k: -1 is not allowed; how many of the most likely tokens are kept; 0 keeps all",
        ),
        (
            {"temperature": 1.0, "top_k": 2.0},
            "top_k: 2.0 is not allowed; how many of the most likely tokens are kept; 0 keeps all",
        ),
        ({"seed": -1}, "seed: -1 is not allowed; a whole number from 0 to 2^63 - 1"),
        ({"seed": 2**63}, "seed: 9223372036854775808 is not allowed; a whole number from 0 to 2^63 - 1"),
        ({"top_p": 0.9}, "top_p: 0.9 is not allowed; at temperature 0 nothing is drawn; give a temperature as well"),
        ({"top_k": 5}, "top_k: 5 is not allowed; at temperature 0 nothing is drawn; give a temperature as well"),
    ],
)
def test_what_is_refused(values, line):
    with pytest.raises(ElasticError) as raised:
        Sampling(**values)
    assert str(raised.value) == line


def test_logits_that_are_no_numbers_are_told():
    for broken in (math.nan, math.inf):
        with pytest.raises(ElasticError, match="logits: 1 of 3 are infinite or not a number"):
            Sampler(Sampling(1.0, 0.9))(torch.tensor([[0.0, broken, 1.0]]), [0])
