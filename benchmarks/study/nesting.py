# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What makes nesting pay: ways to train all sizes in one run, each against every size alone for the same FLOPs.

A parent of five million parameters (`grounds`), three sizes, their shapes found by the search, once for each
seed. The bar is each size alone at the rate that suits it: the FLOPs of these three runs together are what every way
has for all sizes and the whole model. Losses are divergences from the parent on text that no training saw. Plain torch
and one core; a study that was stopped resumes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.study import grounds
from benchmarks.study.grounds import Ground, config_of, optimizer_of, prepared, rate, step
from benchmarks.study.problems import MicroBatch
from benchmarks.study.results import REPORTED, TUNED, Kept, markdown
from nemo_elastic.core.cost import flops_per_token, parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.nn.nemotron_h import NemotronH
from tests.train.torch_host import TorchHost

BUDGETS = {"full": None, "large": 0.85, "medium": 0.7, "small": 0.5}
SIZES = tuple(name for name in BUDGETS if name != "full")
#: steps of each size alone
STEPS = 32
#: rows of a micro-batch, and micro-batches of the ground's size of text held out
ROWS, HELD_OUT = 8, 6
UNTRAINED, ALONE = "untrained", "alone"
#: the plain way
EVEN = "every size as often"
#: peak rates that are tried, for each size alone and for the plain way; no best one is at an edge
TRIED = {
    "large": (6e-5, 1.25e-4, 2.5e-4, 5e-4),
    "medium": (1.25e-4, 2.5e-4, 5e-4, 1e-3),
    "small": (5e-4, 1e-3, 2e-3, 4e-3),
    EVEN: (2.5e-4, 5e-4, 1e-3, 2e-3),
}


@dataclass(frozen=True)
class Way:
    """How a family is trained.

    Attributes:
        whole: share of the micro-batches that train the whole model; sizes share the rest evenly.
        together: every step trains all sizes on one micro-batch, under one forward of the teacher.
        rows: of a micro-batch.
        tokens: of what each size alone has in all, for runs of fewer; None spends the FLOPs.
    """

    whole: float = 0.25
    together: bool = False
    rows: int = ROWS
    tokens: float | None = None


WAYS = {
    EVEN: Way(),
    "the whole model in a tenth": Way(whole=0.1),
    "the whole model in four of ten": Way(whole=0.4),
    "all sizes on one micro-batch": Way(together=True),
    "all sizes on one micro-batch of a quarter": Way(together=True, rows=ROWS // 4),
    "every size as often, 0.6 of the tokens": Way(tokens=0.6),
}


# ---------------------------------------------------------------------------------------------------------------- runs


class Family:
    """Shapes of a seed, and the weights that all of its runs start from.

    Args:
        ground: what they are trained on.
        seed: of the data, the ranking and the search.
    """

    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground, self.seed = ground, seed
        config = config_of(ground, BUDGETS, seed, shapes="search", search={"candidates": 64, "tokens": 1024})
        with tempfile.TemporaryDirectory() as out:
            host, shapes = prepared(ground, config, Path(out))
        self.members: dict[str, Subnet] = dict(zip(BUDGETS, shapes.get(), strict=True))
        self.start, self.length = host.model.state_dict(), host.seq_length
        parts = {part: islice(ground.batches(999, held_out=part), HELD_OUT) for part in (TUNED, REPORTED)}
        with torch.no_grad():
            self.held_out = {
                part: [(rows.tokens_bs, ground.parent(rows.tokens_bs).log_softmax(-1)) for rows in source]
                for part, source in parts.items()
            }

    def cost(self, name: str) -> float:
        """Forward FLOPs of a token."""
        return float(flops_per_token(self.ground.shape, self.members[name], self.length))


class Run:
    """A run of a way, or of one size alone.

    Args:
        family: whose members it trains.
        way: how.
        lr: peak rate.
        only: the size that is trained alone.
    """

    def __init__(self, family: Family, way: Way, lr: float, only: str | None = None) -> None:
        self.family, self.way, self.lr, self.only = family, way, lr, only
        nothing = torch.zeros(1, family.length, dtype=torch.long)
        self.host = TorchHost(family.ground.shape, family.start, nothing, way.rows)
        self.host.frozen = family.ground.parent
        self.model: NemotronH = self.host.model
        self.optimizer = optimizer_of(self.model)
        self.random = np.random.default_rng([family.seed, 7])
        self.spent, self.tokens, self.steps = 0.0, 0, 0

    def train(self, flops: float, tokens: float | None = None) -> None:
        """Train until so many FLOPs are spent, or so many tokens read."""
        data = self._rows()
        while (done := self.tokens / tokens if tokens else self.spent / flops) < 1:
            self._step(next(data), self._sizes(), self.lr * rate(done))

    @torch.no_grad()
    def apart(self, part: str) -> dict[str, float]:
        """Divergences from the parent on a part of the held-out text: `TUNED` or `REPORTED`."""
        return {
            size: mean(float(_kl(taught, self._said(tokens, size))) for tokens, taught in self.family.held_out[part])
            for size in ([self.only] if self.only else BUDGETS)
        }

    def _said(self, tokens: torch.Tensor, size: str) -> torch.Tensor:
        return self.model(tokens, None if size == "full" else self.family.members[size]).log_softmax(-1)

    def _rows(self) -> Iterator[MicroBatch]:
        for batch in self.family.ground.batches(300 + self.family.seed):
            for at in range(0, len(batch.tokens_bs), self.way.rows):
                yield MicroBatch(*(t[at : at + self.way.rows] for t in batch))

    def _sizes(self) -> list[str]:
        if self.only:
            return [self.only]
        whole = self.random.random() < (len(BUDGETS) * self.way.whole if self.way.together else self.way.whole)
        if self.way.together:
            return [*(["full"] if whole else []), *SIZES]
        return ["full"] if whole else [str(self.random.choice(SIZES, p=[1 / len(SIZES)] * len(SIZES)))]

    def _step(self, rows: MicroBatch, sizes: Sequence[str], lr: float) -> None:
        count = rows.tokens_bs.numel()
        with torch.no_grad():
            taught = self.host.frozen(rows.tokens_bs).log_softmax(-1)
        loss = torch.stack([_kl(taught, self._said(rows.tokens_bs, size)) for size in sizes]).mean()
        step(self.model, self.optimizer, loss, lr)
        self.spent += count * (self.family.cost("full") + sum(3 * self.family.cost(size) for size in sizes))
        self.tokens, self.steps = self.tokens + count, self.steps + 1


def _kl(taught: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    return F.kl_div(said.flatten(0, 1), taught.flatten(0, 1), log_target=True, reduction="batchmean")


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

    def run(self, name: str, size: str, seed: int, lr: float) -> Result:
        """The result of a run, made now if there is none."""
        fields = {"way": name, "size": size, "seed": seed, "lr": lr}
        return self.kept.get(lambda: [self._made(name, size, seed, lr)], **fields)[0]

    def _made(self, name: str, size: str, seed: int, lr: float) -> Result:
        family, way = self.family(seed), WAYS.get(name, Way())
        count = self.steps * ROWS * family.length
        sizes = (size,) if name == ALONE else SIZES
        flops = sum(count * (3 * family.cost(s) + family.cost("full")) for s in sizes)
        run = Run(family, way, lr, size or None)
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


# ----------------------------------------------------------------------------------------------------------- the table


def page(before: Sequence[Result], alone: Sequence[Result], ways: Mapping[str, Sequence[Result]], facts: str) -> str:
    """The table, and what it is of: over alone is what a size is away from the parent over what it is alone."""
    bar = {(r.seed, r.size): r.apart[r.size] for r in alone}
    of_bar = sum(r.tokens for r in alone) / len({r.seed for r in alone})
    head = ["way", "steps", "tokens", *BUDGETS, *(f"{size}, over alone" for size in SIZES), "mean, and of each seed"]
    first = [f"{max(0.0, mean(r.apart[size] for r in before)):.4f}" for size in BUDGETS]
    bars = [f"{mean(r.apart[size] for r in alone if r.size == size):.4f}" for size in SIZES]
    rows = [[UNTRAINED, "0", "0.00", *first, *["–"] * 4],
            [ALONE, f"{mean(r.steps for r in alone):.0f}", "1.00", "–", *bars, *["–"] * 4]]  # fmt: skip
    for name, of in ways.items():
        over = {size: [r.apart[size] / bar[r.seed, size] for r in of] for size in SIZES}
        seeds = [mean(over[size][i] for size in SIZES) for i in range(len(of))]
        words = f"{mean(seeds):.2f} ({', '.join(f'{each:.2f}' for each in seeds)})"
        rows.append([
            name, f"{mean(r.steps for r in of):.0f}", f"{mean(r.tokens for r in of) / of_bar:.2f}",
            *(f"{mean(r.apart[size] for r in of):.4f}" for size in BUDGETS),
            *(f"{mean(over[size]):.2f}" for size in SIZES), words,
        ])  # fmt: skip
    return f"{markdown(head, rows)}\n{facts}\n"


def options(parser: argparse.ArgumentParser) -> None:
    grounds.options(parser, "5m", 400)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each size alone")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))


def study(args: argparse.Namespace) -> str:
    """The table."""
    file, first = args.runs / f"{args.ground}_{args.steps}.jsonl", args.seeds[0]
    runs = Study(grounds.ground_of(args), file, args.steps)
    rates, lr = runs.best_alone(first), runs.best_even(first)
    before = [runs.run(UNTRAINED, "", seed, 0.0) for seed in args.seeds]
    alone = [runs.run(ALONE, size, seed, rates[size]) for seed in args.seeds for size in SIZES]
    ways = {name: [runs.run(name, "", seed, lr) for seed in args.seeds] for name in args.ways}
    shape, length = runs.ground.shape, runs.family(first).length
    best = ", ".join(f"{size} {own:g}" for size, own in rates.items())
    facts = (
        f"A parent of {parameters(shape, shape.full):,} parameters; each size alone takes {args.steps} steps of "
        f"{ROWS * length} tokens at the best of the rates tried ({best}); every way has the FLOPs of the three "
        f"together, and the plain way's best rate ({lr:g}, by the mean of its sizes); {len(args.seeds)} seeds; "
        f"divergences from the parent in nats a token of {runs.ground.of}, and over those of each size alone."
    )
    return page(before, alone, ways, facts)
