# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members searched within milliseconds against members searched within parameters that take as long: three seeds.

A small parent learns to answer generated problems (that of `problems`). What `nemo-elastic profile` runs measures its
layers in our runtime on this machine. Of each pair one member is found by the search within a share of the parent's
milliseconds of a token; the other by the same search within the most parameters whose member takes no longer. Both are
distilled on as many tokens. Plain torch and one core; a study that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.study.grounds import (
    GROUNDS,
    Ground,
    config_of,
    divergences,
    optimizer_of,
    prepared,
    rate,
    step,
)
from benchmarks.study.problems import AXES, BATCH, LENGTH, PARENT, PARENT_STEPS
from benchmarks.study.results import Kept, markdown
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import flops_per_token, parameters
from nemo_elastic.core.latency import DECODE, LatencyTable, Workload
from nemo_elastic.profile.engines import RUNTIME, Engine
from nemo_elastic.profile.measure import Stop, empty_table, measure, resume, widths_of
from nemo_elastic.train.training import FamilyTraining

SHARES = (0.85, 0.7)
#: of the parent's parameters, tried from the largest until a member is fast enough
RATIOS = tuple(i / 40 for i in range(39, 7, -1))
WORK = Workload(1, 24, 17, "fp32")
BY_TIME, BY_COUNT = "milliseconds", "parameters"


@dataclass(frozen=True)
class Result:
    """A member: how its shape was limited, what it takes, and what distilling made of it.

    Attributes:
        limited: `BY_TIME` or `BY_COUNT`.
        share: of the parent's milliseconds that it may take.
        seed: of data and search.
        ms: of a token, by the table; parameters: its own; layers: that it keeps.
        kl: divergence from the parent on held-out answers, nats per token.
    """

    limited: str
    share: float
    seed: int
    ms: float
    parameters: int
    layers: int
    kl: float


def table_of(runs: Path, seconds: float) -> LatencyTable:
    """Latencies of the parent's layers here; those that an earlier call measured are kept."""
    file = runs / "here.json"
    if file.exists() and None not in json.loads(file.read_text())["grids"]["outside"]["decode"]:
        return LatencyTable.read("table", str(file))
    block = ElasticConfig.from_dict({"budgets": [{"name": "any", "ratio": 0.5}], "axes": AXES})
    widths = widths_of(PARENT, block.resolve_axes(PARENT), 3)
    table = resume(file, empty_table(PARENT, widths, "measured", RUNTIME, WORK))
    engine = Engine(RUNTIME, WORK, "cpu", sys.executable)
    return measure(file, table, PARENT, widths, engine, Stop(0.01, (6, 60), seconds), lambda *_: None)


class Distilling:
    """A member of the parent that is found by the search within a limit, and distilled on the data's answers."""

    def __init__(self, ground: Ground, seed: int, out: Path, limit: Mapping[str, Any]) -> None:
        self.ground, self.seed, self.spent = ground, seed, 0.0
        config = config_of(
            ground, {"full": None, "small": limit}, seed, sampling={"small": 1}, shapes="search",
            search={"candidates": 96, "tokens": 4096},
        )  # fmt: skip
        self.family = FamilyTraining(config, stage=2)
        self.host, self.family.members = prepared(ground, config, out)
        self.member = self.family.members.get()[1]

    def train(self, flops: float) -> int:
        """Train until so many are spent; returns steps."""
        host, family, data = self.host, self.family, self.ground.batches(300 + self.seed)
        optimizer, token = optimizer_of(host.model), self.token
        while self.spent < flops:
            rows = next(data)
            loss, _ = family.loss(host, family.next_sample(host), *rows)
            lr = self.ground.lr * rate(self.spent / flops)
            step(host.model, optimizer, loss * host.factor(rows.mask_bs.sum()), lr)
            self.spent += rows.tokens_bs.numel() * token
            host.step += 1
        return host.step

    @property
    def token(self) -> float:
        """FLOPs of a token: student and teacher."""
        own, whole = (float(flops_per_token(PARENT, m, LENGTH)) for m in (self.member, PARENT.full))
        return 3 * own + whole


def pair(ground: Ground, table: LatencyTable, share: float, seed: int, out: Path) -> dict[str, Distilling]:
    """The two members, and what trains them."""
    most = share * table.milliseconds(PARENT, PARENT.full)
    own = Distilling(ground, seed, out / "time", {"latency": {"table": table, "ratio": share}})
    for i, ratio in enumerate(RATIOS):
        other = Distilling(ground, seed, out / str(i), {"ratio": ratio})
        if table.milliseconds(PARENT, other.member) <= most:
            return {BY_TIME: own, BY_COUNT: other}
    raise SystemExit(f"no member within {RATIOS[-1]} of the parameters takes {share} of the milliseconds")


def made(ground: Ground, table: LatencyTable, share: float, seed: int, args: argparse.Namespace) -> list[Result]:
    """A pair, distilled."""
    results = []
    with tempfile.TemporaryDirectory() as out:
        runs = pair(ground, table, share, seed, Path(out))
    for limited, run in runs.items():
        run.train(args.steps * BATCH * LENGTH * run.token)
        kl, _ = divergences(run.host, run.member, ground.batches(999, held_out=True))
        results.append(Result(
            limited, share, seed, table.milliseconds(PARENT, run.member), parameters(PARENT, run.member),
            len(run.member.layers), kl,
        ))  # fmt: skip
    return results


def page(results: Sequence[Result], table: LatencyTable) -> str:
    """The table, and what it is of."""
    head = ["of the parent's ms", "searched within", "ms of a token", "parameters", "layers", "KL from the parent",
            "of each seed"]  # fmt: skip
    rows = []
    for share in SHARES:
        for limited in (BY_TIME, BY_COUNT):
            of = [r for r in results if (r.share, r.limited) == (share, limited)]
            rows.append([
                f"{share:.0%}", limited, f"{mean(r.ms for r in of):.2f}", f"{mean(r.parameters for r in of):,.0f}",
                ", ".join(str(r.layers) for r in of), f"{mean(r.kl for r in of):.4f}",
                ", ".join(f"{r.kl:.4f}" for r in of),
            ])  # fmt: skip
    by_pair = {(r.share, r.seed, r.limited): r.kl for r in results}
    gains = [
        by_pair[share, seed, BY_COUNT] - kl for (share, seed, limited), kl in by_pair.items() if limited == BY_TIME
    ]
    whole = table.milliseconds(PARENT, PARENT.full)
    facts = (
        f"A parent of {parameters(PARENT, PARENT.full):,} parameters that takes {whole:.2f} ms for a token "
        f"({DECODE}; {table['engine']}, {table.workload}). Searched within milliseconds, "
        f"{sum(g > 0 for g in gains)} of {len(gains)} members are nearer to the parent than those searched within "
        f"parameters; {mean(gains):+.4f} nats a token in the mean."
    )
    return f"{markdown(head, rows)}\n{facts}\n"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=120, help="of each member")
    parser.add_argument("--parent-steps", type=int, default=PARENT_STEPS)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each layer's measurement; 0 for one round")


def study(args: argparse.Namespace) -> str:
    """The table."""
    ground = replace(GROUNDS["problems"](args.runs, args.parent_steps, args.demo), axes=AXES)
    table = table_of(args.runs, args.seconds)
    kept = Kept(args.runs / f"{args.steps}.jsonl", Result)
    results: list[Result] = []
    for seed in args.seeds:
        for share in SHARES:
            results += kept.get(
                lambda share=share, seed=seed: made(ground, table, share, seed, args), share=share, seed=seed
            )
    return page(results, table)
