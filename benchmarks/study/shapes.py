# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The study of shapes: its runs (`shapes_runs`), their tables, and a picture of one budget's curves."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.study import grounds
from benchmarks.study.problems import PARENT_STEPS
from benchmarks.study.results import Kept, markdown
from benchmarks.study.shapes_runs import (
    ALONE,
    AXES,
    BUDGETS,
    FIRST,
    HALVING,
    LOOKS,
    MODELOPT,
    ROUTER,
    SEARCH,
    Result,
    Study,
)
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.report.style import MUTED, colour, headline, house, new_figure

#: columns of the table of ways
WAYS = {SEARCH: "search alone", ROUTER: "the paper's router", MODELOPT: "ModelOpt's shape", HALVING: "halving"}
ORACLE = "best candidate alone"


class Runs:
    """The results of a ground, by what was run."""

    def __init__(self, results: Iterable[Result]) -> None:
        self.by = {(r.budget, r.steps, r.way, r.seed, r.lr): r for r in results}

    def of(self, budget: str, steps: int, way: str) -> dict[int, Result]:
        """Seed -> run at the rate at which all ways of this budget ran."""
        lr = self.rate(budget)
        return {key[3]: r for key, r in self.by.items() if key[:3] == (budget, steps, way) and key[4] == lr}

    def rate(self, budget: str) -> float:
        """The peak rate of a budget: what halving ran with."""
        return next(key[4] for key in self.by if key[0] == budget and key[2] == HALVING)

    def oracle(self, budget: str, steps: int) -> dict[int, Result]:
        """Seed -> the candidate that ends best alone, on the text that chooses."""
        ways = {key[2] for key in self.by if _is_alone(key[2])}
        best: dict[int, Result] = {}
        for way in sorted(ways):
            for seed, run in self.of(budget, steps, way).items():
                if seed not in best or run.tuned < best[seed].tuned:
                    best[seed] = run
        return best

    @property
    def steps(self) -> list[int]:
        return sorted({key[1] for key in self.by})

    @property
    def budgets(self) -> list[str]:
        return [b for b in BUDGETS if any(key[0] == b and key[2] == HALVING for key in self.by)]


def ways_table(runs: Runs) -> str:
    """Divergence at the end by way, means over seeds, and halving over the oracle and over the search of each seed."""
    head = ["budget", "steps", *WAYS.values(), ORACLE, "halving over the best alone, by seed",
            "halving over search alone, by seed"]  # fmt: skip
    rows = []
    for budget in runs.budgets:
        for steps in runs.steps:
            found = {way: runs.of(budget, steps, way) for way in WAYS} | {ORACLE: runs.oracle(budget, steps)}
            rows.append([f"{budget} %", str(steps), *(_mean(found[way]) for way in [*WAYS, ORACLE]),
                         _over(found[HALVING], found[ORACLE]), _over(found[HALVING], found[SEARCH])])  # fmt: skip
    return markdown(head, rows)


def shapes_table(runs: Runs) -> str:
    """Which shapes: residual width x layers, by seed."""
    head = ["budget", "steps", *WAYS.values(), ORACLE]
    rows = []
    for budget in runs.budgets:
        for steps in runs.steps:
            found = [runs.of(budget, steps, way) for way in WAYS] + [runs.oracle(budget, steps)]
            rows.append([f"{budget} %", str(steps), *(", ".join(_shape(of[s]) for s in sorted(of)) for of in found)])
    return markdown(head, rows)


def correlation_table(runs: Runs) -> str:
    """Spearman's correlation over candidates of their losses early in a long run with those at its end."""
    steps = runs.steps[-1]
    looks = [look for look in LOOKS if look < steps]
    rows = []
    for budget in runs.budgets:
        ways = sorted({key[2] for key in runs.by if _is_alone(key[2])})
        each: dict[int, list[Result]] = {}
        for way in ways:
            for seed, run in runs.of(budget, steps, way).items():
                each.setdefault(seed, []).append(run)
        for seed, of in sorted(each.items()):
            if len(of) >= 6:
                ends = [r.reported for r in of]
                ranks = (f"{spearman([r.curve[str(look)] for r in of], ends):.2f}" for look in looks)
                rows.append([f"{budget} %", str(seed), str(len(of)), *ranks])
    head = ["budget", "seed", "candidates", *(f"after {look}" if look else "untrained" for look in looks)]
    return markdown(head, rows)


def importance_table(runs: Runs) -> str:
    """FFN neurons by their activation or by the first product: the search's shape, untrained and trained."""
    steps, rows = runs.steps[0], []
    for budget in runs.budgets:
        ours, first = runs.of(budget, steps, SEARCH), runs.of(budget, steps, FIRST)
        seeds = sorted(ours.keys() & first.keys())
        if seeds:
            rows.append([f"{budget} %", ", ".join(map(str, seeds)),
                         *(f"{mean(of[s].curve['0'] for s in seeds):.4f}" for of in (ours, first)),
                         *(f"{mean(of[s].reported for s in seeds):.4f}" for of in (ours, first)),
                         ", ".join(f"{first[s].reported / ours[s].reported:.2f}" for s in seeds)])  # fmt: skip
    return markdown(["budget", "seeds", "untrained: activation", "first product", f"after {steps} steps: activation",
                     "first product", "first over activation, by seed"], rows)  # fmt: skip


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation, without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def draw(runs: Runs, budget: str, seed: int) -> Figure:
    """Curves of one budget: each candidate alone, and halving, which trains several of them at first."""
    steps = runs.steps[-1]
    with house():
        figure = new_figure(7.6, 4.2)
        axes = figure.add_subplot()
        ways = sorted({key[2] for key in runs.by if _is_alone(key[2])})
        alone = [r for way in ways if (r := runs.of(budget, steps, way).get(seed)) is not None]
        for r in sorted(alone, key=lambda r: r.way != SEARCH):
            own = r.way == SEARCH
            axes.plot(*_curve(r), color=colour(1) if own else MUTED, lw=2 if own else 0.8, zorder=3 if own else 1,
                      label="the search's choice, alone" if own else None)  # fmt: skip
        axes.plot([], [], color=MUTED, lw=0.8, label=f"{len(alone) - 1} other candidates, each alone")
        axes.plot(*_curve(runs.of(budget, steps, HALVING)[seed]), color=colour(0), lw=2.4, zorder=4,
                  label="halving: the candidate that leads")  # fmt: skip
        axes.set(xlabel="step", ylabel="divergence from the parent, nats per token", yscale="log", xlim=(0, steps))
        axes.legend(loc="upper right")
        facts = f"seed {seed}, {steps} steps of 1,024 tokens"
        headline(figure, f"A member of {budget} %: what candidates learn", facts)
    return figure


def _is_alone(way: str) -> bool:
    return way == SEARCH or way.startswith(ALONE)


def _curve(run: Result) -> tuple[list[int], list[float]]:
    points = sorted((int(step), loss) for step, loss in run.curve.items())
    return [step for step, _ in points], [loss for _, loss in points]


def _mean(runs: Mapping[int, Result]) -> str:
    return f"{mean(r.reported for r in runs.values()):.4f} ({len(runs)})" if runs else "–"


def _over(ours: Mapping[int, Result], theirs: Mapping[int, Result]) -> str:
    both = sorted(ours.keys() & theirs.keys())
    return ", ".join(f"{ours[s].reported / theirs[s].reported:.2f}" for s in both) or "–"


def _shape(run: Result) -> str:
    return f"{run.shape[0]:.0f} x {run.shape[1]:.0f}"


def page(folder: Path) -> tuple[str, Figure | None]:
    """The tables of every ground that has runs there, and the picture of the demo's."""
    parts, figure = [], None
    for ground in AXES:
        runs = Runs(r for file in sorted(folder.glob(f"{ground}_*.jsonl")) for r in Kept(file, Result).results)
        if not runs.budgets:
            continue
        parent = {"demo": "The demo's parent, 1.6M parameters", "5m": "A parent of 5.2M parameters"}[ground]
        rates = ", ".join(f"{b} % {runs.rate(b):g}" for b in runs.budgets)
        parts += [
            f"{parent}; peak rates {rates}; in brackets how many seeds.\n",
            ways_table(runs),
            f"Residual width x layers, by seed.\n\n{shapes_table(runs)}",
            f"Spearman's correlation of candidates' losses with those after {runs.steps[-1]} steps.\n",
            correlation_table(runs),
            f"Order of FFN neurons, the search's shape.\n\n{importance_table(runs)}",
        ]
        if ground == "demo" and "50" in runs.budgets:
            figure = draw(runs, "50", min(runs.of("50", runs.steps[-1], HALVING)))
    return "\n".join(parts) + "\n", figure


def options(parser: argparse.ArgumentParser) -> None:
    grounds.options(parser, "demo", PARENT_STEPS, AXES)
    parser.add_argument("--steps", type=int, nargs="+", default=(120, 480))
    parser.add_argument("--budgets", nargs="+", choices=tuple(BUDGETS), default=tuple(BUDGETS))
    parser.add_argument("--fully", nargs="*", default=(), help="budgets all of whose candidates train for all steps")


def study(args: argparse.Namespace) -> tuple[str, Any]:
    """The tables of all grounds that have runs, and the picture of the demo's."""
    ground, data = grounds.ground_of(args), DataFolder.open(args.demo / "data")
    rates = None
    for seed in args.seeds:
        file = args.runs / f"{args.ground}_{seed}.jsonl"
        own = Study(ground, args.ground, data, seed, args.steps, file)
        if rates is None:  # tried with the first seed alone
            zero = args.runs / f"{args.ground}_0.jsonl"
            first = Study(ground, args.ground, data, 0, args.steps, zero) if seed else own
            rates = first.best_rates(args.budgets)
        own.all(args.budgets, rates, args.fully)
    return page(args.runs)
