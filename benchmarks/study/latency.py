# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members searched within milliseconds against members searched within parameters that take as long: three seeds.

python -m benchmarks.study.latency [--picture docs/images/study_latency.svg] > docs/tables/study_latency.md

A small parent learns to answer generated problems (that of `problems`). What `nemo-elastic profile` runs measures its
layers in our runtime on this machine. Of each pair one member is found by the search within a share of the parent's
milliseconds of a token; the other by the same search within the most parameters whose member takes no longer. Both are
distilled on as many tokens. Plain torch and one core; a study that was stopped goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.output import save_svg
from benchmarks.study.problems import (
    AXES,
    BATCH,
    LENGTH,
    PARENT,
    Distilling,
    arguments,
    batches,
    begin,
    divergences,
    parent_of,
    right,
)
from benchmarks.study.results import add_lines, markdown, read_lines
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.latency import DECODE, LatencyTable, Workload
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.profile.cells import widths_of
from nemo_elastic.profile.engines import RUNTIME, Engine
from nemo_elastic.profile.making import begun, empty_table, measure
from nemo_elastic.profile.timing import Stop
from nemo_elastic.report.style import MUTED, colour, headline, house, marker, new_figure

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
        right: share of held-out problems answered right.
        kl: divergence from the parent on held-out answers, nats per token.
    """

    limited: str
    share: float
    seed: int
    ms: float
    parameters: int
    layers: int
    right: float
    kl: float


def table_of(runs: Path) -> LatencyTable:
    """Latencies of the parent's layers here; those that an earlier call measured are kept."""
    file = runs / "here.json"
    if file.exists() and None not in json.loads(file.read_text())["grids"]["outside"]["decode"]:
        return LatencyTable.read("table", str(file))
    block = ElasticConfig.from_dict({"budgets": [{"name": "any", "ratio": 0.5}], "axes": AXES})
    widths = widths_of(PARENT, block.resolve_axes(PARENT), 3)
    table = begun(file, empty_table(PARENT, widths, "measured", RUNTIME, WORK))
    engine = Engine(RUNTIME, WORK, "cpu", sys.executable)
    return measure(file, table, PARENT, widths, engine, Stop(0.01, (6, 60), 20.0), lambda *_: None)


def searched(parent: NemotronH, seed: int, out: Path, budget: Mapping[str, Any]) -> Distilling:
    return Distilling(parent, seed, out, budget, {"candidates": 96, "tokens": 4096})


def pair(parent: NemotronH, table: LatencyTable, share: float, seed: int, out: Path) -> dict[str, Distilling]:
    """The two members, and what trains them."""
    most = share * table.milliseconds(PARENT, PARENT.full)
    own = searched(parent, seed, out / "time", {"latency": {"table": table, "ratio": share}})
    for i, ratio in enumerate(RATIOS):
        other = searched(parent, seed, out / str(i), {"ratio": ratio})
        if table.milliseconds(PARENT, other.member) <= most:
            return {BY_TIME: own, BY_COUNT: other}
    raise SystemExit(f"no member within {RATIOS[-1]} of the parameters takes {share} of the milliseconds")


def results_of(parent: NemotronH, table: LatencyTable, args: argparse.Namespace, asked: Sequence[Any]) -> list[Result]:
    """Every pair, distilled; those of an earlier call stand in `results.jsonl`."""
    kept = args.runs / "results.jsonl"
    results = read_lines(kept, Result)
    for seed in args.seeds:
        for share in SHARES:
            if any((r.share, r.seed) == (share, seed) for r in results):
                continue
            with tempfile.TemporaryDirectory() as out:
                runs = pair(parent, table, share, seed, Path(out))
            both = []
            for limited, run in runs.items():
                run.train(args.steps * BATCH * LENGTH * (3 * run.cost(run.member) + run.cost(PARENT.full)))
                kl, _ = divergences(run.host, run.member, batches(999, held_out=True))
                both.append(Result(
                    limited, share, seed, table.milliseconds(PARENT, run.member), parameters(PARENT, run.member),
                    len(run.member.layers), right(run.host.model, run.member, asked), kl,
                ))  # fmt: skip
            add_lines(kept, *both)
            results += both
    return results


def page(results: Sequence[Result], table: LatencyTable, asked: int) -> str:
    """The table, and what it is of."""
    head = ["of the parent's ms", "searched within", "ms of a token", "parameters", "layers", "KL from the parent",
            "of each seed", "answers right", "of each seed"]  # fmt: skip
    rows = []
    for share in SHARES:
        for limited in (BY_TIME, BY_COUNT):
            of = [r for r in results if (r.share, r.limited) == (share, limited)]
            rows.append([
                f"{share:.0%}", limited, f"{mean(r.ms for r in of):.2f}", f"{mean(r.parameters for r in of):,.0f}",
                ", ".join(str(r.layers) for r in of), f"{mean(r.kl for r in of):.4f}",
                ", ".join(f"{r.kl:.4f}" for r in of), f"{mean(r.right for r in of):.1%}",
                ", ".join(f"{r.right:.1%}" for r in of),
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
        f"parameters; {mean(gains):+.4f} nats a token in the mean. {asked} held-out problems, answered greedily."
    )
    return f"{markdown(head, rows)}\n{facts}\n"


def draw(results: Sequence[Result], whole: float) -> Figure:
    """Divergence from the parent over milliseconds, a mark for each member."""
    with house():
        figure = new_figure(7.2, 4.2)
        axes = figure.add_subplot()
        for place, limited in enumerate((BY_TIME, BY_COUNT)):
            of = [r for r in results if r.limited == limited]
            size = (11, 5)[place]  # both ways may find the same member: one is seen around the other
            axes.plot([r.ms for r in of], [r.kl for r in of], ls="", marker=marker(place), ms=size,
                      color=colour(place), mec="white", label=f"searched within {limited}")  # fmt: skip
        for share in SHARES:
            axes.axvline(share * whole, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.set_xlabel("milliseconds of a token (dashed: what the pair may take)")
        axes.set_ylabel("KL from the parent, nats per token")
        axes.legend(loc="best")
        headline(
            figure,
            "The same milliseconds, found by milliseconds or by parameters",
            "three seeds and two limits of each",
        )
    return figure


def main() -> None:
    parser = arguments(__doc__, "latency", "of each member")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    asked = begin(args)
    with contextlib.redirect_stdout(sys.stderr):  # progress
        parent, table = parent_of(args.runs, args.parent_steps), table_of(args.runs)
        results = results_of(parent, table, args, asked)
    if args.picture:
        save_svg(draw(results, table.milliseconds(PARENT, PARENT.full)), args.picture)
    print(page(results, table, len(asked)), end="")


if __name__ == "__main__":
    main()
