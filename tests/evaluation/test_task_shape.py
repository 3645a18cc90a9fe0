# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The search for a task: a shape that is really better is found, one that is better by chance is not taken."""

from __future__ import annotations

from dataclasses import astuple, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import path
from nemo_elastic.data.encoded import Encoded
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation import Half, halves_of, perplexity, specialize
from nemo_elastic.evaluation.task_shape import WIDER
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.rows import Rows
from nemo_elastic.runtime import FamilyRuntime
from nemo_elastic.search import trained_space
from nemo_elastic.verdicts import ratio_interval
from tests.shapes import PARENT


def numbered(lengths: list[int]) -> list[Encoded]:
    """Documents of which no two tokens are the same."""
    ends = np.cumsum([0, *lengths])
    return [Encoded(None, np.arange(a, b)) for a, b in pairwise(ends)]


def tokens(half: Half) -> set[int]:
    return {token for ids in sequences(half) for token in ids.tolist()}


def sequences(half: Half) -> list[np.ndarray]:
    """Each sequence without its padding, of documents of which all tokens count."""
    lengths = half.rows.every_count().sum(1).int() + 1
    return [ids[:length].numpy() for ids, length in zip(half.rows.ids_bl, lengths, strict=True)]


@pytest.mark.parametrize("most", [20, 10_000])
@pytest.mark.parametrize("lengths", [[30, 70, 11, 5, 64, 33, 90, 20] * 6, [900, 800], [2] * 9])
def test_no_document_is_in_both_halves(lengths, most):
    documents = numbered(lengths)
    halves = halves_of(documents, length=16, most=most, seed=3)
    search, held_out = tokens(halves.search), tokens(halves.held_out)
    assert search and held_out and not search & held_out and not halves.of_one
    for document in documents:
        assert not (search & set(document.ids.tolist()) and held_out & set(document.ids.tolist()))
    for half in (halves.search, halves.held_out):  # a sequence is of its own document alone
        ends = np.cumsum([0, *lengths])
        of = [np.searchsorted(ends, ids[[0, -1]], side="right").tolist() for ids in sequences(half)]
        assert all(first == last for first, last in of)
        assert len({(own, number) for (own, _), number in zip(of, half.document_s.tolist(), strict=True)}) == (
            half.documents
        )


@pytest.mark.parametrize("lengths", [[30, 70, 11, 5, 64, 33, 90, 20] * 6, [1990, *[40] * 51], [500, 10, 490, 20]])
def test_halves_have_about_as_many_tokens(lengths):
    for seed in range(8):
        halves = halves_of(numbered(lengths), length=16, most=10_000, seed=seed)
        sizes = halves.search.tokens, halves.held_out.tokens
        assert sum(sizes) == sum(lengths) - len(lengths), "every token but a document's first is predicted once"
        assert max(sizes) - min(sizes) <= 40
        assert halves.search.documents <= halves.held_out.documents


def test_a_long_document_leaves_room_for_others():
    halves = halves_of(numbered([50_000, *[400] * 120]), length=10, most=1000)
    assert halves.search.documents > 8 and halves.held_out.documents > 40


def test_the_half_to_report_on_may_be_longer():
    halves = halves_of(numbered([101] * 200), length=10, most=500)
    assert (halves.search.tokens, halves.held_out.tokens) == (500, 500 * WIDER)


def test_the_seed_decides():
    documents = numbered([50] * 40)
    one, same, other = (tokens(halves_of(documents, 10, 10_000, seed).search) for seed in (1, 1, 2))
    assert one == same != other


def test_one_document_is_halved_at_its_middle():
    halves = halves_of(numbered([1000]), length=10, most=10_000)
    assert halves.of_one
    first, last = sorted(sorted(tokens(half)) for half in (halves.search, halves.held_out))
    assert first == list(range(495)) and last == list(range(505, 1000)), "a sequence between is left out"
    assert (halves.search.documents, halves.held_out.documents) == (1, 1)
    nothing = np.zeros(len(halves.held_out.rows))
    assert halves.held_out.gain(nothing, nothing) is None


@pytest.mark.parametrize(("documents", "actual"), [([np.arange(1)] * 9, 0), ([np.arange(13)], 1)])
def test_too_little_is_refused(documents, actual):
    with pytest.raises(ElasticError, match=rf"mine: {actual} tokens"):
        halves_of([Encoded(None, ids) for ids in documents], 10, 10_000, where="mine")


def test_what_does_not_count_is_left_out():
    ids = np.arange(40)
    documents = [Encoded(None, ids, counts) for counts in (ids >= 30, ids < 0, ids >= 20, ids > 38)]
    halves = halves_of(documents, 10, 10_000)
    assert halves.search.tokens + halves.held_out.tokens == 10 + 20 + 1
    assert halves.search.documents + halves.held_out.documents == 3


def test_a_gain_has_an_interval_over_documents():
    """Of 30 documents of 16 sequences of 10 labels: that of the mean of each document."""
    document_s = np.repeat(np.arange(30), 16)
    half = Half(Rows.joined([*Rows.windows(np.arange(11), None, 10)] * len(document_s)), document_s)
    gain_s = np.random.default_rng(0).normal(size=len(document_s))
    expected = ratio_interval(gain_s.reshape(30, 16).mean(1).tolist(), [1.0] * 30)
    actual = half.gain(10 * gain_s, 0 * gain_s)
    assert actual is not None and astuple(actual) == pytest.approx(astuple(expected))


SHAPE = replace(PARENT, pattern="-M-", vocab=24)
AXES = {
    "hidden": AxisConfig((16,)),
    "ffn": AxisConfig((16, 12, 8, 4), per_layer=True),
    "mamba_heads": AxisConfig((6, 4, 2)),
    "mamba_head_dim": AxisConfig((4,)),
    "attention_heads": AxisConfig((4,)),
    "depth": AxisConfig((3,)),
}
BUDGET = Budget("task", ratio=0.8)


def lopsided(needed: int) -> NemotronH:
    """A model of which one MLP does everything: what the other layers add to the residual stream is nothing."""
    state = NemotronH.random(SHAPE, seed=1, dtype=torch.float64).state_dict()
    for name, tensor in state.items():
        if "out_proj" in name or "down_proj" in name:
            tensor *= 40.0 if f"layers.{needed}." in name else 0.0
    return NemotronH(SHAPE, state, trainable=False)


def spoken(model: NemotronH, number: int, length: int) -> list[Encoded]:
    """Documents that the whole model says itself: nothing predicts them better."""
    generator = torch.Generator().manual_seed(0)
    tokens_bl = torch.randint(SHAPE.vocab, (number, 1), generator=generator)
    with torch.no_grad():
        for _ in range(length - 1):
            probabilities_bv = model(tokens_bl, last=True)[:, -1].softmax(-1)
            tokens_bl = torch.cat([tokens_bl, torch.multinomial(probabilities_bv, 1, generator=generator)], dim=1)
    return [Encoded(None, row.numpy()) for row in tokens_bl]


def made() -> Family:
    return Family.of(SHAPE, {"full": SHAPE.full, "small": SHAPE.uniform(ffn=4, mamba_heads=2)}, axes=AXES)


def start_of(family: Family) -> Subnet:
    shapes = path(family)
    return shapes[shapes.fit(BUDGET.target(SHAPE))]


def test_the_layer_that_the_data_needs_is_kept_whole():
    model, family, needed = lopsided(2), made(), 2
    start, halves = start_of(family), halves_of(spoken(model, 60, 33), 16, 512)
    runtime = FamilyRuntime(model, {m.name: m.subnet for m in family})
    result = specialize(runtime, family, start, BUDGET, halves, candidates=20)
    assert result.path == start and start.by_index[needed].widths["ffn"] < 16
    assert result.candidate.by_index[needed].widths["ffn"] == 16
    assert result.wins and result.shape == result.candidate and result.gain.low > 0.01
    assert BUDGET.cost(SHAPE, result.candidate) <= BUDGET.target(SHAPE)
    assert result.candidate in trained_space(family, start) and result.candidate <= SHAPE.full
    # the figures are those of the shapes, on the halves that they are said to be of
    for at, subnet in enumerate((result.path, result.candidate)):
        member = runtime.select(subnet)
        for half, loss in ((halves.search, result.searched[at]), (halves.held_out, result.held_out[at])):
            expected = np.mean([perplexity(member, ids, 16).nats for ids in sequences(half)])
            assert loss == pytest.approx(expected, rel=1e-12)
    assert result.gain.mean == pytest.approx(result.held_out[0] - result.held_out[1], abs=1e-12)
    assert result.gain.count == halves.held_out.documents
    assert specialize(runtime, family, start, BUDGET, halves, candidates=20) == result


def test_what_is_better_by_chance_is_not_taken():
    """Tokens without any order: the shape that does best on a few of them does no better on others."""
    family, rng = made(), np.random.default_rng(0)
    runtime = FamilyRuntime(NemotronH.random(SHAPE, seed=0), {m.name: m.subnet for m in family})
    halves = halves_of([Encoded(None, rng.integers(0, SHAPE.vocab, 33)) for _ in range(400)], 16, 128)
    result = specialize(runtime, family, start_of(family), BUDGET, halves, candidates=20)
    assert result.candidate != result.path and result.searched[1] < result.searched[0] - 0.01
    assert result.gain.low <= 0 <= result.gain.high and not result.wins and result.shape == result.path


def test_among_equals_the_path_stays():
    family, model = made(), lopsided(needed=9)  # no layer says anything
    halves = halves_of(spoken(model, 20, 33), 16, 256)
    runtime = FamilyRuntime(model, {m.name: m.subnet for m in family})
    result = specialize(runtime, family, start_of(family), BUDGET, halves, candidates=12)
    assert result.candidate == result.path and result.gain.mean == 0.0 and not result.wins and result.trials > 3


def test_a_broken_model_is_reported():
    family, state = made(), NemotronH.random(SHAPE).state_dict()
    next(iter(state.values())).fill_(float("nan"))
    runtime = FamilyRuntime(NemotronH(SHAPE, state, trainable=False), {m.name: m.subnet for m in family})
    halves = halves_of([Encoded(None, np.arange(17) % 24)] * 40, 16, 256)
    with pytest.raises(ElasticError, match="is not a number"):
        specialize(runtime, family, start_of(family), BUDGET, halves, candidates=4)
