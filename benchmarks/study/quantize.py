# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What low precision costs the members of a family, and how much of that distilling in it wins back: three seeds.

A family of a trained parent (`grounds`: by default one that answers generated problems) is trained on slices, as in
stage 2. Then it trains for more steps in two ways: at full precision, which is the control, and in each
format (`distill.quantize`, stage 3), on the same data at the same rates. Losses are divergences from the parent on
text that no training saw. Plain torch and one core; a study that was stopped resumes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.study import grounds
from benchmarks.study.grounds import Ground, config_of, divergences, optimizer_of, prepared, rate, step
from benchmarks.study.problems import PARENT_STEPS
from benchmarks.study.results import Kept, markdown
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.precision import SCHEMES
from nemo_elastic.train.training import FamilyTraining
from nemo_elastic.verdicts import FEW, ratio_interval

BUDGETS: dict[str, float | None] = {"full": None, "large": 0.75, "small": 0.5}
STEPS, MORE = 240, 120


@dataclass(frozen=True)
class Result:
    """Divergences of a member from the parent, nats a token.

    Attributes:
        scheme, member, seed: what was trained.
        parameters: of the member.
        full, family: after stage 2: as it is, and rounded under the parent's scales.
        control_full, control: after more steps at full precision: as it is, and rounded under the parent's scales.
        distilled: after as many steps in that format, rounded.
    """

    scheme: str
    member: str
    seed: int
    parameters: int
    full: float
    family: float
    control_full: float
    control: float
    distilled: float


class Family:
    """A parent's members in training, each as often.

    Args:
        ground: what they are trained on.
        seed: of the data, and of which member each step trains.
        out: for the ranking.
        total: steps of all stages, over which rates go down once.
    """

    def __init__(self, ground: Ground, seed: int, out: Path, total: int) -> None:
        self.ground, self.seed, self.total, self.done = ground, seed, total, 0
        self.host, self.shapes = prepared(ground, config_of(ground, BUDGETS, seed), out)
        self.optimizer = optimizer_of(self.host.model)

    @property
    def members(self) -> dict[str, Subnet]:
        return dict(zip(BUDGETS, self.shapes.get(), strict=True))

    def _stage(self, number: int, scheme: str | None = None) -> FamilyTraining:
        config = config_of(self.ground, BUDGETS, self.seed, distill={"quantize": scheme})
        config.check_blocks(self.ground.shape)
        family = FamilyTraining(config, number)
        family.members = self.shapes
        return family

    def train(self, stage: int, steps: int, scheme: str | None = None) -> None:
        """Train on slices, in a format or at full precision; then weights are as they were trained, not rounded."""
        host, family, data = self.host, self._stage(stage, scheme), self.ground.batches(100 * stage + 200 + self.seed)
        host.model.rounding = scheme
        for host.step in range(steps):
            rows = next(data)
            loss, _ = family.loss(host, family.next_sample(host), *rows)
            lr = self.ground.lr * rate(self.done / self.total)
            step(host.model, self.optimizer, loss * host.gradient_scale(rows.mask_bs.sum()), lr)
            self.done += 1
        host.model.rounding = None

    def losses(self, scheme: str | None = None) -> dict[str, float]:
        """Every member's divergence from the parent, as it is or rounded under the parent's scales."""
        self.host.model.rounding = scheme
        out = {name: self._apart(member) for name, member in self.members.items()}
        self.host.model.rounding = None
        return out

    def _apart(self, member: Subnet) -> float:
        source = self.ground.batches(999, held_out=True)
        return divergences(self.host, member, source, self.ground.held_out)[0]


def made(ground: Ground, seed: int, steps: int, more: int, out: Path) -> list[Result]:
    """A family of a seed: trained, and gone on with in all ways."""
    family = Family(ground, seed, out, steps + more)
    family.train(2, steps)
    kept, moments = deepcopy(family.host.model.state_dict()), deepcopy(family.optimizer.state_dict())
    before = {scheme: family.losses(scheme) for scheme in SCHEMES}
    full, after = family.losses(), {}
    for scheme in (None, *SCHEMES):
        family.host.model.load_state_dict(kept)
        family.optimizer.load_state_dict(deepcopy(moments))
        family.done = steps
        family.train(3, more, scheme)
        after[scheme] = {way: family.losses(way) for way in (None, *SCHEMES)}
    return [
        Result(
            scheme, name, seed, parameters(ground.shape, member), full[name], before[scheme][name],
            after[None][None][name], after[None][scheme][name], after[scheme][scheme][name],
        )
        for scheme in SCHEMES
        for name, member in family.members.items()
    ]  # fmt: skip


def page(results: Sequence[Result], facts: str) -> str:
    """The tables, and what they are of."""
    head = ["format", "member", "stage 2", "rounded, family's scales", "control", "control, rounded",
            "distilled in it", "won back of rounding", "of each seed"]  # fmt: skip
    rows = []
    for scheme, name in dict.fromkeys((r.scheme, r.member) for r in results):
        of = [r for r in results if (r.scheme, r.member) == (scheme, name)]
        fields = ("full", "family", "control_full", "control", "distilled")
        means = [mean(getattr(r, field) for r in of) for field in fields]
        won = [f"{r.control - r.distilled:+.4f}" for r in of]
        rows.append([scheme, name, *(f"{value:.4f}" for value in means), share(of), ", ".join(won)])
    words = [f"- {scheme}: {verdict([r for r in results if r.scheme == scheme])}" for scheme in SCHEMES]
    return f"{markdown(head, rows)}\n" + "\n".join(words) + f"\n\n{facts}\n"


def share(of: Sequence[Result]) -> str:
    """What distilling won back of what rounding cost, both after as many steps, in the mean."""
    cost = mean(r.control - r.control_full for r in of)
    return "–" if cost <= 0 else f"{100 * mean(r.control - r.distilled for r in of) / cost:.0f}%"


def verdict(of: Sequence[Result]) -> str:
    """What rounding costs, and what distilling wins back of it: the mean over members, and its interval over seeds.

    The members of a seed are trained in one run, on one order of data; only seeds are independent.
    """
    cost, seeds = mean(r.control - r.control_full for r in of), sorted({r.seed for r in of})
    if len(seeds) < FEW or cost <= 0:
        return f"rounding costs {cost:.4f} nats"
    wins = [mean(r.control - r.distilled for r in of if r.seed == seed) for seed in seeds]
    won = ratio_interval(wins, [1.0] * len(seeds))
    low, middle, high = (f"{100 * value / cost:.0f}%" for value in (won.low, won.mean, won.high))
    return f"rounding costs {cost:.4f} nats; distilling wins back {middle} (95% over seeds: {low} to {high})"


def options(parser: argparse.ArgumentParser) -> None:
    grounds.options(parser, "problems", PARENT_STEPS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of stage 2")
    parser.add_argument("--more", type=int, default=MORE, help="steps of stage 3 and of the control")


def study(args: argparse.Namespace) -> str:
    """The tables."""
    ground = grounds.ground_of(args)
    shape, kept = ground.shape, Kept(args.runs / f"{args.ground}_{args.steps}_{args.more}.jsonl", Result)
    with tempfile.TemporaryDirectory() as out:
        for seed in args.seeds:
            kept.get(lambda seed=seed: made(ground, seed, args.steps, args.more, Path(out, str(seed))), seed=seed)
    results = [result for result in kept.results if result.seed in args.seeds]
    facts = (
        f"A parent of {parameters(shape, shape.full):,} parameters; {args.steps} steps, and {args.more} more; "
        f"{len(args.seeds)} seeds; divergences from the parent in nats a token of {ground.of}."
    )
    return page(results, facts)
