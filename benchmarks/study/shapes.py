# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the divergence of an untrained member says which shape is best after training.

Each run trains one member of a rotated parent, 1,024 tokens a step, under a schedule that ends with it, and measures
its divergence from the parent on held-out text: a part of it chooses, another one is reported. Plain torch and one
core; a run that has a result is not made again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.study import grounds
from benchmarks.study.grounds import Ground, config_of, optimizer_of, rate, step, windows
from benchmarks.study.problems import PARENT_STEPS
from benchmarks.study.results import KEPT, Kept, markdown
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import PARENT_WIDTH, Subnet
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.demo.demo_settings import BLOCK
from nemo_elastic.search import Space, Trial, search
from nemo_elastic.search.fullest import fullest
from nemo_elastic.train.members import Members
from nemo_elastic.train.shaping import obtain_ranking, untrained_loss
from nemo_elastic.train.training import FamilyTraining
from tests.train.torch_host import TorchHost

BUDGETS = {"85": 0.85, "72": 0.72, "50": 0.5}
#: shapes of a budget that are trained alone, and members of a width and depth that are measured for them
SHAPES, IN_CELL = 8, 3
ROWS, LENGTH = 8, 128
#: peak rate of a budget
RATES = {"85": 2.5e-4, "72": 2.5e-4, "50": 5e-4}
#: rows of the text that chooses, and of what is reported
TUNED, REPORTED = 64, 128
#: rows of a piece of held-out text
PIECE = 16
#: share of a budget that a shape may leave unused
ROOM = 0.05
#: a run of a budget's shape by its number; the first is the search's choice
SHAPE = "shape "
#: successive halving of four of the search's shapes: kept results of commit ce34b484, the last that had it
HALVING = "halving"
AXES: Mapping[str, Mapping[str, Any]] = {
    "demo": BLOCK["axes"],
    "5m": {
        "hidden": [256, 224, 192, 160, 128],
        "ffn": {"choices": [1280, 1024, 768, 512], "stripes": 8},
        "mamba_heads": [16, 12, 8],
        "attention_heads": [8, 6, 4],
        "depth": [10, 9, 8, 7, 6],
    },
}


@dataclass(frozen=True)
class Result:
    """Of a run.

    Attributes:
        way: a shape alone, `shape 0`, the search's, to `shape 7`; or `halving`.
        steps: 0 where nothing was trained; lr: the peak rate.
        tuned, reported: divergence from the parent at the end, nats per token, of the two parts of the text.
        shape: residual width, layers, share of the parent's parameters.
    """

    ground: str
    seed: int
    budget: str
    way: str
    steps: int
    lr: float
    tuned: float
    reported: float
    shape: Sequence[float]


def held_out(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, LENGTH] that choose, and others that are reported: of alternating pieces of the text."""
    rows = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)
    parts = [rows[(torch.arange(len(rows)) // PIECE) % 2 == part] for part in (0, 1)]
    random = torch.Generator().manual_seed(0)
    tuned, reported = (part[torch.randperm(len(part), generator=random)] for part in parts)
    return tuned[:TUNED], reported[:REPORTED]


class Family:
    """A parent that is ranked, rotated and searched, and the text of all runs of a seed."""

    def __init__(
        self, ground: Ground, name: str, data: DataFolder, seed: int, steps: int, budgets: Sequence[str]
    ) -> None:
        self.name, self.seed = name, seed
        self.parent = replace(ground.shape, norm=PARENT_WIDTH)
        importance = {"samples": 64, "depth_samples": 8, "hidden": "basis"}
        search = {"candidates": 96, "tokens": 4096}
        self.config = config_of(ground, {"full": None, **BUDGETS}, seed, axes=AXES[name], importance=importance,
                                shapes="search", search=search)  # fmt: skip
        train, val = (torch.tensor(data.tokens(split).astype("int64")) for split in ("train", "val"))
        looked = windows(train, 200 + seed, 64, LENGTH)
        self.host = TorchHost(self.parent, ground.parent.state_dict(), looked, ROWS)
        self.out = Path(tempfile.mkdtemp())
        self._find_shapes(budgets)
        self.start = {k: v.clone() for k, v in self.host.model.state_dict().items()}
        self.tuned, self.reported = held_out(val)
        self.rows = windows(train, 300 + seed, steps * ROWS, LENGTH).split(ROWS)
        self.taught: dict[Any, torch.Tensor] = {}

    @torch.no_grad()
    def _find_shapes(self, budgets: Sequence[str]) -> None:
        """Rank and rotate the parent, search, and choose the shapes that each budget trains."""
        training = FamilyTraining(self.config, stage=1, steps=1)
        training.members = Members(self.parent, 1 + len(BUDGETS))
        ranking = obtain_ranking(training, self.host, self.out)
        self.host.sort(ranking)
        self.space: Space = training.space(self.parent, list(ranking.depth))
        loss = untrained_loss(training, self.host, self.config.search.tokens)
        found = search(self.space, self.config.budgets, loss, self.config.search.candidates, self.seed)
        self.shapes = {
            b.name: self._different(b, found.members[b.name], found.trace, loss)
            for b in self.config.budgets
            if b.name in budgets
        }

    def _different(self, budget: Budget, best: Subnet, trace: Sequence[Trial], loss: Any) -> list[Subnet]:
        """The search's shape; another of its residual width and depth; the best of other widths and depths, untrained;
        and the best of the narrowest width.
        """
        codes = fullest(self.space, budget, np.zeros(len(self.space.slots), dtype=np.int64))
        assert codes is not None
        price, random = self.space.price(budget), np.random.default_rng(self.seed)
        codes = random.permutation(codes[price.miss(price.codes(codes)) >= -ROOM])
        fit = {self.space.decode(code) for code in codes}
        losses: dict[tuple[int, int], list[tuple[float, int, Subnet]]] = {}
        for trial in trace:
            if trial.member in fit and trial.member != best:
                losses.setdefault(_cell(trial.member), []).append((trial.loss, -trial.number, trial.member))
        known = {trial.member for trial in trace}
        for at, code in enumerate(codes):
            member = self.space.decode(code)
            own = losses.setdefault(_cell(member), [])
            if len(own) < IN_CELL and member not in known:
                own.append((loss(member), at, member))
        ranked = sorted(min(own) for cell, own in losses.items() if own and cell != _cell(best))
        shapes = [best, *(m for _, _, m in sorted(losses.get(_cell(best), []))[:1]), *(m for _, _, m in ranked)]
        narrowest = min(shapes, key=lambda m: m.hidden)
        first = shapes[: SHAPES - 1]
        return [*first, *(shapes[SHAPES - 1 : SHAPES] if narrowest in first else [narrowest])]

    @torch.no_grad()
    def teacher(self, key: Any, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the parent, in fp16: all runs of a seed read the same text."""
        if key not in self.taught:
            self.taught[key] = self.host.frozen(tokens).log_softmax(-1).half()
        return self.taught[key].float()

    @torch.no_grad()
    def apart(self, member: Subnet | None, part: str) -> float:
        """Divergence from the parent, nats per token."""
        total, rows = 0.0, getattr(self, part)
        for i, tokens in enumerate(rows.split(16)):
            p, q = self.teacher((part, i), tokens), self.host.model(tokens, member).log_softmax(-1)
            total += float((p.exp() * (p - q)).sum())
        return total / rows.numel()

    def shape(self, member: Subnet) -> tuple[float, ...]:
        """Residual width, layers, share of the parent's parameters."""
        return (
            member.hidden,
            len(member.layers),
            parameters(self.parent, member) / parameters(self.parent, self.parent.full),
        )

    def run(self, budget: str, number: int, steps: int, lr: float) -> Result:
        """Train one shape of a budget."""
        member, model = self.shapes[budget][number], self.host.model
        model.load_state_dict(self.start)
        optimizer = optimizer_of(model)
        for i in range(steps):
            tokens = self.rows[i]
            said = self.host.student(tokens, member)
            loss, _ = self.host.loss(self.config.distill, said, self.teacher(i, tokens), tokens)
            step(model, optimizer, loss / tokens.numel(), lr * rate(i / steps))
        tuned, reported = (self.apart(member, part) for part in ("tuned", "reported"))
        way = f"{SHAPE}{number}"
        return Result(self.name, self.seed, budget, way, steps, lr, tuned, reported, self.shape(member))


def _cell(member: Subnet) -> tuple[int, int]:
    return member.hidden, len(member.layers)


class Study:
    """The runs of a ground and a seed."""

    def __init__(
        self,
        ground: Ground,
        name: str,
        data: DataFolder,
        seed: int,
        steps: Sequence[int],
        budgets: Sequence[str],
        file: Path,
    ) -> None:
        self.steps, self.budgets, self.kept = steps, budgets, Kept(file, Result)
        self.family = Family(ground, name, data, seed, max(steps), budgets)

    def all(self) -> None:
        """Every shape, the short runs first."""
        for steps in (0, *self.steps):
            for budget in self.budgets:
                for number in range(len(self.family.shapes[budget])):
                    self.run(budget, number, steps)

    def run(self, budget: str, number: int, steps: int) -> Result:
        def made() -> list[Result]:
            result = self.family.run(budget, number, steps, RATES[budget] if steps else 0.0)
            print(json.dumps(vars(result)), flush=True)
            return [result]

        return self.kept.get(made, budget=budget, way=f"{SHAPE}{number}", steps=steps)[0]


# --------------------------------------------------------------------------------------------------------- the tables


class Runs:
    """Results of a ground and a seed, by budget, steps and way."""

    def __init__(self, results: Iterable[Result]) -> None:
        self.by = {(r.budget, r.steps, r.way): r for r in results}

    def shapes(self, budget: str, steps: int) -> list[Result]:
        """Of the shapes alone, by number."""
        found = (self.by.get((budget, steps, f"{SHAPE}{number}")) for number in range(SHAPES))
        return [run for run in found if run is not None]

    def lengths(self) -> list[tuple[str, int]]:
        """Budgets and steps of trainings."""
        return sorted({(budget, steps) for budget, steps, _ in self.by if steps}, key=lambda x: (-int(x[0]), x[1]))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, of numbers without ties."""
    first, second = (np.argsort(np.argsort(each)) for each in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def judged_table(runs: Runs) -> str:
    """How untrained divergences rank the shapes, and the divergences of what each way chose."""
    halved = [words for words in (HALVING,) if any(run[2] == words for run in runs.by)]
    rows = []
    for budget, steps in runs.lengths():
        before, after = runs.shapes(budget, 0), runs.shapes(budget, steps)
        untrained, ends = ([r.tuned for r in each] for each in (before, after))
        chosen = [after[0], after[int(np.argmin(untrained))], after[int(np.argmin(ends))]]
        beside = [runs.by.get((budget, steps, way)) for way in halved]
        cells = (f"{run.reported:.4f}" if run else "–" for run in (*chosen, *beside))
        rows.append([f"{budget} %", str(steps), f"{rank_correlation(untrained, ends):.2f}", *cells])
    chosen_by = ["search's choice", "least untrained", "best of all"]
    return markdown(["budget", "steps", "rank correlation", *chosen_by, *halved], rows)


def shapes_table(runs: Runs) -> str:
    """Divergences of every shape by steps."""
    steps = sorted({steps for _, steps, _ in runs.by})
    rows = []
    for budget in sorted({budget for budget, _, _ in runs.by}, reverse=True):
        for number, first in enumerate(runs.shapes(budget, 0)):
            ends = (runs.by.get((budget, step, f"{SHAPE}{number}")) for step in steps)
            hidden, layers, share = first.shape
            rows.append([f"{budget} %", f"{hidden:.0f} x {layers:.0f}", f"{share:.3f}",
                         *(f"{run.reported:.4f}" if run else "–" for run in ends)])  # fmt: skip
    return markdown(["budget", "shape", "share of the parent", *(f"{step} steps" for step in steps)], rows)


def page(results: Sequence[Result]) -> str:
    """The tables of every ground and seed that has results."""
    judged, shapes = [], []
    for ground, seed in sorted({(r.ground, r.seed) for r in results}, reverse=True):
        runs = Runs(r for r in results if (r.ground, r.seed) == (ground, seed))
        parent = {"demo": "The demo's parent, 1.6M parameters", "5m": "A parent of 5.2M parameters"}[ground]
        judged.append(f"{parent}; seed {seed}.\n\n{judged_table(runs)}")
        shapes.append(f"{parent}; seed {seed}; residual width x layers.\n\n{shapes_table(runs)}")
    return "\n".join([*judged, *shapes])


def options(parser: argparse.ArgumentParser) -> None:
    grounds.options(parser, "demo", PARENT_STEPS, AXES)
    parser.add_argument("--steps", type=int, nargs="+", default=(40, 160, 480))
    parser.add_argument("--budgets", nargs="+", choices=tuple(BUDGETS), default=("72", "50"))
    parser.add_argument("--kept", action="store_true", help="the table of the documentation; nothing is run")


def study(args: argparse.Namespace) -> str:
    """The tables of all grounds that have runs."""
    if args.kept:
        return page(Kept(KEPT / "shapes.jsonl", Result).results)
    ground, data = grounds.ground_of(args), DataFolder.open(args.demo / "data")
    for seed in args.seeds:
        file = args.runs / f"{args.ground}_{seed}.jsonl"
        Study(ground, args.ground, data, seed, args.steps, args.budgets, file).all()
    return page([r for file in sorted(args.runs.glob("*.jsonl")) for r in Kept(file, Result).results])
