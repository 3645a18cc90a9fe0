# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding: caches carry exactly what the forward over all tokens would see."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn import generate
from nemo_elastic.nn.forward import forward as run
from nemo_elastic.nn.nemotron_h import NemotronH
from tests.shapes import PARENT
from tests.strategies import parents_and_subnets


def tokens_of(parent: Parent, batch: int = 2, length: int = 7) -> torch.Tensor:
    return torch.randint(parent.vocab, (batch, length), generator=torch.Generator().manual_seed(0))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in double precision, but for the order of sums."""
    return (a - b).abs().max().item() <= 1e-11 * b.abs().max().item()


@settings(max_examples=40)
@given(data=st.data())
def test_decoding_with_a_cache_equals_the_full_forward(data):
    parent, member = data.draw(parents_and_subnets())
    model = NemotronH.random(parent, dtype=torch.float64)
    tokens = tokens_of(parent, batch=3, length=9)
    expected = model(tokens, member)
    cuts = sorted(data.draw(st.sets(st.integers(1, 8))))
    cache, parts = model.init_cache(3, member), []
    for start, stop in zip([0, *cuts], [*cuts, 9]):
        parts.append(model(tokens[:, start:stop], member, cache=cache))
    assert cache.length == 9
    assert same(torch.cat(parts, 1), expected)


def greedy_slowly(model: NemotronH, prompt: list[int], count: int, stops: set[int], member: Subnet | None):
    ids = list(prompt)
    while len(ids) < len(prompt) + count:
        ids.append(int(model(torch.tensor([ids]), member)[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


@settings(max_examples=25)
@given(data=st.data())
def test_generate_is_the_argmax_of_full_forwards(data):
    """Prompts of any lengths, limits of their own, a stop token: each gets what it would get alone."""
    parent, member = data.draw(parents_and_subnets())
    model = NemotronH.random(parent, dtype=torch.float64)
    token = st.integers(0, parent.vocab - 1)
    prompts = data.draw(st.lists(st.lists(token, min_size=1, max_size=6), min_size=1, max_size=5))
    limits = data.draw(st.lists(st.integers(0, 6), min_size=len(prompts), max_size=len(prompts)))
    stops = data.draw(st.sets(token, max_size=2))
    expected = [greedy_slowly(model, p, n, stops, member) for p, n in zip(prompts, limits)]
    assert model.generate(prompts, limits, stops, choice=member) == expected


@pytest.mark.parametrize(
    ("lengths", "shapes"),
    [
        ([5, 5, 5], [(3, 5), (3, 1), (3, 1)]),
        ([4, 90, 4, 40], [(2, 4), (1, 90), (1, 40), (4, 1), (4, 1)]),
    ],
)
def test_prompts_are_read_at_once_and_those_of_one_length_together(monkeypatch, lengths, shapes):
    read = []
    monkeypatch.setattr(
        generate, "forward", lambda w, ids, **more: read.append(tuple(ids.shape)) or run(w, ids, **more)
    )
    NemotronH.random(PARENT).generate([[1] * n for n in lengths], 3)
    assert read == shapes


@pytest.mark.parametrize(
    ("prompts", "limit", "words"),
    [([[1], []], 1, r"prompts\[1\]"), ([[99]], 1, "0 to 31"), ([[1], [2]], [1], "2 prompts")],
)
def test_generate_refuses(prompts, limit, words):
    with pytest.raises(ElasticError, match=words):
        NemotronH.random(PARENT).generate(prompts, limit)
