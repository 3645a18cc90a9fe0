# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What each study runs: jobs in an order in which each finds what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.study.context import LENGTH, SHORT
from benchmarks.study.data import RECALL_LONG, RECALL_SHORT
from benchmarks.study.job import Job
from benchmarks.study.rates import BEST as BEST_RATE
from benchmarks.study.rates import EXPERTS_BEST, EXPERTS_TRIED, FIVE_BEST, FIVE_TRIED, STEPS, TRIED
from benchmarks.study.sizes import (
    AXES,
    CONTEXT_AXES,
    EXPERTS_AXES,
    EXPERTS_SIZES,
    FIVE,
    RECALL_AXES,
    THREE,
)
from benchmarks.study.train import PARENT_BATCH, PARENT_LR, Batch

PARENT = Job("parent", "parent", steps=732, batch=PARENT_BATCH, lr=PARENT_LR)
#: the same trained again for the study `five`, which so stands alone
FIVE_PARENT = replace(PARENT, name="five-parent")


def block(sizes: Mapping[str, float] = THREE, **changes: Any) -> dict[str, Any]:
    """An elastic block of the studies; `changes` are its own fields."""
    return {
        "budgets": [{"name": "full"}, *({"name": n, "ratio": r} for n, r in sizes.items())],
        "axes": AXES,
        "importance": {"samples": 64, "depth_samples": 8},
        "shapes": "search",
        "search": {"candidates": 64, "tokens": 1024},
    } | changes


#: steps of a family that others are compared with
FAMILY_STEPS, SEEDS = 120, (0, 1, 2)
#: steps of all ways to the same sizes; further seeds take the first two
LEVELS = (30, 60, 120, 240)
#: of five sizes: members alone are where a family is after fewer
FIVE_LEVELS = (15, *LEVELS[:3])


#: prefix of a study's jobs -> block of its families
FAMILIES = {"": block(), "five-": block(FIVE)}


def ours(steps: int, seed: int, study: str = "") -> Job:
    """All sizes in one run."""
    return Job(f"{study}ours-{steps}-{seed}", "elastic", seed, steps, FAMILIES[study])


def pruning(name: str, ratio: float, seed: int, study: str = "") -> Job:
    """The baseline's first half: one size."""
    return Job(f"{study}pruned-{name}-{seed}", "pruned", seed, member=name, ratio=ratio)


def searching(name: str, ratio: float, seed: int) -> Job:
    """The strongest baseline's first half: one size, whose shape ModelOpt searches by what our search goes by."""
    return Job(f"searched-{name}-{seed}", "searched", seed, member=name, ratio=ratio, block=block())


def theirs(name: str, steps: int, seed: int, lr: float | None = None, way: str = "modelopt", study: str = "") -> Job:
    """A baseline's second half: that size, distilled."""
    before = searching(name, 0.0, seed) if way == "minitron" else pruning(name, 0.0, seed, study)
    label = f"rate-{way}-{name}-{lr:g}" if lr else f"{study}{way}-{name}-{steps}-{seed}"
    return Job(label, "modelopt", seed, steps, after=before.name, member=name, lr=lr or BEST_RATE[way][name])


def alone(name: str, steps: int, seed: int, lr: float | None = None, study: str = "", after: str | None = None) -> Job:
    """One size of a family, distilled by itself: of our run of 120 steps, unless another is named."""
    label = f"rate-alone-{name}-{lr:g}" if lr else f"{study}alone-{name}-{steps}-{seed}"
    return Job(label, "elastic", seed, steps, FAMILIES[study], after=after or ours(FAMILY_STEPS, seed, study).name,
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
        jobs += [ours(steps, seed, study) for steps in (FAMILY_STEPS, 60)]
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
    first = Job("weights-third-0", "elastic", 0, FAMILY_STEPS, block())
    samplings = {w: {"full": w} | dict.fromkeys(THREE, (1 - w) / len(THREE)) for w in WHOLE_WEIGHTS}
    return [first] + [
        Job(f"weights-{weight:g}-0", "elastic", 0, FAMILY_STEPS, block(sampling=sampling), after=first.name)
        for weight, sampling in samplings.items()
    ]


def rates() -> list[Job]:
    """Which learning rate suits which way at which size? Everybody gets the best one."""
    first, *rest = [Job(f"rate-ours-all-{lr:g}", "elastic", 0, STEPS, block(), lr=lr) for lr in TRIED["ours"]["all"]]
    jobs = [first, *(pruning(name, FIVE[name], 0) for name in TRIED["modelopt"]), *rest]
    jobs += [theirs(name, STEPS, 0, lr) for name, tried in TRIED["modelopt"].items() for lr in tried]
    jobs += [alone(name, STEPS, 0, lr, after=first.name) for name in THREE for lr in TRIED["alone"][name]]
    jobs += [scratch(name, STEPS, first.name, lr) for name, tried in TRIED["scratch"].items() for lr in tried]
    jobs += [searching(name, THREE[name], 0) for name in TRIED["minitron"]]
    return jobs + [theirs(name, STEPS, 0, lr, "minitron") for name, tried in TRIED["minitron"].items() for lr in tried]


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
    "rates": rates, "baselines": baselines, "weights": weights, "five": five, "context": context, "auto": auto,
    "experts": experts,
}  # fmt: skip


def find(name: str) -> Job:
    """The job of a name."""
    return {job.name: job for study in STUDIES.values() for job in [PARENT, *study()]}[name]
