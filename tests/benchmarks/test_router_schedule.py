# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The study of the router's schedule: its losses, the best members under them, and its batch of routers."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from benchmarks.study import schedule
from benchmarks.study.made_up import MadeUp, best, make_up
from benchmarks.study.simulate import Optimizer, Routers, samples, train
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.sections import RouterConfig
from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.mlp import FFN
from nemo_elastic.core.kinds.registry import layer_axes
from nemo_elastic.router import Router
from nemo_elastic.search import project_family

PARENT = Parent("M-M*-M-", 64, 256, 256, 8, 16, 4, 16, 4, 4, 2, 16, ffn_stripes=8)
CONFIG = ElasticConfig.from_dict(
    {
        "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.75}, {"name": "small", "ratio": 0.55}],
        "axes": {
            "hidden": [64, 48],
            "ffn": {"choices": [256, 192, 128], "per_layer": True, "stripes": 8},
            "mamba_heads": [8, 4],
            "mamba_head_dim": [16, 12],
            "attention_heads": [4, 2],
            "depth": [7, 6, 5],
        },
        "router": {"hidden": 32},
    }
)
SHORT = Optimizer(steps=600, micro_batches=8, betas=(0.9, 0.95), eps=1e-5, clip=1.0, warmup=5)


def every_code(made: MadeUp) -> np.ndarray:
    return np.array(list(product(*(range(n) for n in made.space.sizes))))


@pytest.mark.parametrize("per_layer", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_member_is_the_best_of_all(seed: int, per_layer: bool) -> None:
    config = replace(CONFIG, axes=dict(CONFIG.axes) | {FFN: replace(CONFIG.axes[FFN], per_layer=per_layer)})
    made, _ = make_up(config, PARENT, seed)
    codes = every_code(made)
    losses = made(codes)
    for budget in config.budgets[1:]:
        price = made.space.price(budget)
        actual = best(made, price)
        assert price.codes(np.array(actual))[0] <= price.target
        assert made(np.array(actual))[0] == pytest.approx(losses[price.codes(codes) <= price.target].min(), abs=1e-12)


def test_a_loss_grows_with_every_step_down_and_is_one_at_the_smallest_member() -> None:
    made, judged = make_up(CONFIG, PARENT, 0)
    for loss in (made, judged):
        assert loss(np.zeros(len(loss.space.slots), dtype=int))[0] == 0
        assert loss(loss.space.sizes - 1)[0] == pytest.approx(1)
        assert (loss.dropped > sum(_whole(loss, a) for a in layer_axes() if a in loss.lost)).all(), (
            "a dropped layer loses all it has"
        )
        for steps in loss.lost.values():
            assert (np.diff(steps, axis=1) > 0).all(), "the first steps down lose least"


def _whole(made: MadeUp, axis: str) -> np.ndarray:
    out = np.zeros(made.space.parent.num_layers)
    out[list(made.space.layers_of(axis))] = made.table(axis)[:, -1]
    return out


def test_the_search_misjudges_as_much_as_it_says() -> None:
    """Rank correlation of FFN layers' worth, over many seeds."""
    config, shape = schedule.block("12b", {}), schedule.shape("12b")
    seen = []
    for seed in range(40):
        pair = make_up(config, shape, seed, agreement=0.7)
        first, second = (np.argsort(np.argsort(made.lost[FFN][:, 0] / _curves(made))) for made in pair)
        seen.append(np.corrcoef(first, second)[0, 1])
    assert np.mean(seen) == pytest.approx(0.7, abs=0.05)


def _curves(made: MadeUp) -> np.ndarray:
    """Share of an FFN's worth that its first step loses; the same in both losses."""
    return made.lost[FFN][:, 0] / made.dropped[list(made.space.layers_of(FFN))]


def batch(losses: list[MadeUp], **settings: float) -> Routers:
    routers = [Router(m.space, CONFIG.budgets, CONFIG.router, seed) for seed, m in enumerate(losses)]
    return Routers(routers, losses, **settings)


@pytest.mark.parametrize("bend", [1.0, 2.0])
def test_at_hard_choices_loss_and_cost_are_those_of_the_member(bend: float) -> None:
    losses = [make_up(CONFIG, PARENT, seed)[0] for seed in range(2)]
    routers = batch(losses, bend=bend)
    for code in every_code(losses[0])[::211]:
        pi = torch.zeros(2, 2, len(routers), routers.width)
        rows = [r for a in routers.axes for r in range(routers.at[a].start, routers.at[a].stop)]
        pi[:, :, rows, code] = 1.0
        for a in routers.at.keys() - set(routers.axes):
            pi[:, :, routers.at[a], 0] = 1.0
        cost = routers.expected_cost(pi, torch.tensor([1, 2]))
        for r, made in enumerate(losses):
            assert routers.loss(pi)[r].tolist() == pytest.approx([made(code)[0]] * 2, abs=1e-5)
            for m, budget in enumerate(CONFIG.budgets[1:]):
                price = made.space.price(budget)
                assert float(cost[r, m]) == pytest.approx(price.codes(code)[0] / price.target, rel=1e-5)


def test_a_batch_of_routers_learns_what_single_ones_learn() -> None:
    """Logits, expected cost and the gradients of both losses, against the router itself."""
    losses = [make_up(CONFIG, PARENT, seed)[0] for seed in range(3)]
    routers = batch(losses)
    budgets, tau, scale = torch.tensor([2, 1]), 0.7, 3.0
    pi = (routers.logits()[:, budgets] * scale / tau).softmax(-1)
    cost, loss = routers.expected_cost(pi, budgets), routers.loss(pi)
    ((cost - 1).abs().sum() + loss.sum()).backward()
    for r, (router, made) in enumerate(zip(routers.routers, losses, strict=True)):
        total = 0.0
        for m, b in enumerate(budgets.tolist()):
            own = router.probabilities(b, tau, scale)
            assert router.expected_cost(own, b).item() == pytest.approx(cost[r, m].item(), rel=1e-5)
            total = total + router.budget_loss(own, b) + _expected(made, own)
        total.backward()
        for axis in router.axes:
            for mine, theirs in ((routers.down, router.down), (routers.up, router.up)):
                torch.testing.assert_close(mine[axis].grad[r], theirs[axis].grad, rtol=1e-4, atol=1e-7)


def _expected(made: MadeUp, pi: dict[str, torch.Tensor]) -> torch.Tensor:
    """Expected loss under independent choices, written out."""
    kept = (pi["depth"] @ torch.from_numpy(made.space.kept).float())[0]
    total = ((1 - kept) * torch.from_numpy(made.dropped).float()).sum()
    total = total + (pi["hidden"][0] * torch.from_numpy(made.table("hidden")[0]).float()).sum()
    for axis in (a for a in layer_axes() if a in PARENT.axes):
        for row, layer in enumerate(made.space.layers_of(axis)):
            p = pi[axis][row if made.space.per_layer[axis] else 0]
            total = total + kept[layer] * (p * torch.from_numpy(made.table(axis)[row]).float()).sum()
    return total


def test_every_router_is_clipped_by_its_own_norm() -> None:
    losses = [make_up(CONFIG, PARENT, 0, nats=nats)[0] for nats in (1e-3, 1e3)]
    routers = batch(losses)
    routers.loss((routers.logits()).softmax(-1)).sum().backward()
    before = [p.grad.clone() for p in routers.parameters()]
    norms = routers.clip(1.0)
    assert norms[0] < 1 < norms[1]
    for p, g in zip(routers.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad[0], g[0])
        torch.testing.assert_close(p.grad[1], g[1] / norms[1], rtol=1e-4, atol=1e-9)


def test_the_samples_are_those_of_training() -> None:
    from nemo_elastic.train.samples import BudgetSampler

    assert CONFIG.router is not None
    sampler = BudgetSampler(CONFIG.weights(), CONFIG.seed)
    result = samples(CONFIG, SHORT, 20)
    for step, sampled in enumerate(result):
        soft = [m for m in range(SHORT.micro_batches) if sampler.soft(step, m, CONFIG.router.soft_share)]
        assert sampled == [b for m in soft if (b := sampler.sample(step, m))]
    assert sum(map(len, result)) > 0


def test_regret_is_zero_at_the_best_members_and_learning_lowers_it() -> None:
    """A strong, noiseless signal and masks in all micro-batches put right some of what the search misjudged."""
    parent = replace(PARENT, pattern="M-M-M*-M-M-M*-")
    axes = dict(CONFIG.axes) | {"hidden": AxisConfig((64, 56, 48, 40)), "depth": AxisConfig((14, 12, 10))}
    settings = RouterConfig(scale=(1.0, 3.0), prior=1.0, soft_share=1.0, loss_weight=10.0)
    config = replace(CONFIG, axes=axes, router=settings)
    runs, losses, starts, floors = [], [], [], []
    for seed in range(4):
        pair = make_up(config, parent, seed, agreement=0.3)
        space = pair[0].space
        floor, actual = ({b.name: space.decode(best(m, space.price(b))) for b in config.budgets[1:]} for m in pair)
        start = {n: p.member for n, p in project_family(space, actual, config.budgets).items()}
        runs.append(Router(space, config.budgets, settings, seed))
        runs[-1].start_from(start, settings.prior)
        losses.append(pair[0])
        starts.append(start)
        floors.append(floor)
    routers = Routers(runs, losses)
    watch = schedule.Watch(routers, starts, floors, settings.freeze_step(SHORT.steps))
    assert watch.regret(floors) == [0.0] * 4
    assert train(routers, config, SHORT, 0, watch) == 402
    figures = watch.figures()
    assert all(each >= 0 for f in figures for each in f["regret"])
    start, end = (sum(f["start"] for f in figures), sum(f["regret"][-1] for f in figures))
    assert end < 0.8 * start, (start, end)
    assert all(abs(f["raw"]) < 0.05 and 0 < f["decided"] < 402 for f in figures)
