# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What makes nesting pay: ways to train all sizes in one run, each against every size alone for the same FLOPs.

A parent of five million parameters (`grounds`), three sizes beside it, their shapes found by the search, once for each
seed. The bar is each size alone at the rate that suits it: the FLOPs of these three runs together are what every way
has for all sizes and the whole model. Losses are divergences from the parent on text that no training saw. Plain torch
and one core; a study that was stopped goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from benchmarks.study import grounds
from benchmarks.study.grounds import Ground
from benchmarks.study.nesting_ways import BUDGETS, EVEN, ROWS, SIZES, WAYS, Family, Run, Way
from benchmarks.study.results import REPORTED, TUNED, Kept, markdown
from nemo_elastic.core.cost import parameters
from nemo_elastic.report.style import MUTED, colour, headline, house, marker, new_figure

#: steps of each size alone
STEPS = 32
UNTRAINED, ALONE = "untrained", "alone"
#: peak rates that are tried, for each size alone and for the plain way; no best one is at an edge
TRIED = {
    "large": (6e-5, 1.25e-4, 2.5e-4, 5e-4),
    "medium": (1.25e-4, 2.5e-4, 5e-4, 1e-3),
    "small": (5e-4, 1e-3, 2e-3, 4e-3),
    EVEN: (2.5e-4, 5e-4, 1e-3, 2e-3),
}


@dataclass(frozen=True)
class Result:
    """Of a run: its way (of a size alone `alone`, of all before any step `untrained`), the size if it has one, seed,
    peak rate, steps, tokens, FLOPs, and divergences from the parent by size, nats a token: to report, and on the text
    that rates are chosen by."""

    way: str
    size: str
    seed: int
    lr: float
    steps: int
    tokens: int
    flops: float
    apart: Mapping[str, float]
    tuned: Mapping[str, float]


class Study:
    """Runs that have results in a file already are not run again."""

    def __init__(self, ground: Ground, file: Path, steps: int) -> None:
        self.ground, self.steps, self.kept = ground, steps, Kept(file, Result)
        self.families: dict[int, Family] = {}

    def family(self, seed: int) -> Family:
        if seed not in self.families:
            self.families[seed] = Family(self.ground, seed)
        return self.families[seed]

    def run(self, name: str, size: str, seed: int, lr: float, rates: Mapping[str, float] | None = None) -> Result:
        """The result of a run, made now if there is none."""
        return self.kept.get(lambda: [self._made(name, size, seed, lr, rates)], way=name, size=size, seed=seed, lr=lr)[
            0
        ]

    def _made(self, name: str, size: str, seed: int, lr: float, rates: Mapping[str, float] | None) -> Result:
        family, way = self.family(seed), WAYS.get(name, Way())
        count = self.steps * ROWS * family.length
        sizes = (size,) if name == ALONE else SIZES
        flops = sum(count * (3 * family.cost(s) + family.cost("full")) for s in sizes)
        run = Run(family, way, lr, rates, size or None)
        if name != UNTRAINED:
            run.train(flops, way.tokens and way.tokens * len(SIZES) * count)
        result = Result(name, size, seed, lr, run.steps, run.tokens, run.spent,
                        run.apart(REPORTED), run.apart(TUNED))  # fmt: skip
        print(f"{name} {size} seed {seed} lr {lr:g}: {result.steps} steps, "
              + ", ".join(f"{n} {v:.4f}" for n, v in result.apart.items()), flush=True)  # fmt: skip
        return result

    def best_alone(self, seed: int) -> dict[str, float]:
        """Each size's best rate, tried on one seed."""
        tried = {size: [self.run(ALONE, size, seed, lr) for lr in TRIED[size]] for size in SIZES}
        return {size: min(of, key=lambda r: r.tuned[r.size]).lr for size, of in tried.items()}

    def best_even(self, seed: int) -> float:
        """The plain way's best rate, tried on one seed."""
        tried = [self.run(EVEN, "", seed, lr) for lr in TRIED[EVEN]]
        return min(tried, key=lambda r: mean(r.tuned[size] for size in SIZES)).lr


def over_alone(alone: Sequence[Result], ways: Mapping[str, Sequence[Result]]) -> dict[str, dict[str, list[float]]]:
    """Way -> size -> what it is away from the parent over what it is alone, of each seed."""
    bar = {(r.seed, r.size): r.apart[r.size] for r in alone}
    return {
        name: {size: [r.apart[size] / bar[r.seed, size] for r in of] for size in SIZES} for name, of in ways.items()
    }


def page(before: Sequence[Result], alone: Sequence[Result], ways: Mapping[str, Sequence[Result]], facts: str) -> str:
    """The table, and what it is of."""
    bar, compared = {size: [r.apart[size] for r in alone if r.size == size] for size in SIZES}, over_alone(alone, ways)
    of_bar = sum(r.tokens for r in alone) / len({r.seed for r in alone})
    head = ["way", "steps", "tokens", *BUDGETS, *(f"{size}, over alone" for size in SIZES), "mean, and of each seed"]
    first = [f"{max(0.0, mean(r.apart[size] for r in before)):.4f}" for size in BUDGETS]
    rows = [[UNTRAINED, "0", "0.00", *first, *["–"] * 4],
            [ALONE, f"{mean(r.steps for r in alone):.0f}", "1.00", "–",
             *(f"{mean(bar[size]):.4f}" for size in SIZES), *["–"] * 4]]  # fmt: skip
    for name, of in ways.items():
        over = compared[name]
        seeds = [mean(over[size][i] for size in SIZES) for i in range(len(of))]
        words = f"{mean(seeds):.2f} ({', '.join(f'{each:.2f}' for each in seeds)})"
        rows.append([
            name, f"{mean(r.steps for r in of):.0f}", f"{mean(r.tokens for r in of) / of_bar:.2f}",
            *(f"{mean(r.apart[size] for r in of):.4f}" for size in BUDGETS),
            *(f"{mean(over[size]):.2f}" for size in SIZES), words,
        ])  # fmt: skip
    return f"{markdown(head, rows)}\n{facts}\n"


def draw(alone: Sequence[Result], ways: Mapping[str, Sequence[Result]]) -> Figure:
    """What each size is away from the parent, over what it is alone: means, and from seed to seed."""
    compared = over_alone(alone, ways).values()
    with house():
        figure = new_figure(7.6, 1.6 + 0.3 * len(ways))
        axes = figure.add_subplot()
        for place, size in enumerate(SIZES):
            over = [of[size] for of in compared]
            at = [i + 0.2 * (place - 1) for i in range(len(over))]
            axes.hlines(at, [min(each) for each in over], [max(each) for each in over], color=colour(place), lw=1)
            axes.plot([mean(each) for each in over], at, ls="", marker=marker(place), ms=5, color=colour(place),
                      label=size)  # fmt: skip
        axes.axvline(1.0, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.set_yticks(range(len(ways)), list(ways))
        axes.invert_yaxis()
        axes.set_xlabel("divergence, over that of the size alone")
        axes.legend(loc="best")
        headline(
            figure, "All sizes in one run, against each alone", f"the same FLOPs; {len(alone) // len(SIZES)} seeds"
        )
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    grounds.options(parser, "5m", 400)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each size alone")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))


def study(args: argparse.Namespace) -> tuple[str, Figure]:
    """The table and the picture."""
    file, first = args.runs / f"{args.ground}_{args.steps}.jsonl", args.seeds[0]
    runs = Study(grounds.ground_of(args), file, args.steps)
    rates, lr = runs.best_alone(first), runs.best_even(first)
    before = [runs.run(UNTRAINED, "", seed, 0.0) for seed in args.seeds]
    alone = [runs.run(ALONE, size, seed, rates[size]) for seed in args.seeds for size in SIZES]
    ways: dict[str, list[Result]] = {}
    for seed in args.seeds:
        for name in args.ways:
            ways.setdefault(name, []).append(runs.run(name, "", seed, lr, rates))
    shape, length = runs.ground.shape, runs.family(first).length
    best = ", ".join(f"{size} {own:g}" for size, own in rates.items())
    facts = (
        f"A parent of {parameters(shape, shape.full):,} parameters; each size alone takes {args.steps} steps of "
        f"{ROWS * length} tokens at the best of the rates tried ({best}); every way has the FLOPs of the three "
        f"together, and the plain way's best rate ({lr:g}, by the mean of its sizes); {len(args.seeds)} seeds; "
        f"divergences from the parent in nats a token of {runs.ground.of}, and over those of each size alone."
    )
    return page(before, alone, ways, facts), draw(alone, ways)
