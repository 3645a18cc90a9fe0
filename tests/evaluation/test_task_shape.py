# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The search for a task: a shape that is really better is found, one that is better by chance is not taken."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import path
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation import Specialized, halves_of, perplexity, sequence_losses, specialize
from nemo_elastic.evaluation.task_shape import PIECE, WIDER
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime
from nemo_elastic.search import trained_space
from nemo_elastic.verdicts import Interval, mean_interval
from tests.shapes import PARENT


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """Documents of which no two tokens are the same."""
    ends = np.cumsum([0, *lengths])
    return [np.arange(a, b) for a, b in pairwise(ends)]


def tokens(sequences_sl: np.ndarray) -> set[int]:
    return set(sequences_sl.reshape(-1).tolist())


def test_a_document_is_in_one_half_only():
    documents = numbered([30, 70, 11, 5, 64, 33, 90, 20] * 6)
    halves = halves_of(documents, length=16, most=10_000, seed=3)
    search, held_out = tokens(halves.search_sl), tokens(halves.held_out_sl)
    assert not search & held_out
    for document in documents:
        assert not (search & set(document.tolist()) and held_out & set(document.tolist()))
    sizes = halves.search_tokens, halves.held_out_tokens
    assert sum(sizes) > 0.95 * sum(map(len, documents)) and max(sizes) - min(sizes) < 128
    assert halves.search_sl.shape[1] == halves.held_out_sl.shape[1] == 17


def test_every_token_but_the_first_is_predicted_once():
    halves = halves_of(numbered([1000]), length=10, most=10_000)
    for sequences_sl in (halves.search_sl, halves.held_out_sl):
        assert (sequences_sl[1:, 0] == sequences_sl[:-1, -1]).all()
        labels = sequences_sl[:, 1:].reshape(-1)
        assert len(set(labels.tolist())) == len(labels)


def test_a_long_document_is_cut_into_pieces_that_go_to_both():
    halves = halves_of(numbered([4000]), length=20, most=10_000)
    assert min(len(halves.search_sl), len(halves.held_out_sl)) > 80
    steps = np.diff(halves.search_sl.reshape(-1).astype(int))
    assert (steps == 1).mean() > 1 - 1.2 * (2 / (PIECE * 21) + 1 / 20)  # where pieces meet, and where sequences do


def test_the_half_to_report_on_may_be_longer():
    halves = halves_of(numbered([100] * 200), length=10, most=500)
    assert (halves.search_tokens, halves.held_out_tokens) == (500, 500 * WIDER)


def test_the_seed_decides():
    documents = numbered([50] * 40)
    one, same, other = (halves_of(documents, 10, 10_000, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.search_sl, same.search_sl) and np.array_equal(one.held_out_sl, same.held_out_sl)
    assert not np.array_equal(one.search_sl, other.search_sl)


@pytest.mark.parametrize(("documents", "actual"), [([], 0), ([np.arange(40)], 0), ([np.arange(20)] * 8, 7)])
def test_too_little_is_refused(documents, actual):
    with pytest.raises(ElasticError, match=rf"mine: \d+ tokens make {actual} sequences of 10 in each half"):
        halves_of(documents, 10, 10_000, where="mine")


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


def spoken(model: NemotronH, number: int, length: int) -> list[np.ndarray]:
    """Documents that the whole model says itself: nothing predicts them better."""
    generator = torch.Generator().manual_seed(0)
    tokens_bl = torch.randint(SHAPE.vocab, (number, 1), generator=generator)
    with torch.no_grad():
        for _ in range(length - 1):
            probabilities_bv = model(tokens_bl, last=True)[:, -1].softmax(-1)
            tokens_bl = torch.cat([tokens_bl, torch.multinomial(probabilities_bv, 1, generator=generator)], dim=1)
    return [row.numpy() for row in tokens_bl]


def made() -> Family:
    return Family.of(SHAPE, {"full": SHAPE.full, "small": SHAPE.uniform(ffn=4, mamba_heads=2)}, axes=AXES)


def start_of(family: Family) -> Subnet:
    shapes = path(family)
    return shapes[shapes.fit(BUDGET.target(SHAPE))]


@pytest.mark.parametrize("needed", [0, 2])
def test_the_layer_that_the_data_needs_is_kept_whole(needed):
    model, family = lopsided(needed), made()
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
        assert result.searched[at] == pytest.approx(sequence_losses(member, halves.search_sl).mean(), rel=1e-12)
        assert result.held_out[at] == pytest.approx(sequence_losses(member, halves.held_out_sl).mean(), rel=1e-12)
    assert result.gain.mean == pytest.approx(result.held_out[0] - result.held_out[1], abs=1e-12)
    assert specialize(runtime, family, start, BUDGET, halves, candidates=20) == result


def test_what_is_better_by_chance_is_not_taken():
    """Tokens without any order: the shape that does best on a few of them does no better on others."""
    family, rng = made(), np.random.default_rng(0)
    runtime = FamilyRuntime(NemotronH.random(SHAPE, seed=0), {m.name: m.subnet for m in family})
    halves = halves_of([rng.integers(0, SHAPE.vocab, 33) for _ in range(400)], 16, 128)
    result = specialize(runtime, family, start_of(family), BUDGET, halves, candidates=20)
    assert result.candidate != result.path and result.searched[1] < result.searched[0] - 0.01
    assert result.gain.holds_zero and not result.wins and result.shape == result.path


def test_among_equals_the_path_stays():
    family, model = made(), lopsided(needed=9)  # no layer says anything
    halves = halves_of(spoken(model, 20, 33), 16, 256)
    runtime = FamilyRuntime(model, {m.name: m.subnet for m in family})
    result = specialize(runtime, family, start_of(family), BUDGET, halves, candidates=12)
    assert result.candidate == result.path and result.gain.mean == 0.0 and not result.wins and result.trials > 3


@pytest.mark.parametrize(
    ("interval", "wins"), [((0.1, 0.05, 0.15), True), ((0.1, -0.01, 0.21), False), ((-0.1, -0.2, -0.05), False)]
)
def test_a_gain_counts_where_its_interval_is_above_zero(interval, wins):
    family = made()
    start, other = start_of(family), family.members[1].subnet
    actual = Specialized(start, other, (2.0, 1.9), (2.0, 1.9), Interval(*interval, 20), 5)
    assert actual.wins is wins and actual.shape == (other if wins else start)
    report = actual.to_json(family)
    assert report["wins"] is wins and report["gain"]["low"] == interval[1]
    assert Subnet.from_json(report["found"]["subnet"], SHAPE) == other
    assert not replace(actual, candidate=start, gain=Interval(0.0, 0.0, 0.0, 20)).wins


def test_a_broken_model_is_reported():
    family, state = made(), NemotronH.random(SHAPE).state_dict()
    next(iter(state.values())).fill_(float("nan"))
    runtime = FamilyRuntime(NemotronH(SHAPE, state, trainable=False), {m.name: m.subnet for m in family})
    halves = halves_of([np.arange(17) % 24] * 40, 16, 256)
    with pytest.raises(ElasticError, match="is no number; the family's weights are damaged"):
        specialize(runtime, family, start_of(family), BUDGET, halves, candidates=4)


def test_losses_of_sequences_are_those_of_perplexity():
    model = NemotronH.random(SHAPE, dtype=torch.float64)
    tokens = np.random.default_rng(0).integers(0, SHAPE.vocab, 161)
    sequences_sl = np.stack([tokens[i : i + 17] for i in range(0, 160, 16)])
    found_s = sequence_losses(model, sequences_sl, batch=3)
    assert found_s.shape == (10,) and found_s.dtype == np.float64
    with torch.no_grad():
        assert found_s.mean() == pytest.approx(perplexity(model, tokens, 16).nats, rel=1e-12)
        assert found_s[4] == pytest.approx(perplexity(model, sequences_sl[4], 16).nats, rel=1e-12)


def test_pairs_show_what_two_means_would_not():
    hard = np.random.default_rng(0).normal(3.0, 1.0, 50)
    gain = mean_interval((hard - (hard - 0.01 - 0.005 * np.sin(np.arange(50)))).tolist())
    assert gain.above_zero and gain.high < 0.02
