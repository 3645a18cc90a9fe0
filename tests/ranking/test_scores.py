# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Scores against their formulas written out, and sums that add up over batches and ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import RankOptions
from nemo_elastic.ranking.ranking import make_orders
from nemo_elastic.ranking.scores import Statistics
from tests.ranking.test_sorting import tokens_of
from tests.shapes import LATENT, MOE, PARENT


class Recorder:
    """A probe that keeps everything, for formulas written out."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], list[np.ndarray]] = {}

    def __call__(self, site, layer, activation):
        self.seen.setdefault((site, layer), []).append(activation.detach().double().numpy())

    def get(self, site, layer):
        return np.concatenate(self.seen[site, layer])


def collect(options=None, seeds=(0, 1, 2), parent=PARENT):
    model = NemotronH.random(parent, seed=1)
    statistics, recorder = Statistics(parent, options), Recorder()
    for seed in seeds:
        for probe in (statistics, recorder):
            model(tokens_of(parent, seed=seed), None, probe)
    return statistics, recorder


def l2_mean(a):
    """sqrt(sum over batch of (mean over tokens of |a|)^2)."""
    return np.sqrt((np.abs(a).mean(axis=1) ** 2).sum(axis=0))


def test_scores_follow_the_formulas_of_the_method():
    statistics, recorder = collect()
    scores = statistics.scores()
    norms = [recorder.get("hidden", i) for i in range(-1, PARENT.num_layers)]
    np.testing.assert_allclose(scores["hidden"], sum(l2_mean(a) for a in norms), rtol=1e-5)
    np.testing.assert_allclose(scores["ffn.1"], l2_mean(recorder.get("ffn", 1)), rtol=1e-5)
    s_hp = l2_mean(recorder.get("mamba_x", 0))
    np.testing.assert_allclose(scores["mamba_head_dim.0"], np.sqrt((s_hp**2).sum(0)), rtol=1e-5)
    np.testing.assert_allclose(scores["mamba_heads.0"], np.sqrt((s_hp**2).sum(1)), rtol=1e-5)
    s_he = l2_mean(recorder.get("attention", 3))
    np.testing.assert_allclose(scores["attention_heads.3"], np.sqrt((s_he**2).sum(1)), rtol=1e-5)


@pytest.mark.parametrize("experts", ["mean", "l2"])
def test_experts_are_scored_over_their_own_tokens(experts):
    """The mean of weight times norm over the tokens that an expert sees: a rare one is not a weak one."""
    options = RankOptions(experts=experts, aggregation="mean")
    statistics, recorder = collect(options, parent=LATENT)
    scores, power = statistics.scores(), {"mean": 1, "l2": 2}[experts]
    for layer in (1, 4):
        weighed, routed = (recorder.get(site, layer).reshape(-1, 8) for site in ("experts", "routed"))
        assert set(np.unique(routed)) == {0, 1} and (routed.sum(1) == 2).all()
        expected = [
            np.mean(weighed[routed[:, e] > 0, e] ** power) ** (1 / power) if routed[:, e].any() else 0
            for e in range(8)
        ]
        np.testing.assert_allclose(scores[f"experts.{layer}"], expected, rtol=1e-5)
        neurons = recorder.get("expert_ffn", layer).mean((0, 1))
        np.testing.assert_allclose(scores[f"expert_ffn.{layer}"], neurons, rtol=1e-5)
        shared = np.abs(recorder.get("shared_ffn", layer)).mean((0, 1))
        np.testing.assert_allclose(scores[f"shared_ffn.{layer}"], shared, rtol=1e-5)
    l2, _ = collect(RankOptions(), parent=LATENT)
    np.testing.assert_allclose(l2.scores()["latent.4"], l2_mean(recorder.get("latent", 4)), rtol=1e-5)


def test_a_basis_is_the_principal_directions_of_what_enters_the_norms():
    statistics, recorder = collect(RankOptions(hidden="basis"))
    last = PARENT.num_layers - 1
    streams = [*(recorder.get("layer_in", i) for i in range(last + 1)), recorder.get("layer_out", last)]
    n_td = np.concatenate([x / np.sqrt((x**2).mean(-1, keepdims=True) + PARENT.norm_eps) for x in streams])
    n_td = n_td.reshape(-1, PARENT.hidden)
    squares, basis = statistics.basis()
    np.testing.assert_allclose(basis.T @ basis, np.eye(PARENT.hidden), atol=1e-12)
    np.testing.assert_allclose((np.square(n_td @ basis)).mean(0), squares, rtol=1e-4, atol=1e-6)
    covariance = basis.T @ (n_td.T @ n_td) @ basis / len(n_td)
    np.testing.assert_allclose(covariance, np.diag(squares), atol=1e-4)
    assert np.all(np.diff(squares) <= 0) and "hidden" not in statistics.scores()


def test_tokens_that_do_not_count_are_not_in_a_basis():
    model, tokens = NemotronH.random(PARENT, seed=1), tokens_of(PARENT)
    weights = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1.0], [0.0] * 9])
    counted, front = (Statistics(PARENT, RankOptions(hidden="basis")) for _ in range(2))
    counted.weigh(weights)
    model(tokens, None, counted)
    kept = torch.zeros_like(weights)
    kept[0, 3:] = 1

    class Kept:
        """The same activations without those of other tokens."""

        def __call__(self, site, layer, activation):
            front(site, layer, activation[:1, 3:] if site in ("layer_in", "layer_out") else activation)

    model(tokens, None, Kept())
    np.testing.assert_allclose(counted.basis()[0], front.basis()[0], rtol=1e-5)


def test_an_expert_without_tokens_comes_last():
    model = NemotronH.random(MOE, seed=1)
    model.get_parameter("backbone.layers.1.mixer.gate.e_score_correction_bias").data[3] = -50
    statistics = Statistics(MOE)
    model(tokens_of(MOE), None, statistics)
    scores = statistics.scores()
    assert scores["experts.1"][3] == 0 and not scores["expert_ffn.1"][3].any()
    assert make_orders(MOE, scores)["experts.1"][-1] == 3


def test_options_change_what_they_say():
    options = RankOptions(ffn="first", aggregation="mean", depth="cosine", head_channels=2)
    statistics, recorder = collect(options)
    scores = statistics.scores()
    np.testing.assert_allclose(scores["ffn.1"], np.abs(recorder.get("ffn_pre", 1)).mean(axis=(0, 1)), rtol=1e-5)
    s_hp = np.abs(recorder.get("mamba_x", 0)).mean(axis=(0, 1))
    top = np.argsort(-np.linalg.norm(s_hp, axis=0))[:2]
    np.testing.assert_allclose(scores["mamba_heads.0"], np.linalg.norm(s_hp[:, top], axis=1), rtol=1e-5)
    a, b = (recorder.get(site, 2) for site in ("layer_in", "layer_out"))
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(scores["depth"][2], (1 - cosine).mean(), rtol=1e-4)


def added(one: Statistics, other: Statistics) -> Statistics:
    """Sums of two ranks, as `reduce` adds them up: every tensor in turn, and then how many samples each has seen."""
    theirs = [*other.sums.values(), torch.tensor(list(other.samples.values()), dtype=torch.float64)]
    rest = iter([*theirs, other.moments])
    return one.reduce(lambda t: t + next(rest))


@pytest.mark.parametrize("hidden", ["magnitude", "basis"])
@pytest.mark.parametrize("parent", [PARENT, LATENT])
def test_two_halves_merged_are_the_whole(parent, hidden):
    options = RankOptions(depth="cosine", hidden=hidden)
    whole, _ = collect(options, seeds=(0, 1, 2, 3), parent=parent)
    left, _ = collect(options, seeds=(0, 1), parent=parent)
    right, _ = collect(options, seeds=(2, 3), parent=parent)
    for name, value in added(left, right).scores().items():
        np.testing.assert_allclose(value, whole.scores()[name], rtol=1e-12)
    if hidden == "basis":
        np.testing.assert_allclose(left.basis()[1], whole.basis()[1], atol=1e-9)


def test_broken_activations_and_wrong_probes_are_reported():
    statistics, _ = collect()
    statistics("ffn", 1, torch.full((1, 2, PARENT.ffn), float("nan")))
    with pytest.raises(ElasticError, match=r"ffn\.1 are not finite"):
        statistics.scores()
    with pytest.raises(ElasticError, match="no activation was seen"):
        Statistics(PARENT).scores()
    with pytest.raises(ValueError, match="the parent has"):
        Statistics(PARENT)("ffn", 1, torch.zeros(1, 2, PARENT.ffn // 2))
