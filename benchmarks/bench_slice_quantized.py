# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A 12B in low precision: making it of bfloat16, and cutting members out of it at the rate of `cp`.

Nemotron Nano V2 12B's own shapes and random weights, as many layers as `--layers` says. Commands are timed as
`bench_slice` times them: whole processes from a cold source to the disk, a cut in turn with the `cp` of its folder.

    python -m benchmarks.bench_slice_quantized [--place DIR] [--layers 20] [--rounds 3] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.bench_slice import MEMORY, TARGET, family_of, forget, in_turn, make, rate, run, size
from benchmarks.output import arguments, deliver
from nemo_elastic.core.cost import parameters

MEMBER, TO = "6b", ("w4a16", "fp8")


def measure(place: Path, layers: int, rounds: int) -> dict[str, Any]:
    """Figures of each precision."""
    family = family_of(layers)
    make(place / "bf16", family)
    out: dict[str, Any] = {}
    for to in TO:
        forget(place / "bf16")
        more = ("--layout", "compressed-tensors") if to == "fp8" else ()
        command = [sys.executable, "-m", "nemo_elastic", "quantize", str(place / "bf16"), "--to", to, *more]
        made = run([*command, "--out", str(place / "family")])
        cuts, copies, ratio = in_turn(place, MEMBER, rounds)
        out[to] = {
            "parameters": parameters(family.parent, family.parent.full),
            "member": family.member(MEMBER).parameters,
            "before": size(place / "bf16"),
            "after": size(place / "family"),
            "made": made.seconds,
            "made_anonymous": made.anonymous,
            "written": size(place / MEMBER),
            "cut": statistics.median(r.seconds for r in cuts),
            "copy": statistics.median(r.seconds for r in copies),
            "cut_rate": rate(size(place / MEMBER), cuts),
            "copy_rate": rate(size(place / MEMBER), copies),
            "ratio": ratio,
            "anonymous": max(r.anonymous for r in cuts),
        }
        for name in ("family", MEMBER):
            shutil.rmtree(place / name)
    return out


def table(figures: dict[str, Any], layers: int, rounds: int) -> str:
    """As Markdown."""
    one = next(iter(figures.values()))
    rows: dict[str, list[str]] = {}
    for f in figures.values():
        cells = {
            "`quantize` of it": f"{f['made']:.0f} s, {f['before'] / f['made'] / 1e6:.0f} MB/s",
            "peak anonymous memory of that, torch included": f"{f['made_anonymous'] / 2**20:.0f} MiB",
            "the family then": f"{f['after'] / 1e9:.1f} GB",
            f"cut the {f['member'] / 1e9:.1f}B member, median of {rounds}": f["cut_rate"],
            "`cp` of that member, in turn": f["copy_rate"],
            "bytes per second against `cp`": f"{f['ratio']:.2f} x",
            "peak anonymous memory of the cut": f"{f['anonymous'] / 2**20:.0f} MiB",
        }
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    head = f"{one['parameters'] / 1e9:.1f}B parameters ({layers} layers, {one['before'] / 1e9:.1f} GB in bfloat16)"
    lines = [f"| {head} | {' | '.join(f'`{to}`' for to in figures)} |", "|---|" + "---:|" * len(figures)]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())]) + "\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--place", type=Path, help="folder on the disk to measure; a temporary one by default")
    parser.add_argument("--layers", type=int, default=20, help="layers of the family, at most 62")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        figures = measure(Path(folder), args.layers, args.rounds)
    missed = [
        f"{to}: {f['ratio']:.2f} of the rate of cp, wanted {TARGET}"
        for to, f in figures.items()
        if f["ratio"] < TARGET
    ]
    missed += [f"{to}: {f['anonymous'] / 2**20:.0f} MiB of anonymous memory, wanted {MEMORY / 2**20:.0f}"
               for to, f in figures.items() if f["anonymous"] > MEMORY]  # fmt: skip
    deliver(args, figures, table(figures, args.layers, args.rounds), missed)


if __name__ == "__main__":
    main()
