# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the router's schedule decides and when, in the space of a large block under made-up losses: jobs of one study.

A job is one setting: routers for some sizes of the signal and some seeds, trained up to the freeze and projected.
Seeds are losses of their own, what a search took them for, initial weights and noise; every setting sees the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.plan import preset

CONF = Path(__file__).parents[2] / "conf"
#: block in conf/ -> the parent's name in `nemo_elastic.plan`
PARENTS = {"12b": "nemotron-nano-12b-v2", "9b": "nemotron-nano-9b-v2", "8b": "nemotron-h-8b"}
#: nats between the parent and the smallest member of the space: a signal that is weak, middling, strong
NATS = (0.05, 0.5, 3.0)
#: standard deviation of a micro-batch's gradient on a gate, over what a step on its axis typically loses
NOISE = 1.0
#: rank correlation of what the search took a width for and what it is worth
AGREEMENT = 0.7
#: the paper's rate, temperature, scale and budget loss, with this project's first prior, share and freeze
BEFORE: dict[str, Any] = {
    "lr": 1e-2, "tau": (1.0, 0.05), "scale": (1.0, 10.0), "prior": 4.0, "loss_weight": 1.0, "below": 1.0,
    "soft_share": 0.15, "freeze_at": 0.67,
}  # fmt: skip
#: what the blocks of large parents have
NOW: dict[str, Any] = BEFORE | {"lr": 3e-3, "scale": (1.0, 3.0), "prior": 2.0, "loss_weight": 4.0, "below": 0.0}
SEEDS, MORE_SEEDS = (0, 1, 2), (3, 4, 5)
#: name -> what differs from BEFORE: one thing at a time
ALONE: dict[str, dict[str, Any]] = {
    "lr 3e-3": {"lr": 3e-3}, "lr 1e-3": {"lr": 1e-3}, "lr 3e-4": {"lr": 3e-4},
    "scale 1 to 3": {"scale": (1.0, 3.0)}, "scale 1 to 1": {"scale": (1.0, 1.0)},
    "tau 1 to 0.3": {"tau": (1.0, 0.3)}, "tau 2 to 0.1": {"tau": (2.0, 0.1)}, "tau 4 to 0.05": {"tau": (4.0, 0.05)},
    "prior 2": {"prior": 2.0}, "prior 0": {"prior": 0.0},
    "loss_weight 4": {"loss_weight": 4.0}, "loss_weight 10": {"loss_weight": 10.0}, "below 0": {"below": 0.0},
    "freeze_at 0.33": {"freeze_at": 0.33}, "soft_share 0.5": {"soft_share": 0.5}, "soft_share 1": {"soft_share": 1.0},
}  # fmt: skip
#: the same from NOW
AROUND: dict[str, dict[str, Any]] = {
    "below 1": {"below": 1.0}, "below 1 loss_weight 2": {"below": 1.0, "loss_weight": 2.0},
    "below 1 loss_weight 10": {"below": 1.0, "loss_weight": 10.0},
    "loss_weight 1": {"loss_weight": 1.0}, "loss_weight 2": {"loss_weight": 2.0},
    "loss_weight 10": {"loss_weight": 10.0},
    "lr 1e-2": {"lr": 1e-2}, "lr 1e-3": {"lr": 1e-3}, "prior 4": {"prior": 4.0}, "prior 1": {"prior": 1.0},
    "scale 1 to 10": {"scale": (1.0, 10.0)}, "freeze_at 0.33": {"freeze_at": 0.33},
}  # fmt: skip
#: name -> what `simulate` is given besides, for BEFORE and for NOW
CHECKS: dict[str, dict[str, Any]] = {
    "more seeds": {"seeds": MORE_SEEDS}, "bent": {"bend": 2.0}, "noise 4": {"noise": 4.0},
    "9b": {"family": "9b"}, "8b": {"family": "8b"},
    **{f"{f} one width": {"family": f, "per_layer": False, "seeds": (*SEEDS, *MORE_SEEDS)} for f in PARENTS},
}  # fmt: skip
#: part of a job's name -> what it changes
CHANGES = {name.replace(" ", "-"): name for name in (*ALONE, *AROUND, *CHECKS)}
#: steps between two looks at the choices, and shares of the way at which figures are kept
EVERY, POINTS = 16, (0.1, 0.25, 0.5, 0.75, 1.0)


def block(family: str, router: Mapping[str, Any], per_layer: bool = True) -> ElasticConfig:
    """A block of conf/ with an FFN width per layer, which is the larger space, and other settings of its router."""
    config = ElasticConfig.load(CONF / f"elastic_{family}.yaml")
    assert config.router is not None
    axes = dict(config.axes) | {"ffn": replace(config.axes["ffn"], per_layer=per_layer)}
    return replace(config, axes=axes, router=replace(config.router, **router))


def shape(family: str) -> Parent:
    """The parent of a block."""
    return block(family, {}).parent_shape(preset(PARENTS[family]))


def simulate(
    family: str,
    router: Mapping[str, Any],
    seeds: tuple[int, ...],
    noise: float = NOISE,
    bend: float = 1.0,
    per_layer: bool = True,
) -> dict[str, Any]:
    """One setting over all signals and seeds.

    Args:
        family: key of `PARENTS`.
        router: settings that differ from the block's.
        seeds: see above.
        noise, bend: see `simulate.Routers`.
        per_layer: an FFN width per layer; False, as the recipes have it, one for all.

    Returns:
        Signal -> figures of each seed, see `Watch.figures`; losses in shares of the signal, means over members.
    """
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # gradients die out, and a denormal number costs a CPU a hundred ordinary ones
    from benchmarks.study.made_up import best, make_up
    from benchmarks.study.simulate import LARGE, Routers, train
    from nemo_elastic.router import Router
    from nemo_elastic.search import project_family

    config = block(family, router, per_layer)
    assert config.router is not None
    runs, losses, starts, floors = [], [], [], []
    for seed in seeds:
        judged = make_up(config, shape(family), seed, AGREEMENT)
        space = judged[0].space
        wanted = [b for b in config.budgets if not b.is_parent]
        floor, misjudged = ({b.name: space.decode(best(loss, space.price(b))) for b in wanted} for loss in judged)
        start = {name: p.member for name, p in project_family(space, misjudged, config.budgets).items()}
        for nats in NATS:
            runs.append(Router(space, config.budgets, config.router, seed))
            runs[-1].start_from(start, config.router.prior)
            losses.append(judged[0].scaled(nats))
            starts.append(start)
            floors.append(floor)
    routers = Routers(runs, losses, noise, bend)
    watch = Watch(routers, starts, floors, config.router.freeze_step(LARGE.steps))
    train(routers, config, LARGE, seeds[0], watch)
    figures = watch.figures()
    return {f"{nats:g}": figures[i :: len(NATS)] for i, nats in enumerate(NATS)}


def settings() -> dict[str, dict[str, Any]]:
    """Name of a job without its study -> arguments of `simulate`, the most important first."""

    def one(router: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return {"family": "12b", "router": dict(router), "seeds": SEEDS} | more

    out = {"before": one(BEFORE), "now": one(NOW)}
    for name, more in CHECKS.items():
        out |= {f"{which} {name}": one(each, **more) for which, each in (("before", BEFORE), ("now", NOW))}
    out |= {f"now {name}": one(NOW | change) for name, change in AROUND.items()}
    out |= {f"before {name}": one(BEFORE | change) for name, change in ALONE.items()}
    return {name.replace(" ", "-"): each for name, each in out.items()}


class Watch:
    """Looks at routers while they learn.

    Args:
        routers: all of them.
        starts: members that each started at; floors: the best ones, budget by budget, nested or not.
        end: step of the freeze.
    """

    def __init__(
        self,
        routers: Any,
        starts: list[Mapping[str, Subnet]],
        floors: list[Mapping[str, Subnet]],
        end: int,
    ) -> None:
        self.routers, self.starts, self.floors, self.end = routers, starts, floors, end
        self.points = {round(share * (end - 1)): share for share in POINTS}
        self.codes: list[np.ndarray] = []
        self.costs: list[np.ndarray] = []
        self.open: list[np.ndarray] = []
        self.regrets: list[list[float]] = []

    def __call__(self, step: int, figures: Mapping[str, Any]) -> None:
        if step % EVERY == 0 or step == self.end - 1:
            self.codes.append(self.routers.codes()[:, 1:])
        if "cost" in figures:
            self.costs.append(figures["cost"].numpy().mean(axis=1))
        if step in self.points:
            self.open.append(self.routers.openness(figures["scale"])[:, 1:].mean(dim=1).numpy())
            self.regrets.append(self.regret(self.routers.families()))

    def regret(self, families: list[Mapping[str, Subnet]]) -> list[float]:
        """Loss over the best members', in shares of the signal, a mean over members."""
        out = []
        for made, members, floor in zip(self.routers.losses, families, self.floors, strict=True):
            space = made.space
            lost = [float(made(space.encode(members[n]))[0] - made(space.encode(floor[n]))[0]) for n in floor]
            out.append(float(np.mean(lost)) / float(made(space.sizes - 1)[0]))
        return out

    def figures(self) -> list[dict[str, Any]]:
        """Of each router:

        start, regret: of the members started at and of those projected at each of `POINTS`.
        decided: the step after which no choice changes; settled: after which at most one in twenty differs from its
            last; moved: choices that end elsewhere than they were at first.
        open: axis -> entropy of what is sampled at each of `POINTS`, from 1 (uniform) to 0.
        over: expected cost over the target in the last hundred steps with micro-batches under masks; raw: the largest
            |miss| of a choice before projection.
        """
        routers, codes = self.routers, np.stack(self.codes)  # [looks, R, B-1, slots]
        differs = (codes != codes[-1]).mean(axis=(2, 3))
        start = self.regret(self.starts)
        costs = np.stack(self.costs[-100:])
        out = []
        for r, router in enumerate(routers.routers):
            misses = [price.miss(price.codes(codes[-1, r, i].astype(int))[0])
                      for i, price in enumerate(router.prices[1:])]  # fmt: skip
            out.append({
                "start": round(start[r], 5),
                "regret": [round(each[r], 5) for each in self.regrets],
                "decided": self._last(differs[:, r] > 0),
                "settled": self._last(differs[:, r] > 0.05),
                "moved": int((codes[0, r] != codes[-1, r]).sum()),
                "open": {a: [round(float(each[r, routers.at[a]].mean()), 4) for each in self.open]
                         for a in routers.axes},
                "over": round(float(costs[:, r].mean() - 1), 4),
                "raw": round(float(max(misses, key=abs)), 4),
            })  # fmt: skip
        return out

    def _last(self, differs: np.ndarray) -> int:
        """The first step from which a condition holds no more."""
        at = np.flatnonzero(differs)
        return min((int(at[-1]) + 1) * EVERY, self.end) if len(at) else 0
