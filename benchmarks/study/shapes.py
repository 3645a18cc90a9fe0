# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which way to a member's shape gives the best member for the same FLOPs.

Each run trains one member of a trained parent, 1,024 tokens a step, and measures its divergence from the parent on
held-out text: a part of it chooses the peak rate, another one is reported. Plain torch and one core; a run that has a
result is not made again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.study import grounds
from benchmarks.study.grounds import Ground, config_of, optimizer_of, rate, windows
from benchmarks.study.modelopt_targets import depth, targets
from benchmarks.study.problems import PARENT_STEPS
from benchmarks.study.results import Kept, markdown
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import flops_per_token, parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.demo.demo_settings import BLOCK
from nemo_elastic.router import Router
from nemo_elastic.search import Space
from nemo_elastic.train.members import Candidate, Members
from nemo_elastic.train.shaping import prepare_members, shape_members
from nemo_elastic.train.training import FamilyTraining
from tests.train.torch_host import TorchHost

BUDGETS = {"85": 0.85, "72": 0.72, "50": 0.5}
#: candidates of a budget that are trained alone, and those of them that halving trains
KEEP, HALVED = 8, 4
ROWS, LENGTH = 8, 128
RATES = (5e-4, 1e-3, 2e-3)
#: rows of the text that chooses the rate, of what is reported, and of training text that halving compares on
TUNED, REPORTED, COMPARED = 64, 128, 64
#: rows of a piece of held-out text
PIECE = 16
SEARCH, HALVING, ROUTER, MODELOPT = "search", "halving", "router", "modelopt"
#: columns of the table of ways
WAYS = {SEARCH: "search alone", ROUTER: "the paper's router", MODELOPT: "ModelOpt's shape", HALVING: "halving"}
ALONE, ORACLE = "alone ", "best candidate alone"
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
        way: SEARCH, its choice alone; HALVING, ROUTER, MODELOPT; or another candidate alone, `alone 96 x 9`.
        steps: of its budget's FLOPs; lr: the peak rate.
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
    """Rows [n, LENGTH] that choose the rate, and others that are reported: of alternating pieces of the text."""
    rows = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)
    parts = [rows[(torch.arange(len(rows)) // PIECE) % 2 == part] for part in (0, 1)]
    random = torch.Generator().manual_seed(0)
    tuned, reported = (part[torch.randperm(len(part), generator=random)] for part in parts)
    return tuned[:TUNED], reported[:REPORTED]


class Family:
    """A parent that is ranked, sorted and searched, and the text of all runs of a seed."""

    def __init__(self, ground: Ground, name: str, data: DataFolder, seed: int, steps: int) -> None:
        self.ground, self.name, self.seed = ground, name, seed
        importance = {"samples": 64, "depth_samples": 8}
        search = {"candidates": 96, "tokens": 4096, "keep": KEEP}
        self.config = config_of(ground, {"full": None, **BUDGETS}, seed, axes=AXES[name], importance=importance,
                                shapes="halving", search=search)  # fmt: skip
        train, val = (torch.tensor(data.tokens(split).astype("int64")) for split in ("train", "val"))
        looked = windows(train, 200 + seed, 64 + COMPARED, LENGTH)
        self.host = TorchHost(ground.shape, ground.parent.state_dict(), looked, ROWS)
        self.out = Path(tempfile.mkdtemp())
        training = FamilyTraining(self.config, stage=1, steps=1)
        training.members = Members(ground.shape, 1 + len(BUDGETS), None, KEEP)
        prepare_members(training, self.host, self.out)
        self.candidates = {b: training.members.candidates(i) for i, b in enumerate(BUDGETS, 1)}
        self.space: Space = training.space(ground.shape, training.members.drop_order.tolist())
        self.start = {k: v.clone() for k, v in self.host.model.state_dict().items()}
        self.tuned, self.reported = held_out(val)
        self.rows = windows(train, 300 + seed, steps * ROWS, LENGTH).split(ROWS)
        self.taught: dict[Any, torch.Tensor] = {}

    def modelopt(self, budget: str) -> Subnet:
        """Widths in the proportions that NVIDIA chose for its own small models, on the layers of our ranking."""
        shape, ratio = self.ground.shape, BUDGETS[budget]
        layers = depth(shape, ratio)
        kept = sorted(set(range(shape.num_layers)) - set(self.space.whole_drop_order[: shape.num_layers - layers]))
        sizes = targets(replace(shape, ffn_stripes=1), ratio, "".join(shape.pattern[i] for i in kept))
        widths = {axis: getattr(sizes, axis) for axis in ("hidden", "ffn", "mamba_heads", "mamba_head_dim")}
        return shape.uniform(kept, **widths)

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
        whole = self.ground.shape
        return member.hidden, len(member.layers), parameters(whole, member) / parameters(whole, whole.full)

    def run(self, budget: str, way: str, steps: int, lr: float, member: Subnet | None = None) -> Result:
        """Train the member of a budget, of a given shape or by one of the ways."""
        host = self.host
        host.model.load_state_dict(self.start)
        host.step, optimizer = 0, optimizer_of(host.model)
        done, whole = steps, self.cost(self.ground.shape.full)
        own = self.cost(member or self.candidates[budget][0].member)
        if way == ROUTER:  # as many FLOPs in fewer steps: those under masks cost what the parent costs
            share = 0.67
            done = round(steps * (3 * own + whole) / (share * 4 * whole + (1 - share) * (3 * own + whole)))
        training = self.training(budget, way, done)
        members = training.members
        if way == HALVING:
            kept = self.candidates[budget][:HALVED]
            members.put([self.space.full, kept[0].member], frozen=False)
            members.put_candidates([[], [Candidate(i, c.member) for i, c in enumerate(kept)]], cuts=0)
        else:
            chosen = member or self.candidates[budget][0].member
            members.put([self.space.full, chosen], frozen=way != ROUTER)
        if members.router is not None:
            optimizer.add_param_group({"params": list(members.router.parameters()), "weight_decay": 0.0, "own": 1e-2})
        for step in range(done):
            shape_members(training, host, self.out)
            tokens = self.rows[step]
            teacher = self.teacher(step, tokens)
            sample = training.next_sample(host)
            loss, _ = host.loss(training.config.distill, host.student(tokens, sample.choice), teacher, tokens)
            loss = loss / tokens.numel()
            (loss if sample.router_loss is None else loss + sample.router_loss).backward()
            torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
            for group in optimizer.param_groups:
                group["lr"] = group["own"] if "own" in group else lr * rate(step / done)
            optimizer.step()
            optimizer.zero_grad()
            host.step += 1
        last = members.get()[1]
        ends = (self.apart(last, part) for part in ("tuned", "reported"))
        return Result(self.name, self.seed, budget, way, steps, lr, *ends, self.shape(last))

    def training(self, budget: str, way: str, steps: int) -> FamilyTraining:
        own = {"budgets": [{"name": "full"}, {"name": budget, "ratio": BUDGETS[budget]}], "sampling": {budget: 1}}
        more: dict[str, Any] = {"shapes": "even"}
        if way == ROUTER:
            more = {"shapes": "router", "router": {"freeze_at": 0.67}}
        if way == HALVING:
            more = {"shapes": "halving", "search": {"keep": HALVED}, "halving": {"tokens": COMPARED * LENGTH}}
        block = {k: v for k, v in self.config.to_dict().items() if k not in ("shapes", "search", "halving", "router")}
        config = ElasticConfig.from_dict(block | own | more)
        training = FamilyTraining(config, stage=1, steps=steps)
        shape = self.ground.shape
        router = Router(self.space, config.budgets, config.router, self.seed) if config.router else None
        training.members = Members(shape, 2, router, config.keep)
        return training

    def cost(self, member: Subnet) -> float:
        """Forward FLOPs of a token."""
        return float(flops_per_token(self.ground.shape, member, LENGTH))


class Study:
    """The runs of a ground and a seed, in an order in which those behind need those before."""

    def __init__(
        self, ground: Ground, name: str, data: DataFolder, seed: int, steps: Sequence[int], file: Path
    ) -> None:
        self.steps, self.kept = steps, Kept(file, Result)
        self.family = Family(ground, name, data, seed, max(steps))

    def run(self, budget: str, way: str, steps: int, lr: float, member: Subnet | None = None) -> Result:
        def made() -> list[Result]:
            result = self.family.run(budget, way, steps, lr, member)
            print(json.dumps(vars(result)), flush=True)
            return [result]

        return self.kept.get(made, budget=budget, way=way, steps=steps, lr=lr)[0]

    def alone(self, budget: str, number: int, steps: int, rates: Mapping[str, float]) -> Result:
        member = self.family.candidates[budget][number].member
        way = f"{ALONE}{member.hidden} x {len(member.layers)}" if number else SEARCH
        return self.run(budget, way, steps, rates[budget], member)

    def all(self, budgets: Sequence[str], rates: Mapping[str, float]) -> None:
        """Every way; of the candidates the best of the short runs alone are trained alone in the long ones."""
        short, long = self.steps[0], self.steps[-1]
        for steps in self.steps:
            for budget in budgets:
                self.alone(budget, 0, steps, rates)
                self.run(budget, HALVING, steps, rates[budget])
                self.run(budget, MODELOPT, steps, rates[budget], self.family.modelopt(budget))
        for budget in budgets:
            numbers = range(len(self.family.candidates[budget]))
            ranked = sorted(numbers, key=lambda i: self.alone(budget, i, short, rates).tuned)
            for i in ranked[:3]:
                self.alone(budget, i, long, rates)
        for budget in budgets:
            for steps in self.steps:
                self.run(budget, ROUTER, steps, rates[budget])

    def best_rates(self, budgets: Sequence[str]) -> dict[str, float]:
        """Peak rate of a budget: the best of the search's choice, in the short run, on text that is not reported."""
        best = {}
        for budget in budgets:
            tried = {lr: self.alone(budget, 0, self.steps[0], {budget: lr}).tuned for lr in RATES}
            best[budget] = min(tried, key=lambda lr: tried[lr])
        return best


# --------------------------------------------------------------------------------------------------------- the tables


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


def _is_alone(way: str) -> bool:
    return way == SEARCH or way.startswith(ALONE)


def _mean(runs: Mapping[int, Result]) -> str:
    return f"{mean(r.reported for r in runs.values()):.4f} ({len(runs)})" if runs else "–"


def _over(ours: Mapping[int, Result], theirs: Mapping[int, Result]) -> str:
    both = sorted(ours.keys() & theirs.keys())
    return ", ".join(f"{ours[s].reported / theirs[s].reported:.2f}" for s in both) or "–"


def _shape(run: Result) -> str:
    return f"{run.shape[0]:.0f} x {run.shape[1]:.0f}"


def page(folder: Path) -> str:
    """The tables of every ground that has runs there."""
    parts = []
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
        ]
    return "\n".join(parts) + "\n"


def options(parser: argparse.ArgumentParser) -> None:
    grounds.options(parser, "demo", PARENT_STEPS, AXES)
    parser.add_argument("--steps", type=int, nargs="+", default=(120, 480))
    parser.add_argument("--budgets", nargs="+", choices=tuple(BUDGETS), default=tuple(BUDGETS))


def study(args: argparse.Namespace) -> str:
    """The tables of all grounds that have runs."""
    ground, data = grounds.ground_of(args), DataFolder.open(args.demo / "data")
    rates = None
    for seed in args.seeds:
        file = args.runs / f"{args.ground}_{seed}.jsonl"
        own = Study(ground, args.ground, data, seed, args.steps, file)
        if rates is None:  # tried with the first seed alone
            zero = args.runs / f"{args.ground}_0.jsonl"
            first = Study(ground, args.ground, data, 0, args.steps, zero) if seed else own
            rates = first.best_rates(args.budgets)
        own.all(args.budgets, rates)
    return page(args.runs)
