# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of members as a table of `nemo-elastic profile` predicts them, against measured ones.

A parent of about 340M parameters, where weights dominate on a CPU. The table has the ends of each axis and a width
between; the members have widths between those, other depths, and every axis cut at once: none of them was measured for
the table. Runs in our runtime, and in vLLM where `--vllm` names the python of an environment with it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.output import arguments, deliver, markdown
from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.latency import PHASES, Workload
from nemo_elastic.profile.engines import Engine
from nemo_elastic.profile.measure import Stop, difference, empty_table, measure, widths_of

PARENT = Parent("M-M-M*-M-M-M*-M-", 1536, 32768, 6144, 48, 64, 8, 64, 4, 24, 8, 64, ffn_stripes=8)
AXES = {
    "hidden": tuple(range(1536, 767, -128)),
    "ffn": tuple(range(6144, 3071, -512)),
    "mamba_heads": (48, 40, 32, 24),
    "attention_heads": (24, 16),
    "depth": tuple(range(16, 9, -1)),
}
WORK, ENGINES = Workload(1, 64, 17, "fp32"), ("runtime", "vllm")
MEMBERS, SEED = 8, 0
WHAT = ("predicted", "measured", "error")
#: of the relative error over members and phases
MEDIAN, WORST = 0.05, 0.12


def axes() -> dict[str, AxisConfig]:
    full = {a: PARENT.num_layers if a == "depth" else PARENT.axis(a).size for a in PARENT.axes}
    return {a: AxisConfig(AXES.get(a, (n,))) for a, n in full.items()}


def left_out() -> list[Subnet]:
    """Members of which no width of any axis is in the table, and what each axis costs at random depths."""
    random, known = np.random.default_rng(SEED), widths_of(PARENT, axes(), 3)
    out: list[Subnet] = []
    while len(out) < MEMBERS:
        chosen = {}
        for axis, choices in AXES.items():
            measured = {w for grid in known.values() for w in grid.get(axis, ())}
            free = [c for c in choices if c not in measured] or list(choices)
            chosen[axis] = int(random.choice(free))
        keep = sorted(random.choice(PARENT.num_layers, chosen.pop("depth"), replace=False).tolist())
        member = PARENT.uniform(keep=keep, **chosen)
        if len({layer.type for layer in member.layers}) == 3 and member not in out:  # vLLM wants a hybrid
            out.append(member)
    return out


def run(engine: Engine, stop: Stop, place: Path) -> dict[str, Any]:
    """The table, and members measured as they are, before it and after it: a machine's speed changes in an hour."""
    widths, began = widths_of(PARENT, axes(), 3), time.monotonic()
    table: dict[str, Any] = empty_table(PARENT, widths, "measured", engine.name, engine.work)
    members = [PARENT.full, *left_out()]

    def show(done: int, total: int, what: str) -> None:
        print(f"{what}, {done}/{total}, {time.monotonic() - began:.0f} s", flush=True)

    def visit() -> np.ndarray:
        """Milliseconds and half of their intervals, float64 [members, phases, 2]."""
        out = []
        for member in members:
            model = engine.load(PARENT, member)
            try:
                taken = difference(None, model, engine.work, stop)
            finally:
                model.close()
            out.append([[1e3 * taken.seconds[p], 1e3 * taken.bounds[p]] for p in PHASES])
            show(len(out), len(members), f"{engine.name}: {parameters(PARENT, member) / 1e6:.0f}M, {out[-1]}")
        return np.array(out)

    before, began = visit(), time.monotonic()
    read = measure(place / f"{engine.name}.json", table, PARENT, widths, engine, stop, show)
    took, after, rows = time.monotonic() - began, visit(), []
    for i, member in enumerate(members):
        seconds, each = read.seconds(PARENT, member), np.stack([before[i], after[i]])  # [visits, phases, 2]
        real = each[..., 0].mean(0)
        half = (abs(each[..., 0] - real) + each[..., 1]).max(0)
        row = {"parameters": parameters(PARENT, member), "layers": len(member.layers), "hidden": member.hidden}
        rows.append(row | {p: [1e3 * seconds[p], real[k], half[k]] for k, p in enumerate(PHASES)})
        print(engine.name, rows[-1], flush=True)
    return {
        "seconds": took,
        "entries": sum(len(grid[PHASES[0]]) for grid in read["grids"].values()),
        "versions": read["versions"],
        "hardware": read["hardware"],
        "rows": rows,
    }


def errors(rows: list[dict[str, Any]]) -> np.ndarray:
    """|predicted / measured - 1|, float64 [members, phases]."""
    return np.array([[abs(row[p][0] / row[p][1] - 1) for p in PHASES] for row in rows])


def table(figures: dict[str, Any]) -> str:
    """As Markdown."""
    heads = [f"{p}, {what}" if what == "predicted" else what for p in PHASES for what in WHAT]
    cells, targets = [], []
    for engine, part in figures.items():
        for i, row in enumerate(part["rows"]):
            own = [engine, f"{row['parameters'] / 1e6:.0f}M{' (the parent)' if i == 0 else ''}"]
            own += [str(row["layers"]), str(row["hidden"])]
            for p in PHASES:
                guess, real, half = row[p]
                bound = f" ± {half:.1f}" if np.isfinite(half) else ""  # unknown of less than six rounds
                own += [f"{guess:.1f} ms", f"{real:.1f}{bound} ms", f"{guess / real - 1:+.1%}"]
            cells.append(own)
        off = errors(part["rows"])
        name = ", ".join(f"{k} {v}" for k, v in part["versions"].items() if k in (engine, "torch"))
        targets.append([f"{engine} ({name})", str(part["entries"]), f"{part['seconds'] / 60:.0f} min",
                        f"{np.median(off):.1%}", f"{off.max():.1%}", f"{MEDIAN:.0%}, {WORST:.0%}"])  # fmt: skip
    first = markdown(["engine", "parameters", "layers", "hidden", *heads], cells)
    return first + "\n" + markdown(["engine", "entries", "made in", "median error", "worst", "target"], targets)


def missed(figures: dict[str, Any]) -> list[str]:
    """Targets that were not met."""
    out = []
    for engine, part in figures.items():
        off = errors(part["rows"])
        out += [f"{engine}: median {np.median(off):.1%}"] if not np.median(off) <= MEDIAN else []
        out += [f"{engine}: worst {off.max():.1%}"] if not off.max() <= WORST else []
    return out


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--vllm", type=Path, help="python of an environment with vLLM; without, the runtime alone")
    parser.add_argument("--seconds", type=float, default=15.0, help="after which no round of an entry begins")
    args = parser.parse_args()
    stop, figures = Stop(0.01, (6, 40), args.seconds), {}
    with tempfile.TemporaryDirectory() as place:
        for name, python in zip(ENGINES, (Path(sys.executable), args.vllm), strict=True):
            if python is None:
                continue
            engine = Engine(name, WORK, "cpu", str(python.absolute()))
            figures[name] = run(engine, stop, Path(place))
    deliver(args, figures, table(figures), missed(figures))


if __name__ == "__main__":
    main()
