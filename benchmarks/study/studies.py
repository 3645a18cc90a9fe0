# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What each study runs: jobs in an order in which each finds what it needs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from benchmarks.study import work
from benchmarks.study.context import LENGTH, SHORT
from benchmarks.study.data import RECALL_LONG, RECALL_SHORT
from benchmarks.study.job import Job
from benchmarks.study.rates import BEST as BEST_RATE
from benchmarks.study.rates import EXPERTS_BEST, EXPERTS_TRIED, FIVE_BEST, FIVE_TRIED, STEPS, TRIED
from benchmarks.study.schedule import settings
from benchmarks.study.sizes import (
    AXES,
    CONTEXT_AXES,
    DEEP_AXES,
    EXPERTS_AXES,
    EXPERTS_SIZES,
    FIVE,
    RECALL_AXES,
    THREE,
)
from benchmarks.study.train import BATCH, PARENT_BATCH, PARENT_LR, Batch
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.search import Space, uniform_family

PARENT = Job("parent", "parent", steps=732, batch=PARENT_BATCH, lr=PARENT_LR)
#: the same trained again for the study `five`, which so stands alone
FIVE_PARENT = replace(PARENT, name="five-parent")


def block(sizes: Mapping[str, float] = THREE, **changes: Any) -> dict[str, Any]:
    """An elastic block of the studies; `changes` are its own fields."""
    return {
        "budgets": [{"name": "full"}, *({"name": n, "ratio": r} for n, r in sizes.items())],
        "axes": AXES,
        "importance": {"samples": 64, "depth_samples": 8},
        "search": {"candidates": 64, "tokens": 1024},
        "router": None,
    } | changes


#: a router alone: half of the steps under its masks
SOFT = {"freeze_at": 0.5, "prior": 0.0, "soft_share": 1.0}
#: ways to find a shape; each trains the same steps
SHAPES: dict[str, dict[str, Any]] = {
    "uniform": block(search=None),
    "search": block(),
    "long-search": block(search={"candidates": 192, "tokens": 4096}),
    "soft-short": block(search=None, router=SOFT | {"freeze_at": 0.25}),
    "soft": block(search=None, router=SOFT),
    "hard": block(search=None, router=SOFT | {"gate": "hard"}),
    "search-soft": block(router=SOFT | {"prior": 4.0}),
    "search-share": block(router={"freeze_at": 0.67, "prior": 4.0, "soft_share": 0.15}),
}
#: the way to shapes that the study of shapes found best
BEST = "search"
#: those that are tried with every seed
CONTENDERS = ("uniform", BEST, "search-share")
SHAPES_STEPS, SEEDS = 120, (0, 1, 2)


def shaped(way: str, seed: int) -> Job:
    """A family whose shapes are found in one of these ways."""
    if way == "long-soft":  # a router that goes on to the end, for `fixed`
        long = block(router=SOFT | {"freeze_at": 1.0, "prior": 4.0})
        return Job(f"shapes-{way}-{seed}", "elastic", seed, 2 * SHAPES_STEPS, long)
    after = f"shapes-long-soft-{seed}" if way == "fixed" else None
    return Job(f"shapes-{way}-{seed}", "elastic", seed, SHAPES_STEPS, SHAPES.get(way, block()), after=after)


def shapes() -> list[Job]:
    """Which way to a shape is worth its cost? The last trains, from the start, the shapes that a long router found."""
    first = [shaped(way, 0) for way in (*SHAPES, "long-soft", "fixed")]
    return first + [shaped(way, seed) for seed in SEEDS[1:] for way in CONTENDERS]


#: steps of all ways to the same sizes; further seeds take the first two
LEVELS = (30, 60, 120, 240)
#: of five sizes: members alone are where a family is after fewer
FIVE_LEVELS = (15, *LEVELS[:3])


#: prefix of a study's jobs -> block of its families
FAMILIES = {"": SHAPES[BEST], "five-": SHAPES[BEST] | {"budgets": block(FIVE)["budgets"]}}


def ours(steps: int, seed: int, study: str = "") -> Job:
    """All sizes in one run."""
    return Job(f"{study}ours-{steps}-{seed}", "elastic", seed, steps, FAMILIES[study])


def pruning(name: str, ratio: float, seed: int, study: str = "") -> Job:
    """The baseline's first half: one size."""
    return Job(f"{study}pruned-{name}-{seed}", "pruned", seed, member=name, ratio=ratio)


def searching(name: str, ratio: float, seed: int) -> Job:
    """The strongest baseline's first half: one size, whose shape ModelOpt searches by what our search goes by."""
    return Job(f"searched-{name}-{seed}", "searched", seed, member=name, ratio=ratio, block=SHAPES[BEST])


def theirs(name: str, steps: int, seed: int, lr: float | None = None, way: str = "modelopt", study: str = "") -> Job:
    """A baseline's second half: that size, distilled."""
    before = searching(name, 0.0, seed) if way == "minitron" else pruning(name, 0.0, seed, study)
    label = f"rate-{way}-{name}-{lr:g}" if lr else f"{study}{way}-{name}-{steps}-{seed}"
    return Job(label, "modelopt", seed, steps, after=before.name, member=name, lr=lr or BEST_RATE[way][name])


def alone(name: str, steps: int, seed: int, lr: float | None = None, study: str = "", after: str | None = None) -> Job:
    """One size of a family, distilled by itself: of our run of 120 steps, unless another is named."""
    label = f"rate-alone-{name}-{lr:g}" if lr else f"{study}alone-{name}-{steps}-{seed}"
    return Job(label, "elastic", seed, steps, FAMILIES[study], after=after or ours(SHAPES_STEPS, seed, study).name,
               member=name, lr=lr or BEST_RATE["alone"][name])  # fmt: skip


def scratch(name: str, steps: int, after: str, lr: float | None = None) -> Job:
    """The shape of one size, from random weights."""
    label = f"rate-scratch-{name}-{lr:g}" if lr else f"scratch-{name}-{steps}-0"
    return Job(label, "scratch", 0, steps, after=after, member=name, lr=lr or BEST_RATE["scratch"][name])


def baselines() -> list[Job]:
    """(a) ModelOpt prunes and NeMo distills, once per size; (b) each size distilled alone, of our shapes; (c) from
    scratch; (d) ours, all sizes in one run; (e) as (a), of shapes that ModelOpt's own search finds.
    """
    jobs = []
    for seed in SEEDS:
        jobs += [ours(steps, seed) for steps in ((120, 60, 240) if seed == 0 else (120, 60))]
        jobs += [pruning(name, ratio, seed) for name, ratio in THREE.items()]
        jobs += [theirs(name, steps, seed) for steps in LEVELS for name in THREE]
        levels = LEVELS if seed == 0 else LEVELS[:2]
        jobs += [alone(name, steps, seed) for steps in levels for name in THREE]
    jobs += [scratch(name, 240, ours(120, 0).name) for name in THREE]
    for seed in SEEDS:
        jobs += [searching(name, ratio, seed) for name, ratio in THREE.items()]
        jobs += [theirs(name, steps, seed, way="minitron") for steps in LEVELS for name in THREE]
    return jobs


def five_alone(name: str, steps: int, seed: int, lr: float | None = None) -> Job:
    """One of five sizes by itself, at the best rate of those tried for as many steps, or at another of them."""
    best = BEST_RATE["alone"] if steps >= STEPS else FIVE_BEST[max(steps, min(FIVE_BEST))]
    job = replace(alone(name, steps, seed, study="five-"), lr=lr or best[name])
    return job if job.lr == best[name] else replace(job, name=f"five-rate-{name}-{steps}-{lr:g}")


def five() -> list[Job]:
    """The same with five sizes: each family, its members alone at the best of the rates tried, and ModelOpt's."""
    study, jobs = "five-", []
    for seed in SEEDS:
        jobs += [ours(steps, seed, study) for steps in (SHAPES_STEPS, 60)]
        if seed == 0:
            more = {name: tried for name, tried in TRIED["alone"].items() if name not in THREE}
            jobs += [alone(name, STEPS, 0, lr, study) for name, tried in more.items() for lr in tried]
            jobs += [five_alone(name, steps, 0, lr) for steps, tried in FIVE_TRIED.items() for name in FIVE
                     for lr in tried[name]]  # fmt: skip
        jobs += [five_alone(name, steps, seed) for steps in FIVE_LEVELS for name in FIVE]
    for seed in SEEDS:
        jobs += [pruning(name, ratio, seed, study) for name, ratio in FIVE.items()]
        jobs += [theirs(name, steps, seed, study=study) for steps in LEVELS[:3] for name in FIVE]
    own = [FIVE_PARENT, *(replace(job, parent=FIVE_PARENT.name) for job in jobs)]
    return list({job.name: job for job in own}.values())


#: the same tokens per step at both lengths
NEAR, FAR = Batch(16, SHORT), Batch(2, LENGTH)
#: it learns to look things up in short documents, and then to do so far back
CONTEXT_SHORT_PARENT = Job("parent-context-short", "parent", steps=1500, batch=Batch(32, SHORT), lr=2e-3,
                           data="data_context_short", model="context")  # fmt: skip
CONTEXT_PARENT = Job("parent-context", "parent", steps=1000, batch=Batch(4, LENGTH), lr=2e-3, data="data_context",
                     model="context", after=CONTEXT_SHORT_PARENT.name, ask=True)  # fmt: skip
CONTEXT_STEPS = (200, 100)
#: curriculum -> batches of its two stages
CURRICULA = {"short": (NEAR, NEAR), "two-stage": (NEAR, FAR), "long": (FAR, FAR)}


def context() -> list[Job]:
    """Equal tokens: short pieces, whole documents, or first the ones and then the others."""
    first, second = CONTEXT_STEPS
    own = block(axes=CONTEXT_AXES)
    return [CONTEXT_SHORT_PARENT, CONTEXT_PARENT] + [
        Job(f"context-{name}-{seed}", "elastic", seed, first, own, batch=one, late=(second, two), ask=True,
            parent=CONTEXT_PARENT.name, data="data_context", split="train_long", model="context")
        for seed in SEEDS
        for name, (one, two) in CURRICULA.items()
    ]  # fmt: skip


#: how often the whole model is sampled, beside a third
WHOLE_WEIGHTS = (0.0, 0.1, 0.2)


def weights() -> list[Job]:
    """How much training does the whole model need to stay what it was? The smaller members get the rest, equally."""
    jobs = [shaped(BEST, 0)]
    for weight in WHOLE_WEIGHTS:
        sampling = {"full": weight} | dict.fromkeys(THREE, (1 - weight) / len(THREE))
        own = SHAPES[BEST] | {"sampling": sampling}
        jobs.append(Job(f"weights-{weight:g}-0", "elastic", 0, SHAPES_STEPS, own, after=jobs[0].name))
    return jobs


def rates() -> list[Job]:
    """Which learning rate suits which way at which size? Everybody gets the best one."""
    first, *rest = [
        Job(f"rate-ours-all-{lr:g}", "elastic", 0, STEPS, SHAPES[BEST], lr=lr) for lr in TRIED["ours"]["all"]
    ]
    jobs = [first, *(pruning(name, FIVE[name], 0) for name in TRIED["modelopt"]), *rest]
    jobs += [theirs(name, STEPS, 0, lr) for name, tried in TRIED["modelopt"].items() for lr in tried]
    jobs += [alone(name, STEPS, 0, lr, after=first.name) for name in THREE for lr in TRIED["alone"][name]]
    jobs += [scratch(name, STEPS, first.name, lr) for name, tried in TRIED["scratch"].items() for lr in tried]
    jobs += [searching(name, THREE[name], 0) for name in TRIED["minitron"]]
    return jobs + [theirs(name, STEPS, 0, lr, "minitron") for name, tried in TRIED["minitron"].items() for lr in tried]


#: the parent of the study `router`, and its training
DEEP = Parent("M-M-M*-M-M-M*-M-M-M*-M-M", 160, 1024, 800, 16, 20, 4, 16, 4, 8, 2, 32, ffn_stripes=8)
DEEP_PARENT = Job("parent-deep", "parent", steps=732, batch=PARENT_BATCH, lr=PARENT_LR, model="deep")
#: the router of the recipes of large parents, and one for so few steps: five times as many under its masks
RECIPES = {"lr": 3e-3, "scale": (1.0, 3.0), "loss_weight": 4.0, "below": 0.0, "prior": 2.0, "soft_share": 0.15,
           "freeze_at": 0.67}  # fmt: skip
OFTEN = RECIPES | {"lr": 1e-2, "scale": (1.0, 10.0), "soft_share": 0.75}
#: the paper's own, with its second mode of masks: it chooses to the end, all of it under them, and its budget loss of
#: weight 1 pulls from both sides
PUBLISHED = {"lr": 1e-2, "scale": (1.0, 10.0), "loss_weight": 1.0, "below": 1.0, "deadzone": 0.0, "prior": 0.0,
             "soft_share": 1.0, "freeze_at": 1.0}  # fmt: skip
#: ways to shapes of which every layer may have its own
DEEP_WAYS: dict[str, dict[str, Any]] = {
    "random": {"search": None},
    "search": {},
    "search-router": {"router": RECIPES},
    "search-router-often": {"router": OFTEN},
    "router": {"search": None, "router": OFTEN | {"prior": 0.0, "soft_share": 1.0}},
    "published": {"search": None, "router": PUBLISHED},
}
#: the way whose steps are given; every other one takes as many as cost the same
GIVEN, DEEP_STEPS = "search-router-often", 200


def deep_block(way: str) -> dict[str, Any]:
    """The elastic block of a way to shapes of the deep parent."""
    return block(axes=DEEP_AXES, search={"candidates": 96, "tokens": 1024}) | DEEP_WAYS[way]


@cache
def deep_spending(way: str, steps: int) -> float:
    """FLOPs of ranking, search, students and teacher, expected: members and candidates are taken for even cuts."""
    config = ElasticConfig.from_dict(deep_block(way))
    members = list(uniform_family(Space(DEEP, config.resolve_axes(DEEP), range(24)), config.budgets).values())
    mean = sum(parameters(DEEP, m) for m in members[1:]) / len(members[1:])
    tried = [{"cost": mean}] * (config.search.candidates if config.search else 0)
    before = work.ranking(DEEP, config, BATCH.length) + work.search(DEEP, config, tried, BATCH.length)
    return before + work.elastic_steps(DEEP, config, members, steps, BATCH)


def deep_steps(way: str) -> int:
    """The most steps with which a way costs no more than the given one does; further steps never cost less."""
    most, steps = deep_spending(GIVEN, DEEP_STEPS), range(DEEP_STEPS // 2, 3 * DEEP_STEPS)
    return steps[bisect_right(steps, most, key=lambda n: deep_spending(way, n)) - 1]


def deep(way: str, seed: int) -> Job:
    """A family of the deep parent."""
    kind, after = ("random", f"router-search-{seed}") if way == "random" else ("elastic", None)
    return Job(f"router-{way}-{seed}", kind, seed, deep_steps(way), deep_block(way), after=after,
               parent=DEEP_PARENT.name, model="deep")  # fmt: skip


def router() -> list[Job]:
    """What does the router add, where layers may differ and every way costs the same?"""
    ways = sorted(DEEP_WAYS, key=lambda way: way == "random")  # that one takes the search's ranking
    return [DEEP_PARENT, *(deep(way, seed) for seed in SEEDS for way in ways)]


def schedule() -> list[Job]:
    """What the router's schedule decides and when, in a large space, simulated."""
    return [Job(f"schedule-{name}", "schedule", block=setting, parent=None) for name, setting in settings().items()]


#: 2048 tokens of short texts and of long ones
RECALL_NEAR, RECALL_FAR = Batch(32, RECALL_SHORT), Batch(4, RECALL_LONG)
RECALL_SHORT_PARENT = Job("parent-recall-short", "parent", steps=600, batch=RECALL_NEAR, lr=4e-3, data="data_recall",
                          model="recall")  # fmt: skip
RECALL_PARENT = Job("parent-recall", "parent", steps=150, batch=RECALL_FAR, lr=4e-3, data="data_recall",
                    split="train_long", model="recall", after=RECALL_SHORT_PARENT.name)  # fmt: skip
RECALL_STEPS = (180, 90)


def mixed(seed: int) -> Job:
    """A family of the parent that answers questions about its text, kept for those that ask its members."""
    first, second = RECALL_STEPS
    own = block(axes=RECALL_AXES, search={"candidates": 32, "tokens": 4096})
    return Job(f"auto-family-{seed}", "nested", seed, first, own, batch=RECALL_NEAR, late=(second, RECALL_FAR),
               lr=2e-3, parent=RECALL_PARENT.name, data="data_recall", split="train_long", model="recall")  # fmt: skip


def auto() -> list[Job]:
    """Does a family know by itself which member a prompt needs?"""
    asked = [Job(f"auto-answers-{seed}", "auto", seed, after=mixed(seed).name, parent=None, data="data_recall")
             for seed in SEEDS]  # fmt: skip
    read = [Job(f"auto-text-{seed}", "auto", seed, parent=None) for seed in SEEDS]
    return [RECALL_SHORT_PARENT, RECALL_PARENT, *(mixed(seed) for seed in SEEDS), *asked, *read]


#: the parent with experts, and what every run of its families has
EXPERTS_PARENT = Job("experts-parent", "experts_parent", steps=400, batch=PARENT_BATCH, lr=PARENT_LR)
EXPERTS_BLOCK = block(EXPERTS_SIZES, axes=EXPERTS_AXES)
#: steps of a run for all sizes, and of one for each alone; in their order they have as many tokens together
EXPERTS_LEVELS = {"ours": (60, 120, 240), "alone": (30, 60, 120)}
EXPERTS_SEEDS = (0, 1)
#: rules of the bias that are tried beside the default
BALANCES = ("every", "even")


def experts_ranked(seed: int) -> Job:
    """The ranking, and the shapes that all of a seed train."""
    return Job(f"experts-ranked-{seed}", "experts_ranked", seed, STEPS, EXPERTS_BLOCK, parent=EXPERTS_PARENT.name)


def experts_family(steps: int, seed: int, lr: float | None = None, balance: str = "whole") -> Job:
    """All sizes in one run."""
    best = EXPERTS_BEST["ours"]["all"]
    way = "ours" if balance == "whole" else balance
    name = f"experts-rate-ours-all-{lr:g}" if lr not in (None, best) else f"experts-{way}-{steps}-{seed}"
    return Job(name, "experts", seed, steps, EXPERTS_BLOCK, after=experts_ranked(seed).name, lr=lr or best,
               parent=EXPERTS_PARENT.name, balance=balance)  # fmt: skip


def experts_alone(size: str, steps: int, seed: int, lr: float | None = None) -> Job:
    """One of the sizes by itself: its own tokens move the bias, as a model's of its own would."""
    best = EXPERTS_BEST["alone"][size]
    name = f"experts-rate-alone-{size}-{lr:g}" if lr not in (None, best) else f"experts-alone-{size}-{steps}-{seed}"
    return Job(name, "experts", seed, steps, EXPERTS_BLOCK, after=experts_ranked(seed).name, member=size,
               lr=lr or best, parent=EXPERTS_PARENT.name, balance="even")  # fmt: skip


def experts_scratch(size: str, steps: int) -> Job:
    """The shape of one of the sizes, from random weights."""
    return Job(f"experts-scratch-{size}-{steps}-0", "experts_scratch", 0, steps, EXPERTS_BLOCK,
               after=experts_ranked(0).name, member=size, lr=EXPERTS_BEST["scratch"][size],
               parent=EXPERTS_PARENT.name)  # fmt: skip


def experts() -> list[Job]:
    """A hybrid with experts: (a) all sizes in one run, (b) each size alone, (c) from scratch; first the rates of (a)
    and (b), of which the best are part of what is compared; last other rules of the bias that balances experts.
    """
    ours, alone = EXPERTS_LEVELS["ours"], EXPERTS_LEVELS["alone"]
    jobs = [EXPERTS_PARENT, experts_ranked(0)]
    jobs += [experts_family(STEPS, 0, lr) for lr in EXPERTS_TRIED["ours"]["all"]]
    jobs += [experts_alone(size, STEPS, 0, lr) for size in EXPERTS_SIZES for lr in EXPERTS_TRIED["alone"][size]]
    jobs += [experts_family(steps, 0) for steps in ours]
    jobs += [experts_alone(size, steps, 0) for steps in alone for size in EXPERTS_SIZES]
    for seed in EXPERTS_SEEDS[1:]:
        jobs += [experts_ranked(seed), *(experts_family(steps, seed) for steps in ours[:2])]
        jobs += [experts_alone(size, steps, seed) for steps in alone for size in EXPERTS_SIZES]
    jobs += [experts_family(STEPS, seed, balance=rule) for seed in EXPERTS_SEEDS for rule in BALANCES]
    jobs += [experts_scratch(size, alone[-1]) for size in EXPERTS_SIZES]
    return list({job.name: job for job in jobs}.values())


STUDIES = {
    "rates": rates, "shapes": shapes, "baselines": baselines, "weights": weights, "five": five, "context": context,
    "schedule": schedule, "router": router, "auto": auto, "experts": experts,
}  # fmt: skip


def find(name: str) -> Job:
    """The job of a name."""
    return {job.name: job for study in STUDIES.values() for job in [PARENT, *study()]}[name]
