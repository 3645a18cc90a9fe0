# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""With a draft a member says what it says alone, and as much is drafted as pays."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.formats.folders import open_source
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime
from nemo_elastic.runtime.member_model import Companions
from nemo_elastic.runtime.speculation import MOST, PAUSE, DraftLength, best_length, speed_up
from nemo_elastic.runtime.token_sampling import Sampling, probabilities
from tests.runtime.talking import PARENT, talking_family
from tests.shapes import PARENT as SMALL


@pytest.mark.parametrize(("accepted", "k", "cost"), [(0.6, 4, 0.25), (1.0, 3, 0.1), (0.0, 2, 0.5)])
def test_the_formula_is_what_rounds_give(accepted, k, cost):
    """Rounds played by coin: tokens of a round over its cost."""
    coin, rounds, tokens = random.Random(0), 40_000, 0
    for _ in range(rounds):
        kept = next((n for n in range(k) if coin.random() >= accepted), k)
        tokens += kept + 1
    assert speed_up(accepted, k, cost) == pytest.approx(tokens / rounds / (cost * k + 1), rel=0.01)


@given(st.floats(0, 1), st.floats(0.01, 1), st.integers(0, MOST))
def test_no_other_length_is_better(accepted, cost, k):
    assert speed_up(accepted, best_length(accepted, cost), cost) >= speed_up(accepted, k, cost)


def test_it_follows_what_is_accepted():
    length = DraftLength(0.25)
    assert 1 < length.next(MOST) < MOST
    for _ in range(100):
        k = length.next(MOST)
        length.learn(k, k)
    assert length.next(MOST) == MOST and length.next(2) == 2 and length.next(0) == 0


def test_a_draft_that_does_not_pay_is_tried_now_and_then_and_comes_back():
    length, drafted = DraftLength(0.5), []
    for _ in range(20 * (PAUSE + 1)):
        k = length.next(MOST)
        length.learn(k, 0)
        drafted.append(k)
    assert sum(drafted[PAUSE:]) == 19 and max(drafted[PAUSE:]) == 1
    rounds = 0
    while length.next(MOST) < 2:
        length.learn(1, 1)
        rounds += 1
    assert rounds < 40 * PAUSE


def test_a_fixed_length_is_kept_to_but_for_the_end_of_the_answer():
    length = DraftLength(0.9, fixed=3)
    for most in (8, 3, 2, 0):
        length.learn(3, 0)
        assert length.next(most) == min(3, most)


LARGE, DRAFTS = "12b", ("9b", "6b")
#: members that often agree with weights whose layers add little, and often do not
MEMBERS = {"12b": PARENT.full, "9b": PARENT.uniform(keep=(0, 1, 2, 3)), "6b": PARENT.uniform((0, 1, 2), mamba_heads=4)}
PROMPTS = ["def f(x):", "The first of 12", "é", "return x + 12  # 日本語 and more of it"]
DOUBLE = torch.float64


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> FamilyRuntime:
    companions = Companions.of(open_source(talking_family(tmp_path_factory.mktemp("talking"))))
    model = NemotronH.random(PARENT, seed=3, scale=0.5, dtype=DOUBLE)
    return FamilyRuntime(model, MEMBERS, companions=companions)


def streamed(stream, prompts: int) -> list[list[int]]:
    out: list[list[int]] = [[] for _ in range(prompts)]
    for i, token in stream:
        out[i].append(token)
    return out


@settings(max_examples=40)
@given(data=st.data())
def test_the_tokens_are_those_of_plain_decoding(data, family):
    """Any prompts, limits, end tokens and lengths of the draft; every sequence of a batch at its own pace."""
    token = st.integers(0, PARENT.vocab - 1)
    prompts = data.draw(st.lists(st.lists(token, min_size=1, max_size=12), min_size=1, max_size=5))
    limits = data.draw(st.lists(st.integers(1, 24), min_size=len(prompts), max_size=len(prompts)))
    member = family.select(data.draw(st.sampled_from([LARGE, "9b"])))
    free = member.generate(prompts, limits, ())
    ends = data.draw(st.sets(st.sampled_from(sorted({t for row in free for t in row})), max_size=2))
    expected = member.generate(prompts, limits, ends)
    k, draft = data.draw(st.sampled_from([1, 2, 3, 7, None])), data.draw(st.sampled_from(DRAFTS))
    stream = member.generate(prompts, limits, ends, draft=draft, k=k, stream=True)
    assert streamed(stream, len(prompts)) == expected
    assert stream.new_tokens == [len(row) for row in expected]
    assert all(0 <= a <= d for a, d in zip(stream.accepted, stream.drafted))


def test_members_of_this_test_agree_now_and_then(family):
    """Else the tests here would show little."""
    prompts = [[i] for i in range(40)]
    for draft in DRAFTS:
        stream = family.select(LARGE).generate(prompts, 24, (), draft=draft, k=3, stream=True)
        assert streamed(stream, 40) == family.select(LARGE).generate(prompts, 24, ())
        assert 0.2 < stream.acceptance < 0.95
        assert stream.acceptance == sum(stream.accepted) / sum(stream.drafted)


def test_more_drafted_than_layers_carry():
    """A window longer than the convolution looks back, on shapes without attention, and without Mamba."""
    for keep in ((0, 1, 4), (1, 3, 4), (1, 4)):
        members = {"a": SMALL.uniform(keep=keep), "b": SMALL.uniform(keep=keep[:-1], hidden=8)}
        family = FamilyRuntime(NemotronH.random(SMALL, scale=0.3, dtype=DOUBLE).submodel(members["a"]), members)
        prompts = [[i] * (1 + i % 3) for i in range(9)]
        plain = family.select("a").generate(prompts, 30, ())
        assert family.select("a").generate(prompts, 30, (), draft="b", k=9) == plain


def test_what_is_drawn_is_distributed_as_without_a_draft():
    """Chi-squared of the first three tokens of 4,000 answers against the product of the member's probabilities."""
    members = {"a": SMALL.full, "b": SMALL.uniform(keep=(0, 1, 3), hidden=8, mamba_heads=4)}
    family = FamilyRuntime(NemotronH.random(SMALL, seed=1, scale=0.6, dtype=DOUBLE), members)
    member, prompt, answers = family.select("a"), [3, 5], 4_000
    how = Sampling(1.2, 0.97, 4, seed=7)
    expected: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        expected = {
            (*said, token): share * p
            for said, share in expected.items()
            for token, p in enumerate(probabilities(member(torch.tensor([[*prompt, *said]]))[:, -1], how)[0].tolist())
            if p
        }
    options = {"temperature": how.temperature, "top_p": how.top_p, "top_k": how.top_k, "seed": how.seed}
    stream = member.generate([prompt] * answers, 4, (), draft="b", k=2, stream=True, **options)
    counts = dict.fromkeys(expected, 0)
    for row in streamed(stream, answers):
        counts[tuple(row[:3])] += 1
    assert 0.2 < stream.acceptance < 0.95  # both ways to a token were taken
    shares = np.array([expected[said] for said in counts])
    actual = np.array([counts[said] for said in counts])
    often = shares * answers >= 5
    chi2 = ((actual - answers * shares) ** 2 / (answers * shares))[often].sum()
    assert often.sum() > 20 and chi2 < often.sum() + 4 * (2 * often.sum()) ** 0.5


@pytest.mark.parametrize("k", [3, None])
def test_what_is_drawn_does_not_depend_on_the_others_of_a_batch(family, k):
    member, how = family.select(LARGE), {"temperature": 0.8, "seed": 5, "draft": "6b", "k": k}
    prompts = [[1, 2, 3], [4], [5, 6]]
    together = member.generate(prompts, 24, (), **how)
    assert together == member.generate(prompts, 24, (), **how)
    assert together[:2] == member.generate(prompts[:2], 24, (), **how)
    assert together[0][:5] == member.generate(prompts, [5, 24, 24], (), **how)[0][:4] + together[0][4:5]


def test_texts_stops_and_pieces_are_as_without(family):
    """Of the tokens that come at once none behind a stop string is seen, and other answers go on."""
    member, checked = family.select(LARGE), 0
    whole = member.generate(PROMPTS, 24, ())
    for k in (2, None):
        speculation = {"draft": DRAFTS[0], "k": k}
        assert member.generate(PROMPTS, 24, (), **speculation) == whole
        for stop in [text[at : at + 3] for text, at in zip(whole, (2, 5)) if len(text) > 8]:
            expected = [text.split(stop)[0] for text in whole]
            assert member.generate(PROMPTS, 24, (), stop=stop, **speculation) == expected
            out = [""] * len(PROMPTS)
            stream = member.generate(PROMPTS, 24, (), stop=stop, stream=True, **speculation)
            for i, piece in stream:
                assert piece
                out[i] += piece
            plain = member.generate(PROMPTS, 24, (), stop=stop, stream=True)
            list(plain)
            assert out == expected and stream.new_tokens == plain.new_tokens
            checked += 1
    assert checked == 4


@pytest.mark.parametrize("draft", ["12b", "9b"])
def test_a_member_that_is_not_smaller_drafts_nothing(family, draft):
    """Plain decoding: a setting for all members of a family fits those of the draft's size, too."""
    member = family.select("9b")
    stream = member.generate([1, 2], 12, (), stream=True, draft=draft, k=3)
    assert list(stream) == member.generate([1, 2], 12, ())
    assert stream.acceptance is None and stream.drafted == stream.accepted == [0]
