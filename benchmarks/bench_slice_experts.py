# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting a member out of a family with experts: the rate against `cp`, and the memory, where tensors are many.

Two families with random bfloat16 weights: Nemotron-3 Nano 30B-A3B's own tensors, as many layers as fit in `--room`,
and all its 52 layers at a quarter of every width, which has as many tensors as the whole model in a sixteenth of its
bytes. Commands are timed as `bench_slice` times them: whole processes from a cold source to the disk, in turn with the
`cp` of the folder that was cut.

    python -m benchmarks.bench_slice_experts [--place DIR] [--room 15] [--rounds 3] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.bench_slice import MEMORY, TARGET, Ran, in_turn, make, rate, size
from benchmarks.output import arguments, deliver
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core import layout
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.core.manifest import Family
from nemo_elastic.plan import preset

NANO = preset("nemotron-3-nano-30b-a3b")
BLOCK = Path(__file__).resolve().parents[1] / "conf" / "elastic_30b_a3b.yaml"
#: axis -> what a member keeps of it, in shares that multiples of 64 allow
KEPT = {"hidden": 18 / 21, "experts": 5 / 8, "expert_ffn": 24 / 29, "shared_ffn": 20 / 29, "mamba_heads": 3 / 4}


def striped_as_the_30b(parent: Parent) -> Parent:
    """A parent in the stripes of the 30B's recipe."""
    return ElasticConfig.load(BLOCK).parent_shape(parent)


def family_of(parent: Parent) -> Family:
    """A parent as the 30B's recipe sorts it, and a member that is smaller on every axis."""
    striped = striped_as_the_30b(parent)
    widths: dict[str, int] = {axis: round(striped.axis(axis).size * share) for axis, share in KEPT.items()}
    return Family.of(striped, {"30b": striped.full, "small": striped.uniform(None, **widths)})


def first_layers(room: float) -> Parent:
    """As many layers of the 30B as fit so many bytes, with a member of them and its copy."""
    for layers in range(NANO.num_layers, 1, -1):
        parent = replace(NANO, pattern=NANO.pattern[:layers])
        whole, small = (2 * m.parameters for m in family_of(parent))
        if whole + 2 * small < room:
            return parent
    raise SystemExit(f"--room: {room / 1e9:.1f} GB do not hold two layers")


def quarter() -> Parent:
    """All layers at a quarter of every width."""
    narrow = {"hidden": NANO.hidden // 4, "mamba_head_dim": NANO.mamba_head_dim // 4, "vocab": NANO.vocab // 4,
              "attention_head_dim": NANO.attention_head_dim // 4, "state": NANO.state // 4,
              "expert_ffn": NANO.expert_ffn // 4, "shared_ffn": NANO.shared_ffn // 4}  # fmt: skip
    return replace(NANO, **narrow)


def measure(place: Path, parent: Parent, rounds: int) -> dict[str, float]:
    """Cut and copy in turn; figures of both."""
    family = family_of(parent)
    small = family.member("small")
    load = os.getloadavg()[0]
    make(place / "family", family)
    cuts, copies, ratio = in_turn(place, "small", rounds)
    written, read = size(place / "small"), size(place / "family")
    for name in ("family", "small"):
        shutil.rmtree(place / name)
    held = [t for t in layout.tensors(family.parent, family.parent.full) if t.number is not None]
    return {
        "parameters": parameters(family.parent, family.parent.full),
        "layers": parent.num_layers,
        "read": read,
        "written": written,
        "tensors": len(held),
        "tensor_bytes": 2 * held[0].shape[0] * held[0].shape[1],
        "member": small.parameters,
        "cut": statistics.median(r.seconds for r in cuts),
        "copy": statistics.median(r.seconds for r in copies),
        "ratio": ratio,
        "cut_processor": statistics.median(r.processor for r in cuts),
        "copy_processor": statistics.median(r.processor for r in copies),
        "anonymous": max(r.anonymous for r in cuts),
        "resident": max(r.resident for r in cuts),
        "load": load,
    }


def lines_of(figures: dict[str, float], rounds: int) -> list[str]:
    """One table."""

    def seconds(key: str) -> str:
        return rate(int(figures["written"]), [Ran(figures[key], 0, 0)])

    return [
        f"| {figures['parameters'] / 1e9:.1f}B parameters ({figures['layers']:.0f} layers, "
        f"{figures['read'] / 1e9:.1f} GB), "
        f"{figures['tensors']:,.0f} tensors of experts, {figures['tensor_bytes'] / 1e6:.1f} MB each | |",
        "|---|---:|",
        f"| cut a member of {figures['member'] / 1e9:.1f}B, {figures['written'] / 1e9:.1f} GB, median of {rounds} "
        f"| {seconds('cut')} |",
        f"| `cp` of that member, in turn | {seconds('copy')} |",
        f"| bytes per second against `cp` | {figures['ratio']:.2f} x |",
        f"| processor time of the cut | {figures['cut_processor']:.1f} s |",
        f"| processor time of `cp` | {figures['copy_processor']:.1f} s |",
        f"| peak anonymous memory | {figures['anonymous'] / 2**20:.0f} MiB |",
        f"| peak resident memory | {figures['resident'] / 2**20:.0f} MiB |",
        f"| load average of the {os.cpu_count()} cores before it began | {figures['load']:.1f} |",
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--place", type=Path, help="folder on the disk to measure; a temporary one by default")
    parser.add_argument("--room", type=float, default=15, help="GB of the disk to use, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("true", "many"), help="one of the two families")
    args = parser.parse_args()
    parents = {"true": first_layers(args.room * 1e9), "many": quarter()}
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        figures = {
            name: measure(Path(folder), parent, args.rounds)
            for name, parent in parents.items()
            if args.only in (None, name)
        }
    missed = [
        f"{name}: {f['ratio']:.2f} of the rate of cp, wanted {TARGET}"
        for name, f in figures.items()
        if f["ratio"] < TARGET
    ]
    missed += [
        f"{name}: {f['anonymous'] / 2**20:.0f} MiB of anonymous memory, wanted {MEMORY / 2**20:.0f}"
        for name, f in figures.items()
        if f["anonymous"] > MEMORY
    ]
    table = "\n\n".join("\n".join(lines_of(f, args.rounds)) for f in figures.values()) + "\n"
    deliver(args, figures, table, missed)


if __name__ == "__main__":
    main()
