# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whether members are nearer to their parent if they may send a token to fewer experts, at equal active parameters.

A parent with the proportions of Nemotron-3 Nano 30B-A3B is trained on the demo's text. The search finds its members
with and without `axes.top_k`, and each is trained alone, 1,024 tokens a step, under a schedule that ends with it. Each
seed has its own parent. The measure is KL(parent || member) on held-out text. Plain torch and one core; a run that has
a result is not made again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.study import grounds
from benchmarks.study.grounds import Ground, fresh, optimizer_of, prepared, rate, step, windows
from benchmarks.study.problems import MicroBatch
from benchmarks.study.results import KEPT, REPORTED, Kept, markdown, spread
from nemo_elastic.core.cost import active_parameters, parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.plan.presets import preset
from nemo_elastic.train.shaping import DIVERGENCE
from tests.train.torch_host import TorchHost

#: four of 16 experts for six of 128, as wide in all beside the shared expert, Mamba and attention
PARENT = replace(
    preset("nemotron-3-nano-30b-a3b"), pattern="MEMEM*EME", hidden=128, vocab=1024, mamba_heads=12, mamba_head_dim=16,
    mamba_groups=4, state=16, attention_heads=6, attention_head_dim=32, experts=16, expert_ffn=128, shared_ffn=176,
    top_k=4,
)  # fmt: skip
#: every member keeps the layers and heads, as in conf/elastic_30b_a3b.yaml, and all experts, which are no active ones
AXES = {name: [*range(*ends)] for name, ends in
        {"hidden": (128, 71, -8), "expert_ffn": (128, 47, -8), "shared_ffn": (176, 95, -16)}.items()}  # fmt: skip
WAYS: Mapping[str, Mapping[str, Any]] = {"kept": {}, "an axis": {"top_k": [4, 3, 2]}}
#: share of the active parameters -> peak rate, that of `shapes`
BUDGETS = {"70": 2.5e-4, "50": 5e-4}
#: rows of a step and tokens of a row; micro-batches of the reported text; what a step adds to an expert's bias
ROWS, LENGTH, HELD_OUT, BALANCE = 8, 128, 8, 2e-3
BIAS = "backbone.layers.{}.mixer.gate.e_score_correction_bias"


@dataclass(frozen=True)
class Result:
    """Of a member.

    Attributes:
        way: of the top-k; steps: 0 where nothing was trained; apart: KL(parent || member), nats per token.
        active, total: shares of the parent's parameters.
        shape: residual width, width of experts and of the shared expert, experts per token.
    """

    seed: int
    way: str
    budget: str
    steps: int
    apart: float
    active: float
    total: float
    shape: Sequence[int]


@torch.no_grad()
def balanced(model: NemotronH, batches: Iterator[MicroBatch]) -> Iterator[MicroBatch]:
    """Micro-batches; at each, the experts' biases follow the load, from 0 on, as those of the 30B-A3B do."""
    biases = {i: model.get_parameter(BIAS.format(i)) for i, kind in enumerate(PARENT.pattern) if kind == "E"}
    for bias in biases.values():
        bias.zero_()

    def probe(site: str, index: int, x: torch.Tensor) -> None:
        if site == "routed":
            load = x.sum((0, 1))
            biases[index] += BALANCE * (load.mean() - load).sign()

    for rows in batches:
        model(rows.tokens_bs[: ROWS // 2], probe=probe)
        yield rows


class Study:
    """The runs of a seed."""

    def __init__(self, data: DataFolder, seed: int, steps: Sequence[int], parent_steps: int, runs: Path) -> None:
        self.seed, self.steps, self.kept = seed, steps, Kept(runs / f"{seed}.jsonl", Result)
        self.batches, file = grounds.text_batches(data), runs / f"parent_{seed}.pt"
        if not file.exists():
            model = fresh(seed, PARENT)
            grounds.trained(model, balanced(model, self.batches(100 + seed)), parent_steps)
            torch.save(model.state_dict(), file)
        self.parent = torch.load(file)
        text = torch.tensor(data.tokens("train").astype("int64"))
        self.rows = windows(text, 300 + seed, max(steps) * ROWS, LENGTH).split(ROWS)
        self.taught: dict[int, torch.Tensor] = {}

    def all(self) -> None:
        """Every member of both ways, untrained and trained."""
        whole, more = active_parameters(PARENT, PARENT.full), {"candidates": 96, "tokens": 4096}
        budgets = {"100": None, **{b: {"active_params": int(b) / 100 * whole} for b in BUDGETS}}
        for way, axis in WAYS.items():
            ground = Ground(NemotronH(PARENT, self.parent), {**AXES, **axis}, self.batches, 0.0, "held-out text")
            config = grounds.config_of(ground, budgets, self.seed, shapes="search", search=more)
            ground = replace(ground, parent=NemotronH(config.parent_shape(PARENT), self.parent))
            with tempfile.TemporaryDirectory() as out:
                host, members = prepared(ground, config, Path(out))
            start = {name: value.clone() for name, value in host.model.state_dict().items()}
            for budget, member in zip(BUDGETS, members.get()[1:], strict=True):
                for steps in (0, *self.steps):
                    host.model.load_state_dict(start)
                    make = partial(self.made, way, budget, steps, host, member)
                    self.kept.get(make, way=way, budget=budget, steps=steps)

    def made(self, way: str, budget: str, steps: int, host: TorchHost, member: Subnet) -> list[Result]:
        """Train a member of a host whose weights are the sorted parent's."""
        optimizer = optimizer_of(host.model)
        for i, tokens in enumerate(self.rows[:steps]):
            if i not in self.taught:  # the same for both ways
                self.taught[i] = host.teacher(tokens).log_softmax(-1).half()
            loss, _ = host.loss(DIVERGENCE, host.student(tokens, member), self.taught[i].float(), tokens)
            step(host.model, optimizer, loss / tokens.numel(), BUDGETS[budget] * rate(i / steps))
        apart, _ = grounds.divergences(host, member, self.batches(400, REPORTED), HELD_OUT)
        parent, widths = host.model.parent, member.layers[PARENT.pattern.index("E")].widths
        active, total = (n(parent, member) / n(parent, parent.full) for n in (active_parameters, parameters))
        shape = member.hidden, widths["expert_ffn"], widths["shared_ffn"], widths.get("top_k", PARENT.top_k)
        result = Result(self.seed, way, budget, steps, apart, active, total, shape)
        print(json.dumps(vars(result)), flush=True)
        return [result]


def table(results: Sequence[Result]) -> str:
    """Divergences of each member, and what the axis changes of them, over seeds."""
    steps, rows = sorted({r.steps for r in results}), []
    for budget in BUDGETS:
        by = {way: {(r.seed, r.steps): r for r in results if (r.way, r.budget) == (way, budget)} for way in WAYS}
        for way, runs in by.items():
            mine = [r for (_, done), r in runs.items() if not done]
            shares = (f"{100 * mean(values):.1f} %" for values in ([r.active for r in mine], [r.total for r in mine]))
            shapes = "; ".join("/".join(map(str, r.shape)) for r in mine)
            ends = (spread([r.apart for (_, done), r in runs.items() if done == at]) for at in steps)
            rows.append([f"{budget} %", way, *shares, shapes, *ends])
        kept, axis = by.values()
        change = (spread([axis[k].apart - r.apart for k, r in kept.items() if k[1] == at]) for at in steps)
        rows.append([f"{budget} %", "difference", "", "", "", *change])
    return markdown(["budget", "top-k", "active", "all", "shapes", *(f"{at} steps" for at in steps)], rows)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parent-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, nargs="+", default=(120, 480), help="of each member's trainings")
    parser.add_argument("--kept", action="store_true", help="the table of the documentation; nothing is run")


def study(args: argparse.Namespace) -> str:
    """The table of all seeds that have runs."""
    if args.kept:
        return table(Kept(KEPT / "top_k.jsonl", Result).results)
    data = DataFolder.open(args.demo / "data")
    for seed in args.seeds:
        Study(data, seed, args.steps, args.parent_steps, args.runs).all()
    return table([r for file in sorted(args.runs.glob("*.jsonl")) for r in Kept(file, Result).results])
